"""The example of distributed checkpoints, on two gloo processes and on one: contract 16."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from examples import distributed_checkpoint
from examples.problem import TASKS

from ..test_optimizer import identical
from .processes import in_two_processes


def run(folder):
    distributed_checkpoint.main(str(folder), steps=6, every=3)


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
