"""Data-parallel training that torchrun restarts when a process dies.

    python -m examples.ddp
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 -m examples.ddp --folder runs/ddp

Kill one of the processes: torchrun ends the others and restarts all of them from the last checkpoint. Each process has
a share of the batch, and all compute the same weights, those of the whole batch. So rank 0 saves for all, and its
checkpoint loads on any number of processes. The variable gives each restart a new store: the one that torchrun would
keep still has the addresses of the processes that died, for which new ones may wait until their timeout.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, part, process_group, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, part, process_group, report


def train(path: Path, steps: int, every: int, device: torch.device) -> None:
    """Train up to ``steps``, starting from the checkpoint at ``path`` if there is one; save every ``every`` steps."""
    torch.manual_seed(0)
    rank, number = dist.get_rank(), dist.get_world_size()
    network = Network().to(device)
    parallel = DistributedDataParallel(network)
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), tasks=TASKS)
    done = 0
    if path.exists():
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        done = checkpoint["done"]
    report(f"step {done}", network)
    while done < steps:
        optimizer.zero_grad()
        optimizer.step(losses(parallel, part(batch(done), rank, number)))
        done += 1
        if done % every == 0 or done == steps:
            if rank == 0:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
                torch.save(state, path.with_suffix(".new"))
                os.replace(path.with_suffix(".new"), path)
            dist.barrier()  # no process is ahead by a checkpoint
            print(f"step {done}, saved", flush=True)
    report(f"step {done}", network, optimizer.weights)


def main(folder: str | None = None, steps: int = 60, every: int = 20) -> None:
    """Train with the checkpoint in ``folder``; None (in a single process) is a temporary folder."""
    with (
        process_group() as device,
        redirect_stdout(sys.stdout if dist.get_rank() == 0 else None),
        TemporaryDirectory() if folder is None else nullcontext(folder) as place,
    ):
        Path(place).mkdir(parents=True, exist_ok=True)
        train(Path(place) / "checkpoint.pt", steps, every, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/ddp", help="where the checkpoint is")
    parser.add_argument("--steps", type=int, default=60, help="when to stop")
    parser.add_argument("--every", type=int, default=20, help="how often to save")
    main(**vars(parser.parse_args()))
