"""Training: exact resuming, stages, the weights of each, precision, several processes, what is refused."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image
from rich.console import Console
from torch import nn

from benchmarks.restoration import layouts, models, recipes, runs, training
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.processes import Group
from benchmarks.restoration.progress import Progress
from benchmarks.restoration.recipes import Stage
from benchmarks.restoration.training import Average, Config, Execution, Interrupted, Training, sample_losses

STEPS = 14
TASKS = layouts.SETTINGS["multiple"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The layout of the setting 'multiple': two pictures of 24 x 24, each task with an error of its own."""
    root = tmp_path_factory.mktemp("multiple")
    generator = np.random.default_rng(0)
    for clean, degraded in (("GT_sub300", "{}_sub300"), ("CL_test/original/GT", "CL_test/single_indis/{}")):
        for number in range(2):
            picture = generator.integers(64, 192, (24, 24, 3), dtype=np.uint8)
            for error, name in enumerate([clean, *map(degraded.format, TASKS)]):
                (root / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture + np.uint8(5 * error)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def config():
    recipe = replace(recipes.choose("srresnet-mixed"), average=0.9)
    return Config("multiple", "srresnet", recipe, STEPS, batch=4, patch=16, scale="tiny")


def go(config, folder, output, **execution):
    return training.train(config, folder, output, Execution(**execution), Progress())


def state(output):
    """The checkpoint and the history of a run."""
    checkpoint = runs.read_checkpoint(output, torch.device("cpu"))
    return checkpoint, runs.load(output).history()


def assert_same(one, other, place=""):
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, place
        assert torch.equal(one.nan_to_num(99), other.nan_to_num(99)), place
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, place)
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}.{index}")
    else:
        assert one == other, place


def stop_before(monkeypatch, step, error):
    """Let a training end before a step as a process does that is killed."""
    original = Training.train

    def train(self, batch):
        if self.step == step:
            monkeypatch.setattr(Training, "train", original)
            raise error
        original(self, batch)

    monkeypatch.setattr(Training, "train", train)


def test_a_run_leaves_its_files(config, folder, tmp_path):
    result = go(config, folder, tmp_path / "run")
    run = runs.load(tmp_path / "run")
    assert run.config == result
    assert result["seconds"] > 0
    assert runs.finished(tmp_path / "run")
    expected = {"setting": "multiple", "model": "srresnet", "scale": "tiny", "weighting": "art", "interval": 1}
    expected |= {"schedule": "mixed", "seed": 0, "steps": STEPS, "batch": 4, "patch": 16, "recipe": "srresnet-mixed"}
    expected |= {"tasks": list(TASKS), "loss": "l1", "finished": True, "skipped": 0, "precision": "fp32"}
    assert expected.items() <= run.config.items()
    assert run.config["parameters"] == sum(p.numel() for p in models.create("srresnet", "tiny").parameters())
    history = run.history()
    assert history["steps"].tolist() == list(range(1, STEPS + 1))
    losses, weights = history["losses"], history["weights"]
    absent = np.isnan(losses)
    assert absent.sum(1).min() >= 3  # batches of four, seven tasks
    assert (weights[absent] == 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert np.isfinite(history["psnr"]).all()


def test_the_loss_of_a_task_is_the_mean_absolute_error_of_its_samples(config, folder, tmp_path):
    go(config, folder, tmp_path / "run")
    first = runs.load(tmp_path / "run").history()["losses"][:3]
    errors = np.array([5 * (task + 1) / 255 for task in range(len(TASKS))])  # the network is still near the identity
    known = ~np.isnan(first)
    np.testing.assert_allclose(first[known], np.broadcast_to(errors, first.shape)[known], atol=0.02)


def test_the_network_improves(config, folder, tmp_path):
    recipe = replace(recipes.choose("short"), sampler={"default": {"kind": "balanced"}})
    go(replace(config, model="global-srresnet", recipe=recipe, batch=7, steps=60), folder, tmp_path / "run")
    losses = runs.load(tmp_path / "run").history()["losses"]
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()


@pytest.mark.parametrize("stop", [5, 9])
@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "sequential"},
        {"interval": 3},
        {"weighting": "rlw", "precision": "bf16"},
        {"model": "uformer-t", "steps": 10},
        {"model": "airnet", "recipe": recipes.choose("airnet"), "steps": 10, "schedule": "sequential"},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_a_run_that_ends_anywhere_goes_on_to_the_same_result(config, folder, tmp_path, monkeypatch, change, stop):
    config = replace(config, **change)
    go(config, folder, tmp_path / "whole")
    stop_before(monkeypatch, stop, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        go(config, folder, tmp_path / "parts", save_every=2)
    assert state(tmp_path / "parts")[0]["step"] == stop - 1
    assert not runs.finished(tmp_path / "parts")
    go(config, folder, tmp_path / "parts", save_every=2)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "parts"))


