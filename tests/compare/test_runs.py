"""Runs of a comparison: made once, resumed exactly, found again by all that they depend on."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.compare import identity, runs
from benchmarks.compare.runs import complete
from benchmarks.compare.training import Run
from benchmarks.methods import Method
from benchmarks.problems import create
from benchmarks.restoration.photographs import Photograph

METHODS = ("equal", "art@3", "dwa", "gradnorm", "upgrad", "torchjd.UW", "torchjd.FAMO", "authors", "pooled")
STEPS = 6


def run(method="art", seed=0, problem="own:TwoCurves", **other):
    return Run(problem, method, seed, STEPS, 1e-2, **other)


def same(first, second):
    """Whether records agree, the time aside."""
    return [dict(of, seconds=0) for of in first.values()] == [dict(of, seconds=0) for of in second.values()]


def make(wanted, folder, jobs=1, backend="loky"):
    records = complete(wanted, folder, jobs, backend)
    assert not [record["error"] for record in records.values() if "error" in record]
    return records


@pytest.mark.parametrize("last", [1, STEPS - 1, STEPS + 2])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, steps, last):
    wanted = [run(method, seed) for method in METHODS for seed in (0, 1)]
    straight = make(wanted, tmp_path / "straight")
    for begin in range(0, len(wanted), 2):
        steps.clear()
        steps.last = last
        with pytest.raises(KeyboardInterrupt):
            make(wanted[begin : begin + 2], tmp_path / "runs")
    steps.last = None
    assert same(make(wanted, tmp_path / "runs"), straight)
    assert {path.suffix for path in (tmp_path / "runs").iterdir()} == {".json"}


def test_a_saved_run_repeats_no_step(tmp_path, steps):
    steps.last = STEPS - 2
    with pytest.raises(KeyboardInterrupt):
        make([run()], tmp_path)
    steps.last = None
    make([run()], tmp_path)
    make([run()], tmp_path)
    assert len(steps) == STEPS


def test_processes_find_what_one_process_finds(tmp_path):
    wanted = [run(method) for method in ("rlw", "art", "pooled", "torchjd.Random")]
    assert same(make(wanted, tmp_path / "two", jobs=2), make(wanted, tmp_path / "one", jobs=1))


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_finds_what_one_process_finds(tmp_path):
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    wanted = [run("art", seed) for seed in range(3)]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        dask.config.set(scheduler_address=cluster.scheduler_address),
    ):
        assert same(make(wanted, tmp_path / "dask", backend="dask"), make(wanted, tmp_path / "one"))


def test_a_run_that_fails_does_not_end_the_others(tmp_path, steps):
    records = complete([run("torchjd.UW", problem="synthetic-one-task"), run()], tmp_path, 1, "loky")
    failed, good = records.values()
    assert failed["error"].startswith("ValueError: a task is absent from a step; a scalarizer wants")
    assert "metrics" in good
    assert len([*tmp_path.glob("*.json")]) == 1
    assert "error" in complete([run("torchjd.UW", problem="synthetic-one-task")], tmp_path, 1, "loky").popitem()[1]


def test_what_is_not_finite_is_none_in_json(tmp_path):
    record = make([Run("own:TwoCurves", "equal", 0, STEPS, 1e30)], tmp_path).popitem()[1]
    assert record["metrics"]["test"]["error"] is None
    assert runs.finite({"a": math.inf, "b": 1.0}) == {"a": None, "b": 1.0}
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == record


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"method": "equal"}, {"task": "sine"}, {"method": "fixed-at:art", "weights": (0.3, 0.7)}]
)
def test_another_configuration_is_another_run(tmp_path, steps, other):
    make([run()], tmp_path)
    make([run(**other)], tmp_path)
    assert len(steps) == 2 * STEPS


def test_replacing_a_file_trains_what_depends_on_it_and_nothing_else(tmp_path, own, steps):
    wanted = [run(problem=f"own:{name}") for name in ("OfA", "OfB", "TwoCurves")]
    before = make(wanted, tmp_path / "runs")
    (own / "A").write_text("2")
    after = make(wanted, tmp_path / "runs")
    assert len(steps) == 4 * STEPS
    assert [before[of]["metrics"] == after[of]["metrics"] for of in wanted] == [False, True, True]
    assert before == make(wanted, tmp_path / "runs") | {wanted[0]: before[wanted[0]]}
    (own / "A").write_text("1")
    assert make(wanted, tmp_path / "runs") == before
    assert len(steps) == 4 * STEPS


def test_a_photograph_that_is_replaced_is_noticed(small_photographs):
    text = f"restoration:folder={small_photographs}"
    before = identity.contents(create(text).data())
    first = next(small_photographs.iterdir())
    picture = torch.zeros(3, 40, 48, dtype=torch.uint8)
    assert before == identity.contents(create(text).data())
    from PIL import Image

    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(first)
    assert before != identity.contents(create(text).data())
    assert isinstance(create(text).photographs["test"][0], Photograph)


def version(method, text="own:TwoCurves"):
    return identity.version(create(text), Method.parse(method), "")


def test_the_formula_of_a_method_is_part_of_its_identity(monkeypatch):
    methods = ("equal", "art", "dwa", "upgrad", "torchjd.UW", "art-variant")
    before = {method: version(method) for method in methods}
    assert len({*before.values()}) == len(methods)
    formula = identity._formula
    for module, changed in {
        "art_optim.weighting.art": {"art"},
        "art_optim.weighting.dwa": {"dwa"},
        "art_optim.gradients.aggregation": {"upgrad"},
        "benchmarks.variants": {"art-variant"},
        "art_optim.optimizer": {*methods},
        "benchmarks.compare.training": {*methods},
        "own": {*methods},
        "benchmarks.compare.report": set(),
    }.items():
        monkeypatch.setattr(
            identity, "_formula", lambda of, name=module: formula(of) + ("changed" if of.__name__ == name else "")
        )
        after = {method: version(method) for method in methods}
        assert {method for method in methods if after[method] != before[method]} == changed, module


def test_comments_and_docstrings_are_no_formula(tmp_path, monkeypatch):
    import importlib

    texts = ['"""Doc."""\nx = 1  # one\n', "x = 1\n", "x = 2\n"]
    found = []
    for index, text in enumerate(texts):
        (tmp_path / f"formula_{index}.py").write_text(text)
        module = importlib.import_module(f"formula_{index}")
        module.__name__ = "formula"
        found.append(identity._formula(module))
    assert found[0] == found[1] != found[2]


def test_contents_are_those_of_files_and_their_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("1")
    found = [identity.contents([tmp_path / "a"])]
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    found.append(identity.contents([tmp_path / "a"]))
    (tmp_path / "a/y").write_text("2")
    found.append(identity.contents([tmp_path / "a"]))
    found += [identity.contents([torch.zeros(of)]) for of in ((2, 3), (3, 2))] + [
        identity.contents([torch.zeros(6).int()])
    ]
    assert len({*found}) == len(found)


def test_a_control_has_the_average_of_the_weights_that_a_task_had_when_it_was_there(tmp_path):
    text = "synthetic-one-task:num_tasks=2"
    record = make([run("equal", problem=text)], tmp_path).popitem()[1]
    assert record["mean_weights"] == {"task 0": 1.0, "task 1": 1.0}
    losses = record["curves"]["losses"]
    assert sorted(value is None for value in (*losses["task 0"], *losses["task 1"])) == [False] * STEPS + [True] * STEPS


def test_a_task_alone_has_weight_one_and_skips_steps_without_it(tmp_path, steps):
    text = "synthetic-one-task:num_tasks=2"
    record = make([run("equal", problem=text, task="task 1")], tmp_path).popitem()[1]
    assert record["mean_weights"] == {"task 1": 1.0}
    assert len(steps) == sum(value is not None for value in record["curves"]["losses"]["task 1"]) < STEPS
