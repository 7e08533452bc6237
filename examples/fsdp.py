"""A sharded network (FSDP2), with checkpoints through ``torch.distributed.checkpoint`` for any number of processes.

    python -m examples.fsdp
    torchrun --nproc-per-node 2 -m examples.fsdp --folder runs/fsdp

Kill it and run either command again. Each process has a share of the batch, and all compute the same weights, those of
the whole batch. ``get_state_dict`` and ``set_state_dict`` carry the state of the weighting within that of the
optimizer. The tasks must be declared, since loading fills in the tensors that exist already.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, part, process_group, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, part, process_group, report


def train(folder: Path, steps: int, every: int, device: torch.device) -> None:
    """Train up to ``steps``, starting from the last checkpoint in ``folder`` if any; save every ``every`` steps."""
    torch.manual_seed(0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    network = Network().to(device)
    fully_shard(network.trunk, mesh=mesh)
    fully_shard(network, mesh=mesh)
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), tasks=TASKS)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

    def state() -> dict[str, Any]:
        network_state, optimizer_state = get_state_dict(network, optimizer)
        return {"network": network_state, "optimizer": optimizer_state, "scheduler": scheduler}

    # The metadata is written last: a checkpoint without it is incomplete.
    done = max((int(path.parent.name) for path in folder.glob("*/.metadata")), default=0)
    if done:
        loaded = state()
        dcp.load(loaded, checkpoint_id=folder / str(done))
        set_state_dict(network, optimizer, model_state_dict=loaded["network"], optim_state_dict=loaded["optimizer"])
    report(f"step {done}", network)
    while done < steps:
        optimizer.zero_grad()
        optimizer.step(losses(network, part(batch(done), mesh.get_rank(), mesh.size())))
        scheduler.step()
        done += 1
        if done % every == 0 or done == steps:
            dcp.save(state(), checkpoint_id=folder / str(done))
            print(f"step {done}, saved", flush=True)
    report(f"step {done}", network, optimizer.weights)


def main(folder: str | None = None, steps: int = 60, every: int = 20) -> None:
    """Train with checkpoints in ``folder``; None (in a single process) is a temporary folder."""
    with (
        process_group() as device,
        redirect_stdout(sys.stdout if dist.get_rank() == 0 else None),
        TemporaryDirectory() if folder is None else nullcontext(folder) as place,
    ):
        train(Path(place), steps, every, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/fsdp", help="where the checkpoints are")
    parser.add_argument("--steps", type=int, default=60, help="when to stop")
    parser.add_argument("--every", type=int, default=20, help="how often to save")
    main(**vars(parser.parse_args()))
