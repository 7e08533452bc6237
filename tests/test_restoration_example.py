"""The demo, small: what it writes, and that an interrupted run goes on to the same result."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from PIL import Image

from art_optim import per_task_mean
from benchmarks.compare import training
from examples import restoration

from .test_optimizer import identical


@pytest.fixture
def command(tmp_path, monkeypatch, small_photographs):
    """The command line on four small photographs; its batches and checkpoints are small, too."""
    monkeypatch.setattr(restoration, "Config", partial(training.Config, batch=4, patch=16))
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    monkeypatch.chdir(tmp_path)

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
    tasks = results["tasks"]
    assert results["config"]["steps"] == 4
    assert set(results["scores"]) == {"degraded input", "equal", "art"}
    assert not set(results["training"]) & set(results["validation"])
    for scores in results["scores"].values():
        assert list(scores) == tasks
        assert all(5 < score["psnr"] < 60 and 0 < score["ssim"] <= 1 for score in scores.values())
    for run in results["runs"].values():
        # a task that is absent from a batch has weight 0 there
        assert sum(run["mean_weights"].values()) == pytest.approx(1, abs=1e-5)
    table = (output / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [*tasks, "average"]
    for name in ("weights.png", "restored.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 200


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


def test_an_interrupted_run_goes_on_to_the_same_result(command, tmp_path, monkeypatch, capsys):
    assert command("straight", "--steps", "8") == 0

    interrupt_after(4, monkeypatch)  # equal has a checkpoint after 3
    assert command("resumed", "--steps", "8") == 130
    assert "the same command goes on" in capsys.readouterr().out
    interrupt_after(5 + 5, monkeypatch)  # the other 5 of equal, and 5 of art, which has a checkpoint after 3
    assert command("resumed", "--steps", "8") == 130
    done = interrupt_after(1000, monkeypatch)
    assert command("resumed", "--steps", "8") == 0
    assert len(done) == 5

    for run in ("equal.pt", "art.pt"):
        straight, resumed = (
            torch.load(tmp_path / folder / run, weights_only=True) for folder in ("straight", "resumed")
        )
        assert torch.equal(straight["history"].nan_to_num(), resumed["history"].nan_to_num())
        assert identical(straight["network"], resumed["network"])
        assert identical(straight["optimizer"], resumed["optimizer"])
    tables = [(tmp_path / folder / "table.md").read_text() for folder in ("straight", "resumed")]
    assert tables[0] == tables[1]


def test_another_configuration_starts_afresh(command, tmp_path, monkeypatch):
    assert command("out", "--steps", "3", "--weighting", "equal") == 0
    done = interrupt_after(1000, monkeypatch)
    assert command("out", "--steps", "4", "--weighting", "equal") == 0
    assert len(done) == 4


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which holds no photograph"):
        restoration.main(["--photographs", str(tmp_path), "--output", str(tmp_path / "out")])
