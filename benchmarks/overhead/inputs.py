"""How losses come to a method: named, out of a batch that mixes the tasks, or as a problem of one's own has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_optim import TaskLosses, per_task_mean
from benchmarks.loops import as_vectors
from benchmarks.problems import Losses

from .problems import Problem


@dataclass(frozen=True)
class Named:
    """A mapping of K losses, each a scalar of its own."""

    problem: Problem

    def losses(self) -> dict[str, Tensor]:
        """What the wrapper is given."""
        return self.problem.losses()

    def one_by_one(self) -> list[Tensor | None]:
        """A scalar for each task."""
        return list(self.problem.losses().values())

    def vector(self) -> Tensor:
        """[K], what a scalarizer is given."""
        return torch.stack(self.one_by_one())

    def plain(self) -> Tensor:
        """What is minimised where nothing is weighed: the sum, in Python."""
        return sum(self.losses().values())


@dataclass(frozen=True)
class Mixed:
    """The losses of a batch in which each sample is of one task."""

    problem: Problem

    def losses(self) -> TaskLosses:
        """What the wrapper is given."""
        return per_task_mean(self.problem.per_sample(), self.problem.task_ids, len(self.problem.tasks))

    def one_by_one(self) -> list[Tensor | None]:
        """A scalar for each task, or None where it has no sample, which the host has to know."""
        per_sample, task_ids = self.problem.per_sample(), self.problem.task_ids
        masks = [task_ids == task for task in range(len(self.problem.tasks))]
        return [per_sample[mask].mean() if mask.any() else None for mask in masks]

    def vector(self) -> Tensor:
        """[K], what a scalarizer is given."""
        return self.losses().values

    def plain(self) -> Tensor:
        """What is minimised where nothing is weighed: the mean over the samples."""
        return self.problem.per_sample().mean()


@dataclass(frozen=True)
class Own:
    """The losses of a problem of :mod:`benchmarks.problems` as it has them, where a task may be absent."""

    problem: Problem

    def losses(self) -> Losses:
        """What the wrapper is given."""
        return self.problem.losses()

    def one_by_one(self) -> list[Tensor | None]:
        """A scalar for each task, or None where it is absent."""
        values, counts = as_vectors(self.losses(), self.problem.tasks)
        return [loss if count else None for loss, count in zip(values, counts.tolist(), strict=True)]

    def vector(self) -> Tensor:
        """[K], what a scalarizer is given."""
        return as_vectors(self.losses(), self.problem.tasks)[0]

    def plain(self) -> Tensor:
        """What is minimised where nothing is weighed: the sum."""
        losses = self.losses()
        return losses.values.sum() if isinstance(losses, TaskLosses) else sum(losses.values())


Input = Named | Mixed | Own
INPUTS: dict[str, type[Input]] = {"named": Named, "mixed": Mixed}
OWN = "own"
