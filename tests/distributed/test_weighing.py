"""Some processes weigh and step as one that has all their samples."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from art_optim import GradNorm, TaskReweightedOptimizer, per_task_mean
from art_optim.weighting import available, create

from ..conftest import TASKS, MultiTask
from ..weighting.cases import REQUIRED
from .processes import in_processes

STEPS = 10
LAYOUTS = ("even", "uneven", "some", "one", "none")


def task_ids(step, rank, number):
    """The tasks of the samples of a rank: so many of each everywhere, or not."""
    counts = {
        "even": [2, 2, 2],
        "uneven": [1 + rank, 3, 1 + 2 * (number - 1 - rank)],
        "some": [2, 0 if rank % 2 else 3, 1],
        "one": [2, 3, 4 if rank == number - 1 else 0],
        "none": [1 + rank, 0, 2],
    }[LAYOUTS[step % len(LAYOUTS)]]
    return torch.arange(3).repeat_interleave(torch.tensor(counts))


def batch(step, ranks, number):
    """The samples of some ranks: the ranks of one process have them all."""
    ids = [task_ids(step, rank, number) for rank in ranks]
    generators = [torch.Generator().manual_seed(100 * step + rank) for rank in ranks]
    inputs = [torch.randn(len(i), 6, generator=generator) for i, generator in zip(ids, generators, strict=True)]
    return torch.cat(inputs), torch.cat(ids)


class Network(MultiTask):
    def forward(self, inputs, ids):
        features = self.trunk(inputs)
        outputs = torch.cat([self.heads[task](features) for task in TASKS], 1)
        return (outputs.gather(1, ids[:, None])[:, 0] - (1 + ids) * inputs[:, 0]).square()


def weighting_of(name, network):
    if name == "gradnorm":
        return GradNorm(shared=network.trunk.parameters())
    return create(name, **{key: value[:3] for key, value in REQUIRED.get(name, {}).items()})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.005, momentum=0.9)


def trained(name, ranks, number, prepare=lambda network: network, batches=1, **options):
    """What the steps return, the weights of each step, the parameters and the task state in the end."""
    network = Network()
    prepared = prepare(network)
    weighting = weighting_of(name, network)
    inner = sgd(prepared.parameters())
    optimizer = TaskReweightedOptimizer(inner, TASKS, weighting, accumulation_steps=batches, **options)
    totals, weights = [], []
    for step in range(0, STEPS, batches):
        optimizer.zero_grad()
        for each in range(batches):
            inputs, ids = batch(step + each, ranks, number)
            losses = per_task_mean(prepared(inputs, ids), ids, 3)
            totals.append(optimizer.backward(losses))
            weights.append(torch.stack(list(optimizer.weights.values())))
        optimizer.step()
    full = [getattr(parameter, "full_tensor", lambda p=parameter: p)().detach() for parameter in prepared.parameters()]
    return {
        "totals": torch.stack(totals),
        "weights": torch.stack(weights),
        "parameters": full,
        "state": optimizer.task_state.state_dict()["state"],
    }


@functools.cache
def alone(name, number, batches=1):
    return trained(name, range(number), number, batches=batches)


def sharded(mesh):
    def prepare(network):
        fully_shard(network.trunk, mesh=mesh)
        return fully_shard(network, mesh=mesh)

    return prepare


def every_weighting(rank, mesh, folder):
    found = {name: trained(name, [rank], mesh.size(), DistributedDataParallel) for name in available()}
    ways = {
        "mesh": {"process_group": mesh},
        "group": {"process_group": dist.group.WORLD},
        "accumulation": {"batches": 2},
        "fully_shard": {"prepare": sharded(mesh)},
    }
    for (way, options), name in itertools.product(ways.items(), ("art", "uncertainty")):
        found[way, name] = trained(name, [rank], mesh.size(), **{"prepare": DistributedDataParallel, **options})
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module", params=[2, 4])
def outcomes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    in_processes(request.param, every_weighting, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def assert_as_one(ranks, expected):
    for of_rank in ranks:
        assert torch.equal(of_rank["weights"], ranks[0]["weights"])
        assert torch.equal(of_rank["totals"], ranks[0]["totals"])
        for name, tensor in of_rank["state"].items():
            assert torch.equal(tensor, ranks[0]["state"][name])
        for mine, other in zip(of_rank["parameters"], ranks[0]["parameters"], strict=True):
            assert torch.equal(mine, other)
    torch.testing.assert_close(ranks[0]["weights"], expected["weights"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ranks[0]["totals"], expected["totals"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ranks[0]["parameters"], expected["parameters"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", available())
def test_processes_weigh_and_step_as_one_that_has_all_samples(outcomes, name):
    assert_as_one([of_rank[name] for of_rank in outcomes], alone(name, len(outcomes)))


@pytest.mark.parametrize(
    ("way", "name"), [*itertools.product(("mesh", "group", "accumulation", "fully_shard"), ("art", "uncertainty"))]
)
def test_they_do_so_however_they_are_set_up(outcomes, way, name):
    batches = 2 if way == "accumulation" else 1
    assert_as_one([of_rank[way, name] for of_rank in outcomes], alone(name, len(outcomes), batches))
