"""A schedule-free inner optimizer, whose ``train`` and ``eval`` are called on the wrapper.

    python -m examples.schedule_free

Schedule-free optimizers train at one point, evaluate at an average of earlier ones, and must be told which is needed.
Call ``eval`` before saving a checkpoint, so that it holds the average.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from schedulefree import AdamWScheduleFree

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def build() -> tuple[Network, TaskReweightedOptimizer]:
    """Set up a run from its start."""
    torch.manual_seed(0)
    network = Network()
    return network, TaskReweightedOptimizer(AdamWScheduleFree(network.parameters(), lr=0.01, warmup_steps=20), TASKS)


def train(network: Network, optimizer: Any, steps: range) -> None:
    """Train, and leave the network at the average."""
    optimizer.train()
    for step in steps:
        optimizer.zero_grad()
        optimizer.step(losses(network, batch(step)))
    optimizer.eval()


def main(steps: int = 300) -> None:
    """Train for half of the steps, save, and resume from the checkpoint."""
    network, optimizer = build()
    report("before", network)
    train(network, optimizer, range(steps // 2))
    report("half way", network, optimizer.weights)
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)

    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    network, optimizer = build()
    network.load_state_dict(checkpoint["network"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    train(network, optimizer, range(steps // 2, steps))
    report("after", network, optimizer.weights)


if __name__ == "__main__":
    main()
