"""Some processes weigh and step as one that has all their samples."""

from __future__ import annotations

import functools
import itertools
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torchjd.aggregation import UPGrad

from art_optim import Art, EqualWeighting, GradNorm, TaskLosses, TaskReweightedOptimizer, per_task_mean
from art_optim.gradients.aggregation import JacobianAggregation
from art_optim.weighting import available, create

from ..conftest import TASKS, MultiTask
from ..test_optimizer import parameters_of
from ..weighting.cases import REQUIRED
from .processes import SHARDS, in_processes, in_two_processes, needs_fully_shard

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


def lone_task(step, rank, number):
    """The tasks of the samples of a rank: they take turns."""
    return torch.full((2,), (number * step + rank) % 3)


def batch(step, ranks, number, ids_of=task_ids):
    """The samples of some ranks: the ranks of one process have them all."""
    ids = [ids_of(step, rank, number) for rank in ranks]
    generators = [torch.Generator().manual_seed(100 * step + rank) for rank in ranks]
    inputs = [torch.randn(len(i), 6, generator=generator) for i, generator in zip(ids, generators, strict=True)]
    return torch.cat(inputs), torch.cat(ids)


class Network(MultiTask):
    def forward(self, inputs, ids):
        features = self.trunk(inputs)
        outputs = torch.cat([self.heads[task](features) for task in TASKS], 1)
        return (outputs.gather(1, ids[:, None])[:, 0] - (1 + ids) * inputs[:, 0]).square()


INTERVALS = {"interval": {"interval": 3}, "lone tasks": {"interval": 3, "ids_of": lone_task}}


def weighting_of(name, network):
    if name == "gradnorm":
        return GradNorm(shared=network.trunk.parameters())
    return create(name, **{key: value[:3] for key, value in REQUIRED.get(name, {}).items()})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.005, momentum=0.9)


def trained(name, ranks, number, prepare=lambda network: network, batches=1, ids_of=task_ids, **options):
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
            inputs, ids = batch(step + each, ranks, number, ids_of)
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
def alone(name, number, **options):
    return trained(name, range(number), number, **options)


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
        **INTERVALS,
    }
    for (way, options), name in itertools.product(ways.items(), ("art", "uncertainty", "gradnorm")):
        if way == "fully_shard" and (name == "gradnorm" or not SHARDS):
            continue  # GradNorm wants shared parameters that are whole
        found[way, name] = trained(name, [rank], mesh.size(), **{"prepare": DistributedDataParallel, **options})
    if mesh.size() == 4:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        data = grid["data"]
        beside = partial(DistributedDataParallel, process_group=data.get_group())
        found["beside model parallelism"] = trained("art", [data.get_local_rank()], 2, beside, process_group=data)
        if SHARDS:
            found["hybrid sharding"] = trained("art", [rank], 4, sharded(grid))
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


@pytest.mark.parametrize("name", ["art", "uncertainty", "gradnorm"])
@pytest.mark.parametrize(
    "way", ["mesh", "group", "accumulation", pytest.param("fully_shard", marks=needs_fully_shard), *INTERVALS]
)
def test_they_do_so_however_they_are_set_up(outcomes, way, name):
    if (way, name) in outcomes[0]:
        options = {"accumulation": {"batches": 2}, **INTERVALS}.get(way, {})
        assert_as_one([of_rank[way, name] for of_rank in outcomes], alone(name, len(outcomes), **options))


def test_they_do_so_on_meshes_of_two_dimensions(outcomes):
    """Where gradients are averaged over one of them, and over both."""
    if len(outcomes) == 4:
        assert_as_one([of_rank["beside model parallelism"] for of_rank in outcomes], alone("art", 2))
    if len(outcomes) == 4 and SHARDS:
        assert_as_one([of_rank["hybrid sharding"] for of_rank in outcomes], alone("art", 4))


def mapping_losses(network, step, rank, tasks):
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank))
    features = network.trunk(inputs)
    return {task: (network.heads[task](features) - inputs[:, :1]).square().mean() for task in tasks}


class ByTask(MultiTask):
    """Computes what it is asked for, so that the heads of other tasks are not in the graph."""

    def forward(self, step, rank, tasks):
        return mapping_losses(self, step, rank, tasks)


def tasks_of(step, rank):
    """A task is missing on one rank, another on the other, a third on both."""
    return {0: TASKS, 1: TASKS[1:] if rank else TASKS, 2: TASKS[:2] if rank else TASKS[1:], 3: TASKS[:2]}[step % 4]


