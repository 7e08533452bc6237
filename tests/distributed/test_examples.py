"""The examples of several processes: their checkpoints on two gloo processes and on one, and one that is killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from examples import fsdp
from examples.problem import TASKS

from ..test_optimizer import identical
from .processes import in_two_processes


def run(folder):
    fsdp.main(str(folder), steps=6, every=3)


def interrupt(straight, folder):
    """Leave what a run leaves that ends while it writes its second checkpoint."""
    shutil.copytree(straight / "3", folder / "3")
    shutil.copytree(straight / "6", folder / "6", ignore=shutil.ignore_patterns(".metadata"))


def straight_and_resumed(rank, mesh, folder):
    folder = Path(folder)
    run(folder / "straight")
    if rank == 0:
        interrupt(folder / "straight", folder / "resumed")
    dist.barrier()
    run(folder / "resumed")


def last(folder):
    whole = folder.with_suffix(".pt")
    dcp_to_torch_save(folder / "6", whole)
    return torch.load(whole, weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(straight_and_resumed, folder)
    return folder


def test_two_processes_resume_exactly(folder):
    straight = last(folder / "straight")
    assert straight["optimizer"]["param_groups"][0]["task_reweighting"]["tasks"] == list(TASKS)
    assert identical(straight, last(folder / "resumed"))


def test_one_process_resumes_exactly(tmp_path):
    run(tmp_path / "straight")
    interrupt(tmp_path / "straight", tmp_path / "resumed")
    run(tmp_path / "resumed")
    assert identical(last(tmp_path / "straight"), last(tmp_path / "resumed"))


def test_one_process_goes_on_from_two(folder, tmp_path):
    interrupt(folder / "straight", tmp_path / "resumed")
    run(tmp_path / "resumed")
    resumed, straight = last(tmp_path / "resumed"), last(folder / "straight")
    torch.testing.assert_close(resumed["network"], straight["network"])
    ours, theirs = (whole["optimizer"]["param_groups"][0]["task_reweighting"] for whole in (resumed, straight))
    torch.testing.assert_close(ours["state"], theirs["state"])


def torchrun(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "3", "-m", "examples.ddp", "--folder", str(folder), "--steps", "80", "--every", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def children(process):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process.pid:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the processes in /proc")
def test_torchrun_starts_again_what_was_killed_to_the_same_parameters(tmp_path):
    """The process that dies is not the one that saves."""
    with torchrun(tmp_path / "straight") as straight:
        output, _ = straight.communicate(timeout=240)
    assert straight.returncode == 0, output

    with torchrun(tmp_path / "killed") as killed:
        try:
            before = "".join(itertools.takewhile(lambda line: not line.startswith("step 20, saved"), killed.stdout))
            os.kill(children(killed)[-1], signal.SIGKILL)
            output, _ = killed.communicate(timeout=240)
        finally:
            killed.kill()
    assert killed.returncode == 0, before + output
    assert any(f"step {done}\n" in output for done in range(20, 80, 5)), output  # where it began anew
    checkpoints = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("straight", "killed")]
    assert checkpoints[0]["done"] == 80
    assert identical(*checkpoints)
