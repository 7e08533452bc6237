"""The comparison, small: its statistics by hand, its cache, its control, what it leaves behind."""

from __future__ import annotations

import json
import math
from functools import partial

import pandas as pd
import pytest
from PIL import Image
from torchjd.aggregation import UPGrad

from art_optim import Art, EqualWeighting, FixedWeighting, ScaleInvariant, per_task_mean, weighting
from art_optim.weighting import registry
from benchmarks.aggregators import AGGREGATORS
from benchmarks.compare import __main__ as command
from benchmarks.compare import methods, report, runs, statistics, timing, training
from benchmarks.compare.training import Config, Data

STEPS = 5
TASKS = ["rain", "haze", "noise"]


def interrupt_after(steps, monkeypatch):
    """Let this many training steps happen, then interrupt in the middle of one."""
    done = []

    def per_task_mean_or_interrupt(*arguments):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return per_task_mean(*arguments)

    monkeypatch.setattr(training, "per_task_mean", per_task_mean_or_interrupt)
    return done


@pytest.fixture
def config(small_photographs, monkeypatch):
    """A configuration for each seed; checkpoints are frequent, and batches small enough to lack a task."""
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    return lambda seed: Config(
        "rain-haze-noise", STEPS, seed, "cpu", str(small_photographs), batch=4, patch=16, levels=1
    )


@pytest.fixture
def compare(config, tmp_path):
    def compare(names, seeds=(0, 1), jobs=1, folder="runs"):
        return runs.compare(names, [config(seed) for seed in seeds], jobs, tmp_path / folder)

    return compare


@pytest.fixture
def main(small_photographs, tmp_path, monkeypatch):
    """The command line."""
    monkeypatch.setattr(command, "Config", partial(Config, batch=4, patch=16))
    monkeypatch.setattr(timing, "SECONDS", 0)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    folders = ["--photographs", str(small_photographs), "--output", str(tmp_path / "out")]
    return lambda *arguments: command.main(
        [*folders, "--steps", str(STEPS), "--levels", "1", "--jobs", "1", *arguments]
    )


def frame(psnr, ssim=None):
    """Scores of a single task: by method, a value a seed."""
    given = {("psnr", "rain"): psnr, ("ssim", "rain"): ssim or psnr}
    columns = {key: {(m, s): v for m, of in values.items() for s, v in enumerate(of)} for key, values in given.items()}
    return pd.DataFrame(columns).rename_axis(index=["method", "seed"])


def test_interval_by_hand():
    widths = statistics.half_width(statistics.psnr(frame({"equal": [20.0, 21.0, 22.0], "art": [20.0, 20.0, 20.0]})))
    assert widths.loc["equal", "rain"] == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees of freedom, s = 1
    assert widths.loc["art", "average"] == 0


def test_one_seed_has_no_interval():
    assert statistics.half_width(statistics.psnr(frame({"equal": [20.0]}))).isna().all(axis=None)


def test_intervals_of_differing_numbers_of_seeds():
    scores = statistics.psnr(frame({"equal": [20.0, 21.0, 22.0], "art": [20.0, 21.0]}))
    assert statistics.half_width(scores).loc["art", "rain"] == pytest.approx(12.706205 / 2)  # s = 1 / sqrt(2)


def test_differences_are_paired_by_seed():
    scores = frame({"art": [21.0, 25.0, 30.0], "equal": [20.0, 24.0, 29.0]}).sample(frac=1, random_state=0)
    differences = statistics.differences(statistics.psnr(scores))
    assert (differences.loc["art"] == 1).all(axis=None)
    assert (differences.loc["equal"] == 0).all(axis=None)


def test_mean_rank_by_hand():
    psnr = {"equal": [20.0, 21.0], "art": [21.0, 21.0], "famo": [19.0, math.nan]}
    ssim = {"equal": [0.5, 0.4], "art": [0.6, 0.5], "famo": [0.7, 0.6]}
    # ranks by psnr: 2 1 3, then 1.5 1.5 3; by ssim: 3 2 1, then 3 2 1
    assert statistics.mean_rank(frame(psnr, ssim)).to_dict() == {"equal": 2.375, "art": 1.625, "famo": 2.0}


def test_the_average_is_over_the_tasks():
    of = {"rain": {"psnr": 20.0, "ssim": 0.5}, "haze": {"psnr": 23.0, "ssim": 0.7}}
    scores = statistics.scores([{"method": "equal", "config": {"seed": 3}, "scores": of}])
    assert statistics.psnr(scores).loc[("equal", 3)].to_dict() == {"rain": 20, "haze": 23, "average": 21.5}
    assert scores.loc[("equal", 3), ("ssim", "haze")] == 0.7