def heads_that_only_some_ranks_train(rank, mesh, folder):
    network = ByTask()
    parallel = DistributedDataParallel(network, find_unused_parameters=True)
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS, Art())
    for step in range(8):
        optimizer.zero_grad()
        optimizer.step(parallel(step, rank, tasks_of(step, rank)))
    torch.save((parameters_of(network), torch.stack(list(optimizer.weights.values()))), f"{folder}/{rank}.pt")


def test_a_head_may_be_missing_on_a_rank_where_ddp_looks_for_it(tmp_path):
    """The losses have no counts: each counts once, so that of a task is the mean over the ranks that have it."""
    in_two_processes(heads_that_only_some_ranks_train, tmp_path)
    network = ByTask()
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS, Art())
    for step in range(8):
        of_ranks = [network(step, rank, tasks_of(step, rank)) for rank in range(2)]
        found = {task: [losses[task] for losses in of_ranks if task in losses] for task in TASKS}
        optimizer.zero_grad()
        optimizer.step({task: torch.stack(losses).mean() for task, losses in found.items() if losses})
    expected = parameters_of(network), torch.stack(list(optimizer.weights.values()))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-4, atol=1e-6)


def several_ways(rank, mesh, folder):
    """The step by ``combine``, a scaler, validation, a closure; each against the plain one."""

    def optimizer_of(network, weighting="art", **options):
        return TaskReweightedOptimizer(sgd(network.parameters()), TASKS, weighting, **options)

    def losses_of(parallel, step):
        inputs, ids = batch(step, [rank], mesh.size())
        return per_task_mean(parallel(inputs, ids), ids, 3)

    def plain(optimizer, parallel, step):
        optimizer.step(losses_of(parallel, step))

    def combined(optimizer, parallel, step):
        optimizer.combine(losses_of(parallel, step)).backward()
        optimizer.step()

    def by_closure(optimizer, parallel, step):
        optimizer.step(lambda: losses_of(parallel, step))

    def validated_on_one_rank(optimizer, parallel, step):
        if rank == 0:
            with torch.no_grad():
                optimizer.combine(losses_of(parallel.module, 99))
        optimizer.step(losses_of(parallel, step))

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def scaled(optimizer, parallel, step):
        optimizer.step(losses_of(parallel, step), scaler=scaler)
        scaler.update()

    found = []
    for way in (plain, combined, by_closure, validated_on_one_rank, scaled):
        network = Network()
        parallel = DistributedDataParallel(network)
        optimizer = optimizer_of(network)
        for step in range(5):
            optimizer.zero_grad()
            way(optimizer, parallel, step)
        found.append((parameters_of(network), optimizer.task_state.state_dict()["state"]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)


def test_however_a_step_is_taken(tmp_path):
    in_two_processes(several_ways, tmp_path)


def what_is_refused(rank, mesh, folder):
    inputs, ids = batch(1, [rank], mesh.size())
    network = Network()
    losses = per_task_mean(network(inputs, ids), ids, 3)

    def refused(message, weighting, tasks=TASKS, given=losses, **options):
        optimizer = TaskReweightedOptimizer(sgd(network.parameters()), tasks, weighting, **options)
        with pytest.raises(ValueError, match=message):
            optimizer.step(given)
        assert all(parameter.grad is None for parameter in network.parameters())

    refused("JacobianAggregation would aggregate different gradients on each process", JacobianAggregation(UPGrad()))
    refused("shared is None on several processes", GradNorm())
    static = DistributedDataParallel(Network(), static_graph=True)
    of_static = per_task_mean(static(inputs, ids), ids, 3)
    refused("static_graph=True", GradNorm(shared=static.module.trunk.parameters()), given=of_static)
    refused("static_graph=True", JacobianAggregation(UPGrad()), given=of_static, process_group=False)
    refused("losses carry no graph", EqualWeighting(), given=TaskLosses(losses.values.detach(), losses.counts))
    combining = TaskReweightedOptimizer(sgd(network.parameters()), TASKS)
    with pytest.raises(ValueError, match="losses carry no graph, but those of other processes may"):
        combining.combine(TaskLosses(losses.values.detach(), losses.counts))
    mine = TASKS if rank == 0 else TASKS[::-1]
    refused("the processes have the tasks", EqualWeighting(), tasks=mine)
    whole = Network()
    fully_shard(whole, mesh=mesh)
    with pytest.raises(ValueError, match="inner has sharded parameters"):
        TaskReweightedOptimizer(sgd(whole.parameters()), TASKS, JacobianAggregation(UPGrad()), process_group=False)
    named = TaskLosses(losses.values, losses.counts, TASKS)
    refused("tasks are not declared on several processes", EqualWeighting(), tasks=None, given=named)
    grid = init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))
    with pytest.raises(ValueError, match=r"process_group is a mesh of 2 dimensions \('a', 'b'\)"):
        TaskReweightedOptimizer(sgd(network.parameters()), TASKS, process_group=grid)
    TaskReweightedOptimizer(sgd(network.parameters()), TASKS, process_group=grid["b"]).step(losses)
    first = dist.new_group([0])
    if rank == 1:
        with pytest.raises((TypeError, ValueError), match="process_group"):
            TaskReweightedOptimizer(sgd(network.parameters()), TASKS, process_group=first)


