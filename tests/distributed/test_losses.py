"""What a rank hands over: losses with counts, of which some are absent, and label matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from art_optim import TaskLosses, TaskReweightedOptimizer, per_task_mean

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical, parameters_of
from .processes import in_processes, in_two_processes


class Outputs(MultiTask):
    def forward(self, inputs):
        features = self.trunk(inputs)
        return torch.cat([self.heads[task](features) for task in TASKS], 1)


def optimizer_of(network, **options):
    return TaskReweightedOptimizer(torch.optim.SGD(network.parameters(), lr=0.1), TASKS, **options)


def trained_with(absent, rank, way, interval):
    """What three steps leave behind, in which a task is absent on one rank, another on both, and has this loss."""
    network = Outputs()
    parallel = DistributedDataParallel(network)
    optimizer = optimizer_of(network, interval=interval)
    totals = []
    for step in range(3):
        rain, haze, noise = parallel(torch.full((2, 6), 1.0 + rank + step)).square().mean(0)
        rain = rain + absent if rank else rain
        values, counts = torch.stack([rain, haze + absent, noise]), torch.tensor([0 if rank else 2, 0, 1 + rank])
        optimizer.zero_grad()
        losses = TaskLosses(values, counts)
        if way == "combine":
            totals.append(optimizer.combine(losses))
            totals[-1].backward()
            optimizer.step()
        else:
            totals.append(optimizer.step(losses))
    return torch.stack(totals).detach(), parameters_of(network), optimizer.weights, optimizer.losses


def absent_losses_of_any_value(rank, mesh, folder):
    for way in ("step", "combine"):
        for interval in (1, 2):
            expected = trained_with(0.0, rank, way, interval)
            for value in (math.nan, math.inf):
                found = trained_with(value, rank, way, interval)
                assert found[0].isfinite().all()
                assert identical(found, expected)


def test_the_value_of_a_task_that_is_absent_on_a_rank_is_never_read(tmp_path):
    in_two_processes(absent_losses_of_any_value, tmp_path)


def labels_of(step, ranks):
    """[4 a rank, 6] inputs and [4 a rank, 3] labels, of which some are missing: all of a rank, or of a task."""
    inputs, labels = [], []
    for rank in ranks:
        generator = torch.Generator().manual_seed(10 * step + rank)
        inputs.append(torch.randn(4, 6, generator=generator))
        missing = torch.rand(4, 3, generator=generator) < (1 if rank == 0 and step == 2 else 0.4)
        missing[:, 1] |= step == 3
        labels.append(torch.rand(4, 3, generator=generator).masked_fill(missing, math.nan))
    return torch.cat(inputs), torch.cat(labels)


def trained_on_labels(ranks, prepare=lambda network: network):
    network = Outputs()
    prepared, optimizer = prepare(network), optimizer_of(network)
    totals = []
    for step in range(6):
        inputs, labels = labels_of(step, ranks)
        losses = (prepared(inputs) - labels.nan_to_num()).square()
        optimizer.zero_grad()
        totals.append(optimizer.step(per_task_mean(losses, mask=~labels.isnan())))
    return torch.stack(totals), torch.stack([*optimizer.weights.values()]), parameters_of(network)


def label_matrices(rank, mesh, folder):
    torch.save(trained_on_labels([rank], DistributedDataParallel), f"{folder}/{rank}.pt")


@pytest.mark.parametrize("number", [2, 4])
def test_label_matrices_of_processes_train_as_that_of_one(tmp_path, number):
    """Each label of a task counts alike, wherever it is."""
    in_processes(number, label_matrices, tmp_path)
    expected = trained_on_labels(range(number))
    for rank in range(number):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-4, atol=1e-6)
