"""Patches to train on, and whole photographs to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmarks.restoration.degradations import apply, draw, plausible_depth, to_uint8
from benchmarks.restoration.photographs import Photograph


@dataclass(frozen=True)
class Batch:
    """Patches of several tasks: ``degraded`` and ``clean`` [B, 3, P, P] in 0..1, and the index of each one's task."""

    degraded: Tensor
    clean: Tensor
    task_ids: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same patches on another device."""
        return Batch(self.degraded.to(device), self.clean.to(device), self.task_ids.to(device))


def degraded(photograph: Photograph, task: str, generator: Generator) -> Tensor:
    """Degrade a photograph at levels drawn at random: uint8 [3, H, W]."""
    depth = photograph.depth
    if task == "haze" and depth is None:
        depth = plausible_depth(photograph.image.shape[1:], generator)
    levels = draw(task, generator)
    return to_uint8(apply(photograph.image / 255, task, levels, generator, depth))


class TrainingPatches:
    """Random patches of photographs, each degraded by a task drawn at random: all-in-one training.

    Every photograph is degraded as a whole ``levels`` times a task, each at a level of its own. A batch is a function
    of ``seed`` and the step alone, so a run resumes exactly without any random state to save.
    """

    def __init__(self, photographs: Sequence[Photograph], tasks: Sequence[str], seed: int, levels: int = 8) -> None:
        generator = Generator().manual_seed(seed)
        self.clean = [photograph.image for photograph in photographs]
        self.degraded = [
            [[degraded(photograph, task, generator) for _ in range(levels)] for task in tasks]
            for photograph in photographs
        ]
        self.levels, self.num_tasks, self.seed = levels, len(tasks), seed

    def batch(self, step: int, size: int, patch: int) -> Batch:
        """Draw the ``size`` patches of ``patch`` x ``patch`` pixels of a step.

        They are mirrored, turned and their colours exchanged at random: no degradation here prefers a colour, and from
        a handful of photographs a network would otherwise learn theirs by heart.
        """
        generator = Generator().manual_seed(self.seed * 1_000_003 + step)
        task_ids = torch.randint(self.num_tasks, (size,), generator=generator)
        pairs = []
        for task in task_ids.tolist():
            photograph, level, turns, mirrored = (
                int(torch.randint(n, (), generator=generator)) for n in (len(self.clean), self.levels, 4, 2)
            )
            clean = self.clean[photograph]
            top, left = (int(torch.randint(side - patch + 1, (), generator=generator)) for side in clean.shape[1:])
            pair = torch.stack([self.degraded[photograph][task][level], clean])
            pair = pair[..., top : top + patch, left : left + patch].rot90(turns, (2, 3))
            pair = pair[:, torch.randperm(3, generator=generator)]
            pairs.append(pair.flip(3) if mirrored else pair)
        degraded, clean = torch.stack(pairs, 1).float().div(255)
        return Batch(degraded, clean, task_ids)


@dataclass(frozen=True)
class ValidationImage:
    """A whole photograph degraded by one task; ``degraded`` is uint8 [3, H, W]."""

    photograph: Photograph
    task: str
    degraded: Tensor


def validation_images(
    photographs: Sequence[Photograph], tasks: Sequence[str], seed: int, levels: int = 3
) -> list[ValidationImage]:
    """Degrade each photograph ``levels`` times a task, each at a level of its own."""
    generator = Generator().manual_seed(seed)
    return [
        ValidationImage(photograph, task, degraded(photograph, task, generator))
        for task in tasks
        for photograph in photographs
        for _ in range(levels)
    ]