def test_a_history_that_is_ahead_of_the_checkpoint_is_cut(config, folder, tmp_path, monkeypatch):
    go(config, folder, tmp_path / "whole")
    write = runs.write

    def die_at_the_second_checkpoint(path, save):
        if path.name == runs.CHECKPOINT and path.exists():
            raise KeyboardInterrupt
        write(path, save)

    monkeypatch.setattr(runs, "write", die_at_the_second_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        go(config, folder, tmp_path / "parts", save_every=4)
    checkpoint, history = state(tmp_path / "parts")
    assert (checkpoint["step"], len(history["steps"])) == (4, 8)
    monkeypatch.setattr(runs, "write", write)
    go(config, folder, tmp_path / "parts")
    assert_same(state(tmp_path / "whole"), state(tmp_path / "parts"))


def test_a_run_that_ends_before_it_is_called_finished_is_finished(config, folder, tmp_path):
    result = go(config, folder, tmp_path)
    before = state(tmp_path)
    runs.write_json(tmp_path / runs.CONFIG, {**result, "finished": False})
    assert go(config, folder, tmp_path)["finished"]
    assert_same(before, state(tmp_path))


def arguments(folder, output, **options):
    options = {"setting": "multiple", "model": "srresnet", "scale": "tiny", "patch": 16} | options
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", "--data", str(folder), "--output", str(output), *given]


def test_a_killed_process_goes_on_to_the_same_result(folder, tmp_path):
    """The process is killed at a random moment after its first checkpoint."""
    options = {"steps": 200, "schedule": "sequential"}
    assert main(arguments(folder, tmp_path / "whole", **options)) == 0
    command = [sys.executable, "-m", "benchmarks.restoration", *arguments(folder, tmp_path / "parts", **options)]
    process = subprocess.Popen([*command, "--save-every", "1"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while process.poll() is None and not (tmp_path / "parts" / runs.CHECKPOINT).exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 0 < state(tmp_path / "parts")[0]["step"] < 200
    assert main(arguments(folder, tmp_path / "parts", **options)) == 0
    assert_same(state(tmp_path / "whole"), state(tmp_path / "parts"))


def test_an_interrupt_saves_and_says_how_to_go_on(config, folder, tmp_path, monkeypatch, capsys):
    original = Training.train

    def interrupted(self, batch):
        original(self, batch)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "train", interrupted)
    given = arguments(folder, tmp_path / "run", steps=STEPS)
    assert main(given) == 130
    assert state(tmp_path / "run")[0]["step"] == 3
    assert "interrupted after step 3 of 14; the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(Training, "train", original)
    assert main(given) == 0
    assert "going on after step 3" in capsys.readouterr().out
    assert main(given) == 0
    assert "is finished" in capsys.readouterr().out


def test_another_run_is_refused_with_all_that_differs(config, folder, tmp_path):
    go(config, folder, tmp_path)
    with pytest.raises(ValueError, match="seed is 0 there and 1 here; give another folder"):
        go(replace(config, seed=1), folder, tmp_path)
    with pytest.raises(ValueError, match="steps is 14 there and 28 here"):
        go(replace(config, steps=28), folder, tmp_path)
    with pytest.raises(ValueError, match=r"batch is 4 there and 8 here.*weighting is 'art' there and 'equal' here"):
        go(replace(config, weighting="equal", batch=8), folder, tmp_path)
    with pytest.raises(ValueError, match=r"average is 0\.9 there and 0\.5 here"):
        go(replace(config, recipe=replace(config.recipe, average=0.5)), folder, tmp_path)


def test_other_data_is_refused(config, folder, tmp_path):
    copy = tmp_path / "copy"
    for file in folder.rglob("*.png"):
        (copy / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.relative_to(folder)).write_bytes(file.read_bytes())
    go(config, folder, tmp_path / "run")
    go(config, copy, tmp_path / "run")  # the same data, elsewhere
    Image.new("RGB", (24, 24)).save(copy / "sr_sub300" / "0.png")
    with pytest.raises(ValueError, match=r"data\.digest is"):
        go(config, copy, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "arts"}, "weighting 'arts' is not known"),
        ({"recipe": "long"}, "recipe 'long' is not known"),
        ({"recipe": "airnet"}, "contrastive loss, which model 'srresnet' does not have"),
        ({"setting": "rain-haze-snow"}, "allweather"),
        ({"device": "cuda:7"}, "device is 'cuda:7', which is not here"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(folder, tmp_path, capsys, options, message):
    assert main(arguments(folder, tmp_path / "run", **options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_sequential_runs_of_two_weightings_differ_in_their_last_stage_alone(config, folder, tmp_path):
    art, equal = (replace(config, schedule="sequential", weighting=w, steps=40) for w in ("art", "equal"))
    spans = [go(c, folder, tmp_path / c.weighting)["spans"] for c in (art, equal)]
    assert spans[0] == spans[1]
    begin = spans[0][-1]["start"]
    one, other = (runs.load(tmp_path / name).history() for name in ("art", "equal"))
    np.testing.assert_array_equal(one["losses"][: begin + 1], other["losses"][: begin + 1])
    for number, span in enumerate(spans[0], start=1):
        known = ~np.isnan(one["losses"][span["start"] : span["end"]])
        assert set(np.flatnonzero(known.any(0))) <= {TASKS.index(task) for task in span["tasks"]}
        assert len(span["tasks"]) == number
    for history, same in ((one, False), (other, True)):
        weights, losses = history["weights"][begin:], history["losses"][begin:]
        equal_weights = ~np.isnan(losses) / (~np.isnan(losses)).sum(1, keepdims=True)
        assert np.allclose(weights, equal_weights) is same


def test_a_stage_begins_with_a_new_optimizer(config, folder, tmp_path):
    go(replace(config, schedule="sequential", steps=10), folder, tmp_path)
    (steps,) = {int(value["step"]) for value in state(tmp_path)[0]["optimizer"]["state"].values()}
    assert steps == 4  # the last stage takes four parts of ten


def test_networks_start_from_the_seed_whatever_the_weighting(config):
    group = Group(0, 1, torch.device("cpu"))

    def start(**change):
        return Training(replace(config, **change), group, Execution()).network.state_dict()

    assert_same(start(), start(weighting="equal", interval=3, steps=99, schedule="sequential"))
    assert not torch.equal(start()["conv_first.weight"], start(seed=1)["conv_first.weight"])


class Contrastive(nn.Module):
    """Restores by a factor, and compares mean colours."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, key=None, restore=True):
        logits = None if key is None else torch.stack([(x * key).mean((1, 2, 3)), x.mean((1, 2, 3))], 1)
        if key is None:
            return self.factor * x
        return (self.factor * x, logits) if restore else logits


def test_a_sample_has_its_own_contrastive_loss():
    x, key, clean = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    rate = recipes.LearningRate("constant", 1e-3)
    network = Contrastive()
    absolute = (0.5 * x - clean).abs().mean((1, 2, 3))
    right, wrong = (x * key).mean((1, 2, 3)), x.mean((1, 2, 3))
    contrast = -(right.exp() / (right.exp() + wrong.exp())).log()

    def losses(stage, key):
        return sample_losses(network, x, clean, key, stage, training.LOSSES["l1"])

    torch.testing.assert_close(losses(Stage(1, rate), None)[0], absolute)
    torch.testing.assert_close(losses(Stage(1, rate, contrast=0.1), key)[0], absolute + 0.1 * contrast)
    values, restored = losses(Stage(1, rate, restore=False, contrast=1.0), key)
    torch.testing.assert_close(values, contrast)
    assert restored is None


def test_smooth_l1_is_quadratic_near_zero():
    x, clean = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    stage = Stage(1, recipes.LearningRate("constant", 1e-3))
    values, _ = sample_losses(nn.Identity(), x, clean, None, stage, training.LOSSES["smooth-l1"])
    torch.testing.assert_close(values, ((x - clean) ** 2 / 2).mean((1, 2, 3)))


def test_the_average_follows_the_parameters():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.5)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in (1, 2, 99):
        decay = min(0.5, (1 + step) / (10 + step))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
        network[1].num_batches_tracked += 1
        for name, value in network.state_dict().items():
            blend = value if not value.is_floating_point() else decay * expected[name] + (1 - decay) * value
            expected[name] = blend.clone()
        average.update(step)
    for name, value in average.state.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"precision": "fp16"}, {}], ids=str)
def test_low_precision_and_channels_last_train_alike(config, folder, tmp_path, change):
    config = replace(config, steps=4)
    go(config, folder, tmp_path / "plain")
    go(replace(config, **change), folder, tmp_path / "other", channels_last=True)
    (plain, one), (other, two) = state(tmp_path / "plain"), state(tmp_path / "other")
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=0.02)
    for name, value in plain["network"].items():
        assert value.dtype == other["network"][name].dtype == torch.float32
    assert ("scaler" in other) == (change.get("precision") == "fp16")


def test_a_compiled_network_is_saved_by_its_own_names(config, folder, tmp_path, monkeypatch):
    compiled = []

    def compile_(network):
        compiled.append(network)
        return nn.Sequential(network)

    monkeypatch.setattr(torch, "compile", compile_)
    go(config, folder, tmp_path, compile=True)
    assert len(compiled) == 1
    runs.load(tmp_path).network()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_steps_without_finite_gradients_are_left_out_and_counted(folder, tmp_path, monkeypatch, capsys, precision):
    original = training.sample_losses

    def faulty(model, *given):
        values, restored = original(model, *given)
        calls.append(None)
        return (values * torch.nan if len(calls) in (2, 5) else values), restored

    calls: list[None] = []
    monkeypatch.setattr(training, "sample_losses", faulty)
    assert main(arguments(folder, tmp_path, steps=8, precision=precision)) == 0
    assert "2 steps were left out" in capsys.readouterr().out
    assert runs.load(tmp_path).config["skipped"] == 2
    assert all(value.isfinite().all() for value in state(tmp_path)[0]["network"].values())


def test_test_images_are_scored_on_the_way(config, folder, tmp_path):
    recipe = replace(config.recipe, average=0.0)
    go(replace(config, recipe=recipe), folder, tmp_path / "run", validate_every=7)
    go(replace(config, recipe=recipe), folder, tmp_path / "plain")
    history = runs.load(tmp_path / "run").history()
    assert history["validation_steps"].tolist() == [7, 14]
    first = history["validation"][0]  # the network is still near the identity
    expected = [20 * np.log10(255 / (5 * (task + 1))) for task in range(len(TASKS))]
    np.testing.assert_allclose(first, expected, atol=1.5)
    assert_same(state(tmp_path / "run")[0], state(tmp_path / "plain")[0])


def test_lines_tell_losses_weights_and_time_left(config, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.restoration.progress.SECONDS", {True: 0, False: 0})
    for terminal in (False, True):
        console = Console(record=True, force_terminal=terminal, width=400, file=open(os.devnull, "w"))  # noqa: SIM115
        training.train(config, folder, tmp_path / str(terminal), Execution(), Progress(console))
        text = console.export_text()
        console.file.close()
        for word in (f"{STEPS}/{STEPS}", "images/s", "dB", *TASKS, "x0."):
            assert word in text


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_gets_losses_weights_and_psnr(config, folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    progress = Progress(Console(file=open(os.devnull, "w")))  # noqa: SIM115
    training.train(config, folder, tmp_path, Execution(tensorboard=True), progress)
    progress.console.file.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {"psnr", "learning rate", "loss/rain", "weight/rain"} <= set(tags)
    assert events.Scalars("psnr")[-1].step == STEPS


class Recording(Training):
    """Saves the network of its rank at the end."""

    def train(self, batch):
        super().train(batch)
        if self.step == self.config.steps:
            torch.save(self.network.state_dict(), Path(os.environ["NETWORKS"]) / f"{self.group.rank}.pt")


def train_on_a_rank(rank, port, config, folder, output):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["NETWORKS"] = str(output.parent)
    training.Training = Recording
    go(config, folder, output)


def test_two_processes_train_the_network_of_one(config, folder, tmp_path):
    """In a stage of equal weights and one of Art, with tasks that only one of the processes has."""
    config = replace(config, schedule="sequential", steps=10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(train_on_a_rank, (port, config, folder, tmp_path / "two"), 2, start_method="forkserver")
    go(config, folder, tmp_path / "one")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    (one, history), (two, other) = state(tmp_path / "one"), state(tmp_path / "two")
    torch.testing.assert_close(one["network"], two["network"], rtol=1e-4, atol=1e-6)
    for name in ("losses", "weights", "psnr"):
        np.testing.assert_allclose(history[name], other[name], rtol=1e-4, atol=1e-6)
    assert runs.load(tmp_path / "two").config["machine"]["processes"] == 2


def test_processes_must_share_the_batch_evenly(config, folder, tmp_path):
    with pytest.raises(ValueError, match="batch is 3"):
        training._Loop(
            replace(config, batch=3),
            Execution(),
            Group(0, 2, torch.device("cpu")),
            layouts.read("multiple", folder),
            tmp_path,
            {},
            Progress(),
        )


def test_an_interrupt_has_the_exit_status_of_its_signal():
    assert Interrupted(signal.SIGINT, 1).status == 130
    assert Interrupted(signal.SIGTERM, 1).status == 143
