"""Gradient accumulation: several batches for one step.

    python -m examples.gradient_accumulation

``accumulation_steps`` divides the weights, so that the gradients add up to their mean; the losses are weighed
undivided, and each batch advances the state of the weighting. A batch may hold one task only: the others are absent
from it.
"""

from __future__ import annotations

import torch

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def main(steps: int = 150, accumulation_steps: int = 4) -> None:
    """Train, with ``accumulation_steps`` batches a step."""
    torch.manual_seed(0)
    network = Network()
    inner = torch.optim.AdamW(network.parameters(), lr=3e-3)
    optimizer = TaskReweightedOptimizer(inner, TASKS, accumulation_steps=accumulation_steps)
    report("before", network)
    for step in range(steps):
        optimizer.zero_grad()
        total = torch.zeros(())
        for part in range(accumulation_steps):
            total += optimizer.backward(losses(network, batch(step * accumulation_steps + part)))
        optimizer.step()
        if step % 30 == 0:
            print(f"step {step:3}  mean of the weighted sums {total:.4f}")
    report("after", network, {task: weight * accumulation_steps for task, weight in optimizer.weights.items()})


if __name__ == "__main__":
    main()
