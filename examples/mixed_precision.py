"""Mixed precision with gradient scaling and gradient clipping.

    python -m examples.mixed_precision

The scaler is given to ``backward``, which scales the weights: the weighting sees the losses unscaled. The rest is the
usual loop with the wrapper as the optimizer. Without clipping, call ``optimizer.step(losses, scaler=scaler)`` and then
``scaler.update()``.
"""

from __future__ import annotations

import torch

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def main(steps: int = 200) -> None:
    """Train in float16 on a GPU, and in bfloat16 elsewhere."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network().to(device)
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), TASKS)
    scaler = torch.amp.GradScaler(device)
    report("before", network)
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device):
            task_losses = losses(network, batch(step))
        optimizer.backward(task_losses, scaler=scaler)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    report("after", network, optimizer.weights)


if __name__ == "__main__":
    main()
