"""Accelerate: gradient accumulation, and a run that resumes from what ``save_state`` saved.

    python -m examples.with_accelerate

The wrapper is prepared like any other optimizer. ``combine`` weighs the losses of a micro-batch; Accelerate divides the
weighted sum by the number of micro-batches, and the prepared optimizer steps only after the last of them.
"""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


class Run(NamedTuple):
    """The accelerator, the wrapper, and the prepared objects."""

    accelerator: Accelerator
    optimizer: TaskReweightedOptimizer
    network: Any
    prepared: Any
    scheduler: Any
    loader: Any


def build(micro_batches: int, epochs: int, accumulation: int) -> Run:
    """Set up a run from its start."""
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=accumulation)
    network = Network()
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), TASKS)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * micro_batches // accumulation)
    loader = DataLoader([batch(step) for step in range(micro_batches)], batch_size=None)
    return Run(accelerator, optimizer, *accelerator.prepare(network, optimizer, scheduler, loader))


def train(run: Run) -> None:
    """Train for one epoch."""
    for micro_batch in run.loader:
        with run.accelerator.accumulate(run.network):
            run.accelerator.backward(run.optimizer.combine(losses(run.network, micro_batch)))
            run.prepared.step()
            run.scheduler.step()
            run.prepared.zero_grad()


def main(micro_batches: int = 200, accumulation: int = 2) -> None:
    """Train for an epoch, save, and train for another in a run that loads what was saved."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(micro_batches, epochs=2, accumulation=accumulation)
        report("before", run.network)
        train(run)
        run.accelerator.save_state(folder)
        report("after an epoch", run.network, run.optimizer.weights)

        run = build(micro_batches, epochs=2, accumulation=accumulation)
        run.accelerator.load_state(folder)
        train(run)
        report("after another, in a run that loaded the first", run.network, run.optimizer.weights)


if __name__ == "__main__":
    main()
