"""The two ways in which losses come to a method: one by one and named, or out of a batch that mixes the tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_optim import TaskLosses, per_task_mean

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


Input = Named | Mixed
INPUTS: dict[str, type[Input]] = {"named": Named, "mixed": Mixed}