def test_what_would_diverge_is_refused_on_every_rank(tmp_path):
    in_two_processes(what_is_refused, tmp_path)


def each_for_itself(rank, mesh, folder):
    network = Network()
    parallel = DistributedDataParallel(network)
    optimizers = [
        TaskReweightedOptimizer(sgd(network.parameters()), TASKS, weighting, process_group=False)
        for weighting in (Art(decay=0.0), JacobianAggregation(UPGrad()))
    ]
    for step, optimizer in enumerate(optimizers * 2):
        inputs, ids = batch(5 * step, [rank], mesh.size())
        optimizer.zero_grad()
        optimizer.step(per_task_mean(parallel(inputs, ids), ids, 3))
    weights = [None, None]
    dist.all_gather_object(weights, [list(optimizer.weights.values()) for optimizer in optimizers])
    assert weights[0] != weights[1]
    mine = torch.cat([parameter.flatten() for parameter in parameters_of(network)])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(theirs, mine)
    assert torch.equal(*theirs)


def test_without_a_group_every_process_weighs_for_itself(tmp_path):
    """And yet they step alike, by the mean of the gradients."""
    in_two_processes(each_for_itself, tmp_path)


def one_rank_fails(rank, mesh, folder):
    network = Network()
    parallel = DistributedDataParallel(network)
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS)
    inputs, ids = batch(0, [rank], mesh.size())
    losses = parallel(inputs, ids)
    optimizer.step({"rain": losses if rank == 0 else losses.mean()})


def test_a_bad_loss_on_one_rank_ends_both(tmp_path):
    with pytest.raises(Exception, match=r"loss of task 'rain' has shape|Connection closed by peer|Connection reset"):
        in_two_processes(one_rank_fails, tmp_path, "spawn")


def losses_of_several_dtypes(rank, mesh, folder):
    network = ByTask()
    network.heads["noise"].double()
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS)
    features = network.trunk(torch.ones(2, 6) * (1 + rank))
    losses = {"rain": network.heads["rain"](features).square().mean()}
    if rank == 0:
        losses["noise"] = network.heads["noise"](features.double()).square().mean()
    optimizer.backward(losses)
    found = [None, None]
    dist.all_gather_object(found, optimizer.weights)
    assert found[0] == found[1]
    assert found[0]["noise"] > 0
    assert network.heads["noise"].weight.grad is None or rank == 0


def test_losses_may_have_other_dtypes_on_other_ranks(tmp_path):
    in_two_processes(losses_of_several_dtypes, tmp_path)


def absent_values_that_are_not_numbers(rank, mesh, folder):
    network = ByTask()
    optimizer = TaskReweightedOptimizer(sgd(network.parameters()), TASKS)
    losses = torch.stack([*network(0, rank, TASKS).values()])
    present = torch.tensor([True, rank == 0, False])
    optimizer.backward(TaskLosses(torch.where(present, losses, float("nan")), present.int()))
    assert optimizer.losses["haze"].isfinite()
    assert rank == 1 or optimizer.losses["haze"] == losses[1]
    assert optimizer.losses["noise"].isnan()
    assert [weight > 0 for weight in optimizer.weights.values()] == [True, True, False]
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_values_of_absent_tasks_are_not_averaged(tmp_path):
    in_two_processes(absent_values_that_are_not_numbers, tmp_path)


def a_head_that_ddp_does_not_look_for(rank, mesh, folder):
    parallel = DistributedDataParallel(ByTask())
    optimizer = TaskReweightedOptimizer(sgd(parallel.parameters()), TASKS)
    for step in range(3):
        optimizer.zero_grad()
        optimizer.step(parallel(step, rank, TASKS[1:] if rank else TASKS))


def test_a_head_that_ddp_does_not_look_for_ends_both(tmp_path):
    """The rank without it sees that in its next pass, and the one that waits for it that the other has gone, or did not
    answer in time."""
    ends = r"Expected to have finished reduction|Connection closed|Connection reset|Timed out waiting"
    with pytest.raises(Exception, match=ends):
        in_two_processes(a_head_that_ddp_does_not_look_for, tmp_path, "spawn")
