"""One backward pass whatever wraps the model, on two gloo processes."""

from __future__ import annotations

import functools
import itertools
import re
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from art_optim import FixedWeighting, TaskReweightedOptimizer

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical, parameters_of
from .processes import in_two_processes, needs_fully_shard

STEPS = 5
WEIGHTS = (0.5, 1.0, 2.0)


class Network(MultiTask):
    """Counts what its trunk does."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.passes = Counter()
        self.trunk.register_forward_pre_hook(lambda *_: self.passes.update(["forward"]))
        self.features = partial(checkpoint, self.trunk, use_reentrant=False) if checkpointed else self.trunk

    def forward(self, x, tasks):
        features = self.features(x)
        features.register_hook(lambda _: self.passes.update(["backward"]))
        return {task: self.heads[task](features) for task in tasks}


def ddp(network, mesh, **options):
    return DistributedDataParallel(network, **options)


def shard(network, mesh):
    fully_shard(network.trunk, mesh=mesh)
    return fully_shard(network, mesh=mesh)


@dataclass(frozen=True)
class Case:
    prepare: Callable[[Network, DeviceMesh], nn.Module] = ddp
    checkpointed: bool = False
    batches: int = 1  # accumulated for a step
    absent: bool = False  # whether a task is, each in its turn

    def losses(self, network, step, batch, rank):
        tasks = [task for task in TASKS if not (self.absent and task == TASKS[step % 3])]
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * step + 10 * batch + rank))
        outputs = network(x, tasks)
        return {task: (output - x[:, [TASKS.index(task)]]).square().mean() for task, output in outputs.items()}


CASES = {
    "default": Case(),
    "find_unused_parameters": Case(partial(ddp, find_unused_parameters=True), absent=True),
    "static_graph": Case(partial(ddp, static_graph=True)),
    "gradient_as_bucket_view": Case(partial(ddp, gradient_as_bucket_view=True)),
    "no_sync": Case(batches=2),
    "checkpointed": Case(checkpointed=True),
    "checkpointed-static_graph": Case(partial(ddp, static_graph=True), checkpointed=True),
    "checkpointed-no_sync": Case(checkpointed=True, batches=2),
    "fully_shard": Case(shard),
    "fully_shard-absent": Case(shard, absent=True),
    "fully_shard-no_sync": Case(shard, batches=2),
    "fully_shard-checkpointed": Case(shard, checkpointed=True),
}


def by_step(optimizer, losses, last):
    (optimizer.step if last else optimizer.backward)(losses)


def by_backward(optimizer, losses, last):
    optimizer.backward(losses)
    if last:
        optimizer.step()


def by_combine(optimizer, losses, last):
    optimizer.combine(losses).backward()
    if last:
        optimizer.step()


def by_a_backward_a_task(optimizer, losses, last):
    for task, loss in losses.items():
        (WEIGHTS[TASKS.index(task)] * loss / optimizer.accumulation_steps).backward(retain_graph=True)
    if last:
        optimizer.step()


OURS = (by_step, by_backward, by_combine)


def without_sync(network, last):
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    return nullcontext() if last or isinstance(network, FSDPModule) else network.no_sync()


def train(case, how, rank, network, optimizer, steps=range(STEPS)):
    for step in steps:
        optimizer.zero_grad()
        for batch in range(case.batches):
            last = batch == case.batches - 1
            with without_sync(network, last):
                how(optimizer, case.losses(network, step, batch, rank), last)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)  # unlike Adam it shows a gradient of the wrong size


@functools.cache
def alone(case):
    """The parameters that one process comes to with the mean of the gradients, and no wrapper."""
    network = Network()
    optimizer = sgd(network.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        for batch in range(case.batches):
            for rank in range(2):
                losses = case.losses(network, step, batch, rank)
                total = sum(WEIGHTS[TASKS.index(task)] * loss for task, loss in losses.items())
                (total / (2 * case.batches)).backward()
        optimizer.step()
    return parameters_of(network)


def outcome(case, how, rank, mesh):
    """The parameters, and the passes through the trunk."""
    network = Network(case.checkpointed)
    prepared = case.prepare(network, mesh)
    optimizer = TaskReweightedOptimizer(
        sgd(prepared.parameters()), TASKS, FixedWeighting(WEIGHTS), accumulation_steps=case.batches
    )
    train(case, how, rank, prepared, optimizer)
    parameters = [p.full_tensor() if isinstance(prepared, FSDPModule) else p for p in prepared.parameters()]
    return [parameter.detach() for parameter in parameters], dict(network.passes)


def sharded_optimizer(rank, file):
    """Five steps; and three, a checkpoint that rank 0 saves and both load, and two more."""
    # Not at the top, for it warns, which would be an error there.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def build():
        network = Network()
        inner = ZeroRedundancyOptimizer(network.parameters(), torch.optim.SGD, lr=0.02, momentum=0.9)
        return DistributedDataParallel(network), TaskReweightedOptimizer(inner, TASKS, FixedWeighting(WEIGHTS))

    straight, optimizer = build()
    train(CASES["default"], by_step, rank, straight, optimizer)

    network, optimizer = build()
    train(CASES["default"], by_step, rank, network, optimizer, range(3))
    optimizer.consolidate_state_dict(to=0)
    if rank == 0:
        torch.save(optimizer.state_dict(), file)
    dist.barrier()
    resumed, optimizer = build()
    resumed.load_state_dict(network.state_dict())
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    train(CASES["default"], by_step, rank, resumed, optimizer, range(3, STEPS))
    return {"straight": parameters_of(straight), "resumed": parameters_of(resumed)}


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception:
        return traceback.format_exc()


def all_outcomes(rank, mesh, folder):
    ways = itertools.product(CASES, (*OURS, by_a_backward_a_task))
    found = {(name, how.__name__): attempt(outcome, CASES[name], how, rank, mesh) for name, how in ways}
    found["zero"] = attempt(sharded_optimizer, rank, f"{folder}/zero.pt")
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What both ranks came to: a process takes long to start, so they go through all cases."""
    folder = tmp_path_factory.mktemp("processes")
    in_two_processes(all_outcomes, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def of_both(outcomes, key):
    found = [of_rank[key] for of_rank in outcomes]
    for of_rank in found:
        assert not isinstance(of_rank, str), of_rank
    return found


each_case = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_fully_shard if case.prepare is shard else ()) for name, case in CASES.items()],
)


