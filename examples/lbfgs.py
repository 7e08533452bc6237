"""An inner optimizer with a closure: L-BFGS with a line search.

    python -m examples.lbfgs

The closure returns the losses by task. The weights are computed at its first evaluation in a step and kept until the
end of the step, so that the line search sees one objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def main(steps: int = 10) -> None:
    """Train on one large batch."""
    torch.manual_seed(0)
    network, whole = Network(), batch(step=0, size=256)
    inner = torch.optim.LBFGS(network.parameters(), max_iter=10, line_search_fn="strong_wolfe")
    optimizer = TaskReweightedOptimizer(inner, TASKS)

    def closure() -> dict[str, Tensor]:
        optimizer.zero_grad()
        return losses(network, whole)

    report("before", network)
    for step in range(steps):
        total = optimizer.step(closure)
        print(f"step {step}  weighted sum {total:.4f}")
    report("after", network, optimizer.weights)


if __name__ == "__main__":
    main()
