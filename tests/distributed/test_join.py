"""Processes that run out of batches: Join, which lets the others go on, and steps without samples instead."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from art_optim import TaskLosses, TaskReweightedOptimizer, per_task_mean

from ..conftest import TASKS
from ..test_optimizer import parameters_of
from .processes import in_two_processes
from .test_weighing import Network, batch, sgd

WAYS = {
    "Join of both": lambda parallel, optimizer: Join([parallel, optimizer]),
    "Join of the network": lambda parallel, optimizer: Join([parallel]),
    "join": lambda parallel, optimizer: parallel.join(),
}


def step(parallel, optimizer, number, rank):
    inputs, ids = batch(number, [rank], 2)
    optimizer.zero_grad()
    optimizer.step(per_task_mean(parallel(inputs, ids), ids, 3))


def joinable_sgd(parameters):
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns that torch.jit is deprecated

    return ZeroRedundancyOptimizer(parameters, torch.optim.SGD, lr=0.005)


def train(join, batches, rank, inner=sgd, before=0, **options):
    parallel = DistributedDataParallel(Network())
    optimizer = TaskReweightedOptimizer(inner(parallel.parameters()), TASKS, **options)
    for number in range(before):
        step(parallel, optimizer, number, rank)
    with join(parallel, optimizer):
        for number in range(batches):
            step(parallel, optimizer, number, rank)
    return parallel, optimizer


def refused_on_both(rank, mesh, folder):
    for join in WAYS.values():
        for inner, before in itertools.product((sgd, joinable_sgd), (0, 1)):
            with pytest.raises(RuntimeError, match="give all processes the same number of steps"):
                train(join, (4, 2)[rank], rank, inner, before)
    dist.barrier()  # what Join sent ahead has been received


def test_join_is_refused_on_all_ranks(tmp_path):
    """In its first step, before a rank waits for another that has left."""
    in_two_processes(refused_on_both, tmp_path)


def refused_where_the_other_has_no_batch(rank, mesh, folder):
    train(WAYS["join"], (4, 0)[rank], rank)


def test_join_is_refused_while_a_rank_has_left_already(tmp_path):
    """The rank that has left waits for gradients until the other ends."""
    with pytest.raises(Exception, match=r"same number of steps|Connection closed by peer|Connection reset"):
        in_two_processes(refused_where_the_other_has_no_batch, tmp_path, "spawn")


def allowed(rank, mesh, folder):
    """Where each rank weighs for itself, where the first to leave ends all, and after the end of a Join."""
    for way, inner in (("Join of both", joinable_sgd), ("Join of the network", sgd), ("join", sgd)):
        parallel, optimizer = train(WAYS[way], (4, 2)[rank], rank, inner, process_group=False)
    with pytest.raises(RuntimeError, match="exhausted"):
        train(lambda parallel, _: parallel.join(throw_on_early_termination=True), (4, 2)[rank], rank)
    train(lambda parallel, _: parallel.join(enable=False), 2, rank)
    sharing = TaskReweightedOptimizer(optimizer.inner, TASKS)
    for number in range(2):
        step(parallel, sharing, number, rank)


def test_join_is_allowed_where_no_rank_waits(tmp_path):
    in_two_processes(allowed, tmp_path)


def without_samples(rank, mesh, folder):
    parallel = DistributedDataParallel(Network())
    optimizer = TaskReweightedOptimizer(sgd(parallel.parameters()), TASKS)
    for number in range(4):
        if rank == 0 or number < 2:
            step(parallel, optimizer, number, rank)
        else:
            inputs, ids = batch(0, [rank], 2)
            optimizer.zero_grad()
            values = per_task_mean(parallel(inputs, ids), ids, 3).values
            optimizer.step(TaskLosses(values, torch.zeros(3)))
    torch.save((parameters_of(parallel), optimizer.task_state.state_dict()["state"]), f"{folder}/{rank}.pt")


def test_a_rank_without_samples_takes_part_with_counts_of_zero(tmp_path):
    """All ranks step as one process that has the samples that are left."""
    in_two_processes(without_samples, tmp_path)
    network = Network()
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS)
    for number in range(4):
        inputs, ids = batch(number, range(2) if number < 2 else [0], 2)
        optimizer.zero_grad()
        optimizer.step(per_task_mean(network(inputs, ids), ids, 3))
    expected = parameters_of(network), optimizer.task_state.state_dict()["state"]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-4, atol=1e-5)
