"""Plain training loops behind ``step``, beside the wrapper: what combines the losses, backward, the inner step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchjd.scalarization import DWA, FAMO

from art_optim import TaskLosses

from .authors import HostArt
from .problems.problem import Losses

Combine = Callable[[Tensor, Tensor], Tensor]  # of losses [K] and how many samples each averages [K], 0 where absent


class Loop:
    """Steps an optimizer along the combined loss; parameters that a scalarizer learns are a group of their own.

    What a scalarizer of TorchJD remembers is not in its ``state_dict``: interrupted, a loop starts anew.

    Args:
        inner: The optimizer.
        tasks: The names of the K tasks.
        combine: Combines the losses to the one that is differentiated.
        scalarizer: The module that ``combine`` calls, if any.
        epoch: Steps of an epoch, of which DWA is told.
    """

    def __init__(
        self,
        inner: Optimizer,
        tasks: Sequence[str],
        combine: Combine,
        scalarizer: nn.Module | None = None,
        epoch: int = 1,
    ) -> None:
        self.inner, self.tasks, self.combine, self.epoch = inner, tuple(tasks), combine, epoch
        self.scalarizer = scalarizer or nn.Module()
        self.steps = 0
        learned = [*self.scalarizer.parameters()]
        if learned and not isinstance(scalarizer, FAMO):  # which has an optimizer of its own
            inner.add_param_group({"params": learned})

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.inner.zero_grad()

    def step(self, losses: Losses) -> Tensor:
        """Take a step, and return the weights [K]: the derivatives of the combined loss by the losses."""
        values, counts = as_vectors(losses, self.tasks)
        leaf = values.detach().requires_grad_()
        total = self.combine(leaf, counts)
        total.backward()
        weights = leaf.grad.nan_to_num()
        values.where(counts > 0, 0).backward(weights)
        self.inner.step()
        self.steps += 1
        if isinstance(self.scalarizer, DWA) and self.steps % self.epoch == 0:
            self.scalarizer.step()
        return weights

    def after(self, compute: Callable[[], Losses]) -> None:
        """Tell FAMO the losses of the same batch after the step."""
        if isinstance(self.scalarizer, FAMO):
            self.scalarizer.update(as_vectors(compute(), self.tasks)[0].detach())


def as_vectors(losses: Losses, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the losses [K] and how many samples each averages [K]: 1 where that is not known, 0 where absent."""
    if not isinstance(losses, TaskLosses):
        losses = TaskLosses.from_mapping(losses, tasks)
    counts = torch.ones_like(losses.values) if losses.counts is None else losses.counts
    return losses.values, counts.to(losses.values)


def scalarized(scalarizer: nn.Module) -> Combine:
    """Combine by a scalarizer, which wants every task in every step."""

    def combine(values: Tensor, counts: Tensor) -> Tensor:
        if not counts.all():
            raise ValueError("a task is absent from a step; a scalarizer wants a loss of every task")
        total: Tensor = scalarizer(values)
        return total

    return combine


def on_the_host(art: HostArt) -> Combine:
    """Combine by Art as training scripts have it."""

    def combine(values: Tensor, counts: Tensor) -> Tensor:
        given = zip(values, counts.tolist(), strict=True)
        return torch.as_tensor(art([loss if count else None for loss, count in given]))

    return combine


def pooled(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over all samples: the more samples a task has, the more it weighs."""
    return (counts * values.where(counts > 0, 0)).sum() / counts.sum()