def test_the_table_by_hand():
    scores = frame({"equal": [20.0, 21.0, 22.0], "art": [21.0, 21.0, 24.0]})
    times = pd.DataFrame(
        [[0.99, 1.0, 1.02], [1.1, 1.234, 1.3]], index=["equal", "art"], columns=["low", "median", "high"]
    )
    lines = report.table(report.summarize(scores, times), pd.Series({"rain": 18.0, "average": 18.0})).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["method", "rain, dB", "average, dB", "difference to equal, dB", "step time", "mean rank"]
    assert cells[2:] == [
        ["art", "22.00", "22.00 ± 4.30", "+1.00 ± 2.48", "1.23 (1.10-1.30)", "1.2"],
        ["equal", "21.00", "21.00 ± 2.48", "-", "1.00 (0.99-1.02)", "1.8"],
        ["degraded input", "18.00", "18.00", "-", "-", "-"],
    ]


def test_every_method_is_compared_without_an_edit(monkeypatch):
    assert {*methods.default()} == ({*weighting.available()} - {"fixed"}) | {*AGGREGATORS} | {"mean-of:art"}
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "new": Art})
    monkeypatch.setitem(AGGREGATORS, "newer", UPGrad)
    assert {"new", "newer"} <= {*methods.default()}
    assert isinstance(methods.make("newer", seed=0).aggregator, UPGrad)


def test_weights_are_on_one_scale_and_drawn_from_the_seed():
    made = {name: methods.make(name, seed=7) for name in methods.names()}
    assert {weighting.normalize for weighting in made.values()} == {"mean"}
    assert all(repr(methods.make(name, seed=7)) == repr(made[name]) for name in made)  # a run is found again by it
    assert made["rlw"].seed == made["relobralo"].seed == made["pcgrad"].seed == 7


def test_methods_on_gradients_take_part(compare):
    runs = compare(["equal", "gradnorm", "upgrad", "mean-of:upgrad"], seeds=[0])
    assert len({tuple(run["mean_weights"]) for run in runs[:3]}) == 3
    assert runs[3]["weights"] == runs[2]["mean_weights"]


def test_an_interrupted_run_goes_on_to_the_same_result(compare, tmp_path, monkeypatch):
    names = ["equal", "art", "mean-of:art"]
    straight = compare(names, folder="straight")

    for steps in (3, STEPS, 3 * STEPS):  # in the first run, in the second, and in the first of the controls
        with monkeypatch.context() as patch:
            interrupt_after(steps, patch)
            with pytest.raises(KeyboardInterrupt):
                compare(names)
    assert len([*(tmp_path / "runs").glob("*.pt")]) == 1
    done = interrupt_after(1000, monkeypatch)
    assert compare(names) == straight
    assert len(done) < 2 * STEPS
    files = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("straight", "runs")]
    assert files[0] == files[1]
    assert {name.rpartition(".")[2] for name in files[0]} == {"json"}


def test_processes_find_what_one_process_finds(compare):
    names = ["equal", "rlw", "mean-of:rlw"]
    assert compare(names, jobs=2, folder="two") == compare(names, jobs=1, folder="one")


def test_finished_runs_are_reused(compare, monkeypatch):
    first = compare(["equal", "art"])
    done = interrupt_after(1000, monkeypatch)
    more = compare(["equal", "mean-of:art", "art"], seeds=(0, 1, 2))
    assert len(done) == (2 + 3) * STEPS  # equal and art of the new seed, the control of all
    assert [run for run in more if run in first] == first


def test_another_configuration_is_another_run(compare, config, tmp_path, monkeypatch):
    compare(["equal"], seeds=[0])
    done = interrupt_after(1000, monkeypatch)
    longer = Config(**{**vars(config(0)), "steps": STEPS + 1})
    runs.compare(["equal"], [longer], jobs=1, folder=tmp_path / "runs")
    assert len(done) == STEPS + 1
    monkeypatch.setitem(registry._REGISTRY, "equal", ScaleInvariant)
    compare(["equal"], seeds=[0])
    assert len(done) == 2 * STEPS + 1


