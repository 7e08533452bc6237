"""The training loop: batches that mix patches of all tasks, weighed by one weighting; a run goes on where it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from art_optim import TaskLosses, TaskReweightedOptimizer, per_task_mean
from art_optim.weighting import Weighting
from benchmarks.restoration import layouts, photographs
from benchmarks.restoration.degradations import to_uint8
from benchmarks.restoration.metrics import psnr, ssim
from benchmarks.restoration.models.global_srresnet import GlobalSRResNet

from .data import Batch, TrainingPatches, ValidationImage, validation_images

SAVE_EVERY = 50
SETTINGS = {name: layouts.SETTINGS[name] for name in ("rain-haze-noise", "multiple")}


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its weighting."""

    setting: str
    steps: int
    seed: int
    device: str
    photographs: str | None
    batch: int = 12
    patch: int = 48
    learning_rate: float = 1e-3
    levels: int = 3  # of each degradation, for each photograph to validate on

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return SETTINGS[self.setting]


class Data:
    """The photographs of a configuration, and what is made of them: patches to train on, images to validate on."""

    def __init__(self, config: Config) -> None:
        folder = config.photographs
        self.config = config
        self.training, self.validation = photographs.split(
            photographs.from_folder(folder) if folder else photographs.packaged()
        )

    @cached_property
    def patches(self) -> TrainingPatches:
        """Patches of the training photographs."""
        return TrainingPatches(self.training, self.config.tasks, seed=self.config.seed)

    @cached_property
    def images(self) -> list[ValidationImage]:
        """The validation photographs, degraded by each task."""
        return validation_images(self.validation, self.config.tasks, self.config.seed, self.config.levels)


def start(weighting: Weighting, config: Config) -> tuple[GlobalSRResNet, TaskReweightedOptimizer]:
    """Return a network with the weights of the seed, and its optimizer."""
    torch.manual_seed(config.seed)
    network = GlobalSRResNet().to(config.device)
    inner = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    return network, TaskReweightedOptimizer(inner, tasks=config.tasks, weighting=weighting)


def step(network: GlobalSRResNet, optimizer: TaskReweightedOptimizer, batch: Batch) -> TaskLosses:
    """Train one step; return the losses that it weighed, the mean absolute errors of the tasks."""
    per_sample = (network(batch.degraded) - batch.clean).abs().flatten(1).mean(1)
    losses = per_task_mean(per_sample, batch.task_ids, len(optimizer.tasks))
    optimizer.zero_grad()
    optimizer.step(losses)
    return losses


def train(
    weighting: Weighting,
    config: Config,
    patches: TrainingPatches,
    path: Path,
    watch: Callable[[list[Tensor]], None] = lambda history: None,
) -> dict[str, Any]:
    """Train a network, or go on training it, and return its last checkpoint, which is also in ``path``.

    Its ``history`` [steps, 2, K] has the losses (NaN where absent) and the weights of each step; ``watch`` is shown it
    after each.
    """
    network, optimizer = start(weighting, config)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    history: list[Tensor] = []
    seconds = 0.0
    checkpoint = load(path, config)
    if checkpoint is not None:
        network.load_state_dict(checkpoint["network"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        history = list(checkpoint["history"])
        seconds = checkpoint["seconds"]

    began = time.perf_counter()
    while len(history) < config.steps:
        batch = patches.batch(len(history), config.batch, config.patch).to(config.device)
        losses = step(network, optimizer, batch)
        scheduler.step()

        values = losses.values.detach().where(losses.counts > 0, torch.nan)
        history.append(torch.stack([values, torch.stack(list(optimizer.weights.values()))]))
        watch(history)
        if len(history) % SAVE_EVERY == 0 or len(history) == config.steps:
            checkpoint = {
                "config": asdict(config),
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "history": torch.stack(history),
                "seconds": seconds + time.perf_counter() - began,
            }
            torch.save(checkpoint, path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)  # never half a checkpoint
    assert checkpoint is not None
    return checkpoint


def load(path: Path, config: Config) -> dict[str, Any] | None:
    """Return the checkpoint in ``path`` if it is one of this configuration."""
    if not path.exists():
        return None
    checkpoint: dict[str, Any] = torch.load(path, map_location=config.device, weights_only=True)
    return checkpoint if checkpoint["config"] == asdict(config) else None


@torch.inference_mode()
def restore(checkpoint: dict[str, Any], images: list[ValidationImage], device: str) -> list[Tensor]:
    """Restore whole photographs with the network of a checkpoint: uint8 [3, H, W] each."""
    network = GlobalSRResNet().to(device)
    network.load_state_dict(checkpoint["network"])
    return [to_uint8(network(image.degraded[None].to(device) / 255)[0].cpu()) for image in images]


def score(restored: list[Tensor], images: list[ValidationImage]) -> dict[str, dict[str, float]]:
    """Average PSNR and SSIM over the images of each task."""
    scores: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(image.task for image in images):
        pairs = [(r, i.photograph.image) for r, i in zip(restored, images, strict=True) if i.task == task]
        scores[task] = {metric.__name__: sum(metric(*pair) for pair in pairs) / len(pairs) for metric in (psnr, ssim)}
    return scores
