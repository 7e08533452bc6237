"""The demo, small: what it writes, and that an interrupted run goes on to the same result."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from PIL import Image

from art_optim import per_task_mean
from benchmarks.restoration import training
from examples import restoration

from .test_optimizer import identical


@pytest.fixture
def command(tmp_path, monkeypatch, small_photographs):
    """The command line on four small photographs; its network, batches and checkpoints are small, too."""
    small = ["--scale", "tiny", "--batch", "4", "--patch", "16", "--save-every", "3"]
    monkeypatch.setattr(restoration, "TRAIN", [*restoration.TRAIN, *small])
    monkeypatch.setattr(restoration, "PREPARE", ["--size", "32", "--jobs", "1"])

    def run(output, *arguments):
        return restoration.main(
            ["--photographs", str(small_photographs), "--output", str(tmp_path / output), *arguments]
        )

    return run


@pytest.mark.parametrize("setting", ["rain-haze-noise", "multiple"])
def test_it_leaves_a_table_results_and_pictures(command, tmp_path, capsys, setting):
    assert command("out", "--steps", "4", "--setting", setting) == 0
    output = tmp_path / "out"
    results = json.loads((output / "results.json").read_text())
    tasks = results["runs"]["art"]["tasks"]
    assert set(results["scores"]) == {"degraded input", "equal", "art"}
    assert not set(results["photographs"]["train"]) & set(results["photographs"]["test"])
    for scores in results["scores"].values():
        assert list(scores) == tasks
        assert all(5 < score["psnr"] < 60 and 0 < score["ssim"] <= 1 for score in scores.values())
    for weights in results["mean_weights"].values():
        assert list(weights) == tasks
        assert sum(weights.values()) == pytest.approx(1)
    table = (output / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [*tasks, "average"]
    for name in ("weights.png", "restored.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 200


def interrupt_after(steps, monkeypatch):
    """Let this many training steps happen, then send the interrupt of a terminal; return the steps' list."""
    done = []

    def per_task_mean_with_interrupt(*arguments):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return per_task_mean(*arguments)

    monkeypatch.setattr(training, "per_task_mean", per_task_mean_with_interrupt)
    return done


def test_an_interrupted_run_goes_on_to_the_same_result(command, tmp_path, monkeypatch, capsys):
    assert command("straight", "--steps", "8") == 0

    interrupt_after(4, monkeypatch)  # of equal
    assert command("resumed", "--steps", "8") == 130
    assert "the same command goes on" in capsys.readouterr().out
    interrupt_after(4 + 5, monkeypatch)  # the other 4 of equal, and 5 of art
    assert command("resumed", "--steps", "8") == 130
    done = interrupt_after(1000, monkeypatch)
    assert command("resumed", "--steps", "8") == 0
    assert len(done) == 3

    for run in ("equal", "art"):
        straight, resumed = (
            torch.load(tmp_path / folder / run / "checkpoint.pt", weights_only=True)
            for folder in ("straight", "resumed")
        )
        assert identical(straight["network"], resumed["network"])
        assert identical(straight["optimizer"], resumed["optimizer"])
    tables = [(tmp_path / folder / "table.md").read_text() for folder in ("straight", "resumed")]
    assert tables[0] == tables[1]


def test_a_folder_of_other_runs_is_refused(command, tmp_path, capsys):
    assert command("out", "--steps", "3", "--weighting", "equal") == 0
    table = (tmp_path / "out" / "table.md").read_bytes()
    assert command("out", "--steps", "4", "--weighting", "equal") == 2
    assert "steps is 3 there and 4 here; give another folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "table.md").read_bytes() == table


def test_a_folder_without_photographs_is_refused(tmp_path, capsys):
    assert restoration.main(["--photographs", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "which holds none" in capsys.readouterr().err