def test_the_control_has_the_mean_weights_of_the_other_run(compare, config, tmp_path):
    control, of_art = compare(["mean-of:art", "art"], seeds=[1])
    data = Data(config(1))
    path = tmp_path / "checkpoint.pt"
    history = training.train(Art(normalize="mean"), config(1), data.patches, path)["history"]
    means = []
    for losses, weights in history.permute(2, 1, 0):
        there = [weight for loss, weight in zip(losses.tolist(), weights.tolist(), strict=True) if not math.isnan(loss)]
        means.append(sum(there) / len(there))
    assert history[:, 0].isnan().any()  # a task was absent from some step
    assert control["weights"] == pytest.approx(means, rel=1e-6)
    assert control["weights"] == of_art["mean_weights"]

    path.unlink()
    checkpoint = training.train(FixedWeighting(control["weights"], normalize="mean"), config(1), data.patches, path)
    assert control["scores"] == training.score(training.restore(checkpoint, data.images, "cpu"), data.images)
    assert control["scores"] != of_art["scores"]


def test_step_times_are_relative_to_the_second_turn_of_equal_weighting(config, monkeypatch):
    times = pd.DataFrame({"equal": [1.0, 3.0, 5.0], "art": [3.0, 3.0, 9.0], "equal again": [2.0, 1.0, 2.0]})
    monkeypatch.setattr(timing, "rounds", lambda steps, *_: times[[*steps]])
    ratios = timing.step_times({"equal": EqualWeighting(), "art": Art()}, config(0), Data(config(0)))
    assert ratios.loc["art"].to_dict() == {"low": 2.25, "median": 3.0, "high": 3.75}
    assert ratios.loc["equal"].to_dict() == {"low": 1.5, "median": 2.5, "high": 2.75}


def test_step_times_with_the_network(config, monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0)
    times = timing.step_times({name: methods.make(name, 0) for name in ("equal", "famo")}, config(0), Data(config(0)))
    assert [*times.index] == ["equal", "famo"]
    assert (times > 0).all(axis=None)
    assert (times["low"] <= times["high"]).all()


def test_it_leaves_a_table_results_and_a_picture(main, tmp_path, capsys):
    assert main("--methods", "mean-of:rlw", "famo", "--seeds", "0", "2") == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["command"].startswith("python -m benchmarks.compare --photographs ")
    assert results["seeds"] == [0, 2]
    assert results["machine"]["threads"] == 1
    assert results["config"]["steps"] == STEPS
    compared = ["equal", "mean-of:rlw", "famo"]
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [(m, s) for m in compared for s in (0, 2)]
    for run in results["runs"]:
        assert [*run["scores"]] == [*run["mean_weights"]] == results["tasks"] == TASKS
    by_name = {row["method"]: row for row in results["table"]}
    psnr = [sum(run["scores"][t]["psnr"] for t in TASKS) / 3 for run in results["runs"] if run["method"] == "famo"]
    assert by_name["famo"]["average"] == pytest.approx(sum(psnr) / 2)

    table = (tmp_path / "out/table.md").read_text()
    assert table in capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert rows == [*by_name, "degraded input"]
    assert "over 2 seed(s): 0, 2." in table
    assert "among these 3: equal, famo, mean-of:rlw." in table
    with Image.open(tmp_path / "out/comparison.png") as picture:
        assert min(picture.size) > 100


def test_equal_weighting_with_one_seed(main, tmp_path):
    assert main("--methods", "equal", "--seeds", "4") == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())["table"]
    assert row["average_interval"] is None
    assert "One seed has no interval" in (tmp_path / "out/table.md").read_text()


def test_an_interrupt_says_how_to_go_on(main, monkeypatch, capsys):
    interrupt_after(2, monkeypatch)
    assert main("--methods", "equal") == 130
    assert "the same command goes on" in capsys.readouterr().out


def test_quick_is_a_default_that_gives_way(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(command, "compare", lambda *arguments: given.append(arguments) or {})
    command.main(["--quick", "--output", str(tmp_path)])
    command.main(["--methods", "art", "--quick", "--seeds", "5", "--output", str(tmp_path)])
    (names, configs, *_), (fewer, one, *_) = given
    assert names == command.QUICK["methods"]
    assert [config.seed for config in configs] == [0, 1, 2]
    assert configs[0].steps == one[0].steps == command.QUICK["steps"]
    assert fewer == ["equal", "art"]
    assert [config.seed for config in one] == [5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "nothing"], "method 'nothing' is not known; choose from art, "),
        (["--methods", "fixed"], "method 'fixed' is not known"),
        (["--methods", "mean-of:fixed"], "method 'mean-of:fixed' is not known"),
        (["--methods", "mean-of:mean-of:art"], "or put mean-of: before one of them"),
        (["--steps", "0"], "--steps is 0; give a whole number, at least 1"),
        (["--levels", "-1"], "--levels is -1; give a whole number, at least 1"),
        (["--jobs", "0"], "--jobs is 0; give a whole number, at least 1"),
        (["--seeds", "1", "-2"], "--seeds has -2; give whole numbers, at least 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(main, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(*arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
