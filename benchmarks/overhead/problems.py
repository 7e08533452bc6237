"""What is trained on: a network and a batch that stays, also of :mod:`benchmarks.problems`, or losses alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks import problems
from benchmarks.problems import Losses
from benchmarks.restoration.models.global_srresnet import GlobalSRResNet


@dataclass(frozen=True)
class Problem:
    """One batch of K tasks.

    Args:
        losses: Computes the losses of all tasks, each a scalar, or what a problem of :mod:`benchmarks.problems` has.
        device: Where all of it is.
        network: What is trained, or None where there are only losses, without a network.
        shared: The last layer that all tasks share.
        per_sample: Computes the losses [B] of the samples, where each sample is of one task, for mixed batches.
        task_ids: [B], which one.
    """

    tasks: tuple[str, ...]
    losses: Callable[[], Losses]
    device: torch.device | str
    network: nn.Module | None = None
    shared: list[nn.Parameter] = field(default_factory=list)
    per_sample: Callable[[], Tensor] | None = None
    task_ids: Tensor | None = None


def weighing(num_tasks: int, device: str) -> Problem:
    """Losses that are leaves: there is nothing to train."""
    tasks = _names(num_tasks)
    losses = {task: loss.requires_grad_() for task, loss in zip(tasks, _uniform(num_tasks, device=device), strict=True)}
    per_sample = _uniform(max(64, num_tasks), device=device).requires_grad_()
    task_ids = _turns(len(per_sample), num_tasks, device)
    return Problem(tasks, lambda: losses, device, per_sample=lambda: per_sample, task_ids=task_ids)


def mlp(num_tasks: int, device: str, samples: int = 64) -> Problem:
    """Three layers of 256 and an output a task; with more samples, a longer step."""
    widths = [64, 256, 256, 256]
    layers = [nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairwise(widths)]
    network = nn.Sequential(*layers, nn.Linear(256, num_tasks))
    return _with_outputs(network, layers[-1], _uniform(samples, 64, device=device), num_tasks)


def conv(num_tasks: int, device: str) -> Problem:
    """Eight convolutions of width 32 and an output a task, 8 images of 32 x 32."""
    widths = [3, *[32] * 8]
    layers = [nn.Sequential(nn.Conv2d(*pair, 3, padding=1), nn.ReLU()) for pair in pairwise(widths)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_tasks))
    return _with_outputs(network, layers[-1], _uniform(8, 3, 32, 32, device=device), num_tasks)


def srresnet(num_tasks: int, device: str) -> Problem:
    """The restoration network of the demo on 12 patches of 24 x 24, or one a task where there are more tasks."""
    tasks, network = _names(num_tasks), GlobalSRResNet().to(device)
    size = num_tasks * max(1, 12 // num_tasks)
    images, truth = _uniform(2, size, 3, 24, 24, device=device)
    task_ids = torch.arange(num_tasks, device=device).repeat_interleave(size // num_tasks)

    def per_sample() -> Tensor:
        return (network(images) - truth).abs().flatten(1).mean(1)

    def losses() -> dict[str, Tensor]:
        return dict(zip(tasks, per_sample().view(num_tasks, -1).mean(1).unbind(), strict=True))

    return Problem(tasks, losses, device, network, [*network.last.parameters()], per_sample, task_ids)


def existing(text: str, device: str) -> Problem:
    """A problem of :mod:`benchmarks.problems`, whose first batch is drawn anew in every step."""
    problem = created(text)
    network = problem.network().to(device)
    return Problem(
        tuple(problem.tasks), lambda: problem.losses(network, 0, 0), device, network, problem.shared(network)
    )


created = cache(problems.create)

PROBLEMS: dict[str, Callable[[int, str], Problem]] = {
    "weighing": weighing,
    "mlp": mlp,
    "mlp-256": partial(mlp, samples=256),
    "mlp-1024": partial(mlp, samples=1024),
    "conv": conv,
    "srresnet": srresnet,
}


def _with_outputs(network: nn.Sequential, last_shared: nn.Module, inputs: Tensor, num_tasks: int) -> Problem:
    """Each task has an output, and wants a number of every sample that it is to be trained with."""
    tasks, network = _names(num_tasks), network.to(inputs.device)
    targets = _uniform(len(inputs), num_tasks, device=inputs.device)
    task_ids = _turns(len(inputs), num_tasks, inputs.device)

    def errors() -> Tensor:
        return 0.1 * (network(inputs) - targets).square()

    def losses() -> dict[str, Tensor]:
        return dict(zip(tasks, errors().mean(0).unbind(), strict=True))

    def per_sample() -> Tensor:
        return errors().gather(1, task_ids[:, None]).squeeze(1)

    return Problem(tasks, losses, inputs.device, network, [*last_shared.parameters()], per_sample, task_ids)


def _names(num_tasks: int) -> tuple[str, ...]:
    return tuple(f"task {index}" for index in range(num_tasks))


def _turns(size: int, num_tasks: int, device: torch.device | str) -> Tensor:
    return torch.arange(size, device=device) % num_tasks


def _uniform(*shape: int, device: torch.device | str) -> Tensor:
    """Numbers in [0.1, 0.9), where every method has a meaning."""
    return (0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(device)
