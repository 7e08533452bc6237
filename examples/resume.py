"""A run that may be killed at any time and resumes from its last checkpoint, to the same bits.

    python -m examples.resume --folder runs/resume --steps 200 --every 10

Kill it and run the same command again. The state dict of the optimizer contains that of the weighting, so the
checkpoint is that of any run: network, optimizer, scheduler, the number of steps done, and the random number
generator, which jitters the inputs here. A complete checkpoint replaces the last one in one operation.
"""

from __future__ import annotations

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


def train(path: Path, steps: int, every: int) -> None:
    """Train up to ``steps``, starting from the checkpoint at ``path`` if there is one; save every ``every`` steps."""
    torch.manual_seed(0)
    network = Network()
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), TASKS)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    done = 0
    if path.exists():
        checkpoint = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        torch.set_rng_state(checkpoint["rng"])
        done = checkpoint["done"]
    report(f"step {done}", network)
    while done < steps:
        x, targets = batch(done)
        optimizer.zero_grad()
        optimizer.step(losses(network, (x + 0.1 * torch.randn_like(x), targets)))
        scheduler.step()
        done += 1
        if done % every == 0 or done == steps:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**states, "rng": torch.get_rng_state(), "done": done}, path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)
            print(f"step {done}, saved", flush=True)
    report(f"step {done}", network, optimizer.weights)


def main(folder: str | None = None, steps: int = 200, every: int = 10) -> None:
    """Train with the checkpoint in ``folder``; None is a temporary folder."""
    with TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        Path(place).mkdir(parents=True, exist_ok=True)
        train(Path(place) / "checkpoint.pt", steps, every)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/resume", help="where the checkpoint is")
    parser.add_argument("--steps", type=int, default=200, help="when to stop")
    parser.add_argument("--every", type=int, default=10, help="how often to save")
    main(**vars(parser.parse_args()))