def assert_like_one_process(parameters, case):
    assert identical(*parameters)
    torch.testing.assert_close(parameters[0], alone(case))


@each_case
@pytest.mark.parametrize("how", OURS)
def test_two_processes_train_like_one(outcomes, name, how):
    """One backward pass through the trunk a batch, for which a checkpointed trunk is computed again."""
    case = CASES[name]
    parameters, passes = zip(*of_both(outcomes, (name, how.__name__)), strict=True)
    batches = STEPS * case.batches
    assert passes == ({"forward": batches * (1 + case.checkpointed), "backward": batches},) * 2
    assert_like_one_process(parameters, case)


@each_case
def test_a_backward_a_task_does_not(outcomes, name):
    """What the library avoids fails, or goes through the trunk for every task."""
    case = CASES[name]
    for of_rank in outcomes:
        found = of_rank[name, by_a_backward_a_task.__name__]
        if case.prepare is shard:
            _, passes = found
            tasks = len(TASKS) - case.absent
            batches = STEPS * case.batches
            assert passes == {"forward": batches * (1 + tasks * case.checkpointed), "backward": batches * tasks}
        else:
            assert re.search("ready only once|still allreduced|graph has changed", found)


def test_a_sharded_optimizer(outcomes):
    """``consolidate_state_dict`` is the inner optimizer's, and the checkpoint resumes exactly."""
    found = of_both(outcomes, "zero")
    assert_like_one_process([of_rank["straight"] for of_rank in found], CASES["default"])
    assert identical(found[0]["resumed"], found[0]["straight"])
    assert identical(*found)
