"""All-in-one restoration of photographs: patches to train on, whole photographs to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from art_optim import TaskLosses, per_task_mean
from benchmarks.restoration import layouts, photographs
from benchmarks.restoration.degradations import apply, draw, plausible_depth, to_uint8
from benchmarks.restoration.metrics import psnr, ssim
from benchmarks.restoration.models.global_srresnet import GlobalSRResNet
from benchmarks.restoration.photographs import Photograph

from .problem import Metric, Problem, Split


class Restoration(Problem):
    """A small network restores degraded photographs; each batch mixes patches of all tasks.

    Every fourth photograph is for the test, every fourth of the others for validation; the degradations and the patches
    are drawn anew for each seed. A task's loss is the mean absolute error of its patches, and it may be absent from a
    batch.

    Args:
        setting: ``"rain-haze-noise"`` or another of the four settings of :mod:`benchmarks.restoration`.
        folder: Of photographs, PNG, JPEG or WebP; empty for those that scikit-image and scikit-learn ship.
        batch: Patches of a step.
        patch: Their side in pixels.
        levels: How many times a photograph is degraded by each task to evaluate on it.
    """

    steps = 300

    def __init__(
        self, setting: str = "rain-haze-noise", folder: str = "", batch: int = 12, patch: int = 48, levels: int = 1
    ) -> None:
        if setting not in layouts.SETTINGS:
            raise ValueError(f"setting {setting!r} is not known; choose one of {', '.join(layouts.SETTINGS)}")
        self.tasks = layouts.SETTINGS[setting]
        self.folder, self.batch, self.patch, self.levels = folder, batch, patch, levels
        self.metrics = {"PSNR": Metric(higher=True)}
        for task in self.tasks:
            self.metrics |= {f"{task} PSNR": Metric(True, task), f"{task} SSIM": Metric(True, task)}

    @cached_property
    def photographs(self) -> dict[str, list[Photograph]]:
        """Those to train, validate and test on."""
        rest, test = photographs.split(photographs.from_folder(self.folder) if self.folder else photographs.packaged())
        training, validation = photographs.split(rest)
        return {"training": training, "validation": validation, "test": test}

    def network(self) -> GlobalSRResNet:
        """Construct the network."""
        return GlobalSRResNet()

    def losses(self, network: nn.Module, seed: int, step: int) -> TaskLosses:
        """Draw patches and compute the mean absolute error of each task."""
        device = next(network.parameters()).device
        batch = self._patches(seed).batch(step, self.batch, self.patch).to(device)
        per_sample = (network(batch.degraded) - batch.clean).abs().flatten(1).mean(1)
        return per_task_mean(per_sample, batch.task_ids, len(self.tasks))

    @torch.inference_mode()
    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """Restore whole photographs, and compare them with the clean ones in 8 bits."""
        device = next(network.parameters()).device
        scores: dict[str, list[float]] = {name: [] for name in self.metrics if name != "PSNR"}
        for image in self._images[split]:
            restored = to_uint8(network(image.degraded[None].to(device) / 255)[0].cpu())
            scores[f"{image.task} PSNR"].append(psnr(restored, image.photograph.image))
            scores[f"{image.task} SSIM"].append(ssim(restored, image.photograph.image))
        means = {name: sum(of) / len(of) for name, of in scores.items()}
        return {"PSNR": sum(means[f"{task} PSNR"] for task in self.tasks) / len(self.tasks), **means}

    def shared(self, network: GlobalSRResNet) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return [*network.last.parameters()]

    def data(self) -> Iterable[Tensor | Path]:
        """Return the photographs."""
        return [photograph.image for of in self.photographs.values() for photograph in of]

    @cached_property
    def _images(self) -> dict[str, list[EvaluationImage]]:
        return {
            split: evaluation_images(self.photographs[split], self.tasks, seed, self.levels)
            for seed, split in ((-1, "validation"), (-2, "test"))  # training has no seed below 0
        }

    @lru_cache(maxsize=1)  # noqa: B019 (a process trains one problem at a time)
    def _patches(self, seed: int) -> TrainingPatches:
        return TrainingPatches(self.photographs["training"], self.tasks, seed)


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
class EvaluationImage:
    """A whole photograph degraded by one task; ``degraded`` is uint8 [3, H, W]."""

    photograph: Photograph
    task: str
    degraded: Tensor


def evaluation_images(
    photographs: Sequence[Photograph], tasks: Sequence[str], seed: int, levels: int = 3
) -> list[EvaluationImage]:
    """Degrade each photograph ``levels`` times a task, each at a level of its own."""
    generator = Generator().manual_seed(seed)
    return [
        EvaluationImage(photograph, task, degraded(photograph, task, generator))
        for task in tasks
        for photograph in photographs
        for _ in range(levels)
    ]
