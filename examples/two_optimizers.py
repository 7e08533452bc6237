"""Two optimizers, one weighting: Muon for the matrices of the trunk, AdamW for the other parameters.

    python -m examples.two_optimizers

One of the two is wrapped. Its ``backward`` weighs the losses and computes the gradients of the whole network; then each
optimizer steps on its own parameters. The norm of all gradients decides for both whether to step.
"""

from __future__ import annotations

import torch

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def build(steps: int) -> dict:
    """Set up everything that has a state, by the name under which a checkpoint holds it."""
    torch.manual_seed(0)
    network = Network()
    matrices = [parameter for parameter in network.trunk.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in network.parameters() if all(parameter is not matrix for matrix in matrices)]
    if hasattr(torch.optim, "Muon"):
        second = torch.optim.Muon(matrices, lr=0.02)
    else:  # torch < 2.9
        second = torch.optim.SGD(matrices, lr=0.02, momentum=0.95, nesterov=True)
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(others, lr=3e-3), TASKS)
    parts = {"network": network, "optimizer": optimizer, "second": second}
    schedulers = {
        f"schedule of {name}": torch.optim.lr_scheduler.CosineAnnealingLR(parts[name], T_max=steps)
        for name in ("optimizer", "second")
    }
    return {**parts, **schedulers}


def train(parts: dict, steps: range) -> None:
    """Train the network."""
    network, optimizer, second, *schedulers = parts.values()
    for step in steps:
        optimizer.zero_grad()
        second.zero_grad()
        optimizer.backward(losses(network, batch(step)))
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if norm.isfinite():  # nonfinite="skip" sees the gradients of the wrapped optimizer alone
            optimizer.step()
            second.step()
        for scheduler in schedulers:
            scheduler.step()


def main(steps: int = 200) -> None:
    """Train half of the steps, save, and train the other half in a run that loads what was saved."""
    parts = build(steps)
    report("before", parts["network"])
    train(parts, range(steps // 2))
    checkpoint = {name: part.state_dict() for name, part in parts.items()}

    parts = build(steps)
    for name, part in parts.items():
        part.load_state_dict(checkpoint[name])
    train(parts, range(steps // 2, steps))
    report("after", parts["network"], parts["optimizer"].weights)


if __name__ == "__main__":
    main()
