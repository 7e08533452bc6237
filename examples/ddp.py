"""Data-parallel training that torchrun starts again where a process has died.

    python -m examples.ddp
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 -m examples.ddp --folder runs/ddp

Kill one of the processes: torchrun ends the others and starts all of them again, from the last checkpoint. Each has its
share of the batch; all find the same weights, those of the whole batch, and so one checkpoint, that of rank 0, serves
all, and any other number of them. The variable gives every start a store of its own: in the one that torchrun keeps for
all of them are the addresses of the processes that have died, for which new ones may wait until their timeout.
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
    """Train up to ``steps``, from the checkpoint in ``path`` on if there is one; write one every so often."""
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
            dist.barrier()  # no process is a checkpoint ahead
            print(f"step {done}, saved", flush=True)
    report(f"step {done}", network, optimizer.weights)


def main(folder: str | None = None, steps: int = 60, every: int = 20) -> None:
    """Train with the checkpoint in ``folder``; without one (in one process), in a folder that does not last."""
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
