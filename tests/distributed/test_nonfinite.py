"""Skipping a step on two processes: the ranks agree, on a gradient that only one of them spoils."""

from __future__ import annotations

from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..conftest import MultiTask
from ..test_optimizer import wrap
from .processes import in_two_processes, needs_fully_shard


def sharded(mesh):
    model = MultiTask()  # a rank has no share of the biases of the heads
    fully_shard(model.trunk, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def partly_sharded(mesh):
    model = MultiTask()
    fully_shard(model.trunk, mesh=mesh)
    return model


def replicated(mesh):
    return DistributedDataParallel(MultiTask())


def skip_one(rank, mesh, folder):
    for model in (sharded(mesh), partly_sharded(mesh), replicated(mesh)):
        optimizer = wrap(model, nonfinite="skip")
        for step in range(3):
            losses = MultiTask.losses(model, step)
            if rank == 0 and step == 1:
                losses["haze"] = losses["haze"] * float("nan")
            optimizer.zero_grad()
            optimizer.step(losses)
            assert optimizer.skipped == (step > 0)
        for parameter in model.parameters():
            assert getattr(parameter, "full_tensor", lambda p=parameter: p)().isfinite().all()


@needs_fully_shard
def test_all_ranks_skip_what_one_of_them_spoils(tmp_path):
    in_two_processes(skip_one, tmp_path)
