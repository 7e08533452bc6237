"""torch.compile: the network, its losses and their weighing as one graph.

    python -m examples.compiled             traces, and runs without a C++ compiler
    python -m examples.compiled inductor    generates code

The state of the weighting consists of tensors that are updated in place, so a step is traced once; ``fullgraph=True``
shows that no step leaves the graph to read a value.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Batch, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Batch, Network, batch, losses, report


def main(steps: int = 200, backend: str = "aot_eager") -> None:
    """Train with the compiled weighted sum."""
    torch.manual_seed(0)
    network = Network()
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), TASKS)

    @torch.compile(fullgraph=True, backend=backend)
    def weighted(batch: Batch) -> Tensor:
        return optimizer.combine(losses(network, batch))

    report("before", network)
    for step in range(steps):
        optimizer.zero_grad()
        weighted(batch(step)).backward()
        optimizer.step()
    report("after", network, optimizer.weights)


if __name__ == "__main__":
    main(backend=sys.argv[1] if len(sys.argv) > 1 else "aot_eager")
