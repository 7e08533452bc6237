"""A run that SIGKILL ends in the middle, again and again, comes to the bits of the run that nothing ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from examples import resume

from .test_optimizer import identical

ROOT = Path(__file__).parent.parent
STEPS = 2000
KILLS = 3
SECONDS = 120
MODULE = ("-m", "examples.resume")
SCRIPT = (str(ROOT / "examples" / "resume.py"),)


def start(how, folder):
    return subprocess.Popen(
        [sys.executable, *how, "--folder", str(folder), "--steps", str(STEPS), "--every", "5"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def kill_in_the_middle(folder):
    """Start or go on, and kill at a random moment after the next checkpoint."""
    path = folder / "checkpoint.pt"

    def written():
        return path.exists() and path.stat().st_mtime_ns

    before = written()
    process = start(SCRIPT, folder)
    try:
        deadline = time.monotonic() + SECONDS
        while written() == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert written() != before
    assert torch.load(path, weights_only=True)["done"] < STEPS


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    runs = [start(MODULE, tmp_path / "straight")]
    try:
        for _ in range(KILLS):
            kill_in_the_middle(tmp_path / "killed")
        runs.append(start(SCRIPT, tmp_path / "killed"))
        assert [run.wait(SECONDS) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()

    straight, killed = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("straight", "killed")
    )
    assert straight["done"] == STEPS
    assert straight["optimizer"]["param_groups"][0]["task_reweighting"]["state"]["smoothed"].ne(0).all()
    assert identical(straight, killed)


def test_a_checkpoint_that_is_cut_short_leaves_the_last_one(tmp_path, monkeypatch):
    def cut_short(checkpoint, path):
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    path = tmp_path / "checkpoint.pt"
    resume.main(str(tmp_path), steps=4, every=4)
    last = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", cut_short)
        with pytest.raises(KeyboardInterrupt):
            resume.main(str(tmp_path), steps=8, every=4)
    assert path.read_bytes() == last
    resume.main(str(tmp_path), steps=8, every=4)
    assert torch.load(path, weights_only=True)["done"] == 8
