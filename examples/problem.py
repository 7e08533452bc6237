"""The problem that the other examples train on: an easy, a hard and a noisy regression on one trunk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TASKS = ("linear", "wave", "noisy")
Batch = tuple[Tensor, dict[str, Tensor]]


class Network(nn.Module):
    """A trunk that all tasks share, and a head for each."""

    def __init__(self, features: int = 4, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predict [B, 1] for each task from x [B, features]."""
        shared = self.trunk(x)
        return {task: head(shared) for task, head in self.heads.items()}


def batch(step: int, size: int = 32) -> Batch:
    """Return inputs and the targets of each task; the same for the same step."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 4, generator=generator)
    noise = torch.randn(size, 1, generator=generator)
    a, b, c, d = x.split(1, dim=1)
    return x, {"linear": 0.4 * (a + b - c), "wave": 0.8 * (2 * d).sin(), "noisy": 0.3 * (a - d) + 0.3 * noise}


def part(batch: Batch, rank: int, number: int) -> Batch:
    """Return the share of a batch that process ``rank`` of ``number`` has."""
    x, targets = batch
    return x[rank::number], {task: target[rank::number] for task, target in targets.items()}


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Initialize a process group, with or without torchrun, and yield the device of this process."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    alone = {} if dist.is_torchelastic_launched() else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    # A process that waits longer for another ends, so that torchrun can restart all of them.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=1), **alone)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def losses(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return the mean squared error of each task, on the device of the network."""
    device = next(network.parameters()).device
    x, targets = batch
    return {task: (output - targets[task].to(device)).square().mean() for task, output in network(x.to(device)).items()}


@torch.no_grad()
def report(title: str, network: nn.Module, weights: dict[str, Tensor] | None = None) -> None:
    """Print the loss of each task on held-out samples, and its weight if given."""
    print(title)
    for task, loss in losses(network, batch(step=1_000_000, size=256)).items():
        print(f"  {task:8}loss {loss.item():.4f}" + (f"  weight {weights[task].item():.3f}" if weights else ""))
