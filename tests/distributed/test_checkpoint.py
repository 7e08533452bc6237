"""Distributed checkpoints of FSDP2 models on two gloo processes."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard

from art_optim import TaskReweightedOptimizer

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical
from .processes import in_two_processes, needs_fully_shard


def sharded(mesh, interval):
    model = MultiTask()
    fully_shard(model.trunk, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, TaskReweightedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), TASKS, interval=interval)


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        optimizer.step(model.losses(step))
    return [parameter.full_tensor().detach() for parameter in model.parameters()], optimizer.task_state.state_dict()


def assert_same(left, right):
    assert all(torch.equal(a, b) for a, b in zip(left[0], right[0], strict=True))
    assert identical(left[1], right[1])


def through_files(interval, rank, mesh, folder):
    model, optimizer = sharded(mesh, interval)
    train(model, optimizer, range(3))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/checkpoint")
    straight = train(model, optimizer, range(3, 6))

    model, optimizer = sharded(mesh, interval)
    weights, state = get_state_dict(model, optimizer)
    loaded = {"model": weights, "optimizer": state}
    dcp.load(loaded, checkpoint_id=f"{folder}/checkpoint")
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    assert_same(train(model, optimizer, range(3, 6)), straight)


def from_rank_0(interval, rank, mesh, folder):
    model, optimizer = sharded(mesh, interval)
    train(model, optimizer, range(3))
    full = StateDictOptions(full_state_dict=True, cpu_offload=True)
    broadcast = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=full))
    weights = copy.deepcopy(model.state_dict())
    straight = train(model, optimizer, range(3, 6))

    model, optimizer = sharded(mesh, interval)
    train(model, optimizer, [0])  # there is a state to replace
    model.load_state_dict(weights)
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state if rank == 0 else {}, options=broadcast)
    assert_same(train(model, optimizer, range(3, 6)), straight)


@needs_fully_shard
@pytest.mark.parametrize("interval", [1, 2])
def test_through_checkpoint_files(tmp_path, interval):
    in_two_processes(partial(through_files, interval), tmp_path)


@needs_fully_shard
@pytest.mark.parametrize("interval", [1, 2])
def test_from_the_full_state_dict_of_rank_0(tmp_path, interval):
    in_two_processes(partial(from_rank_0, interval), tmp_path)
