"""Some gloo processes of one test."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

SECONDS = 120
SHARDS = torch.__version__ >= "2.8"
multiprocessing.set_forkserver_preload([__name__, "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.optim"])
needs_fully_shard = pytest.mark.skipif(not SHARDS, reason="fully_shard on the CPU needs torch>=2.8")


def in_processes(
    number: int, case: Callable[[int, DeviceMesh, str], None], folder: Path, start: str = "forkserver"
) -> None:
    """Run ``case(rank, mesh, folder)``, a function of a module, on every rank; its first error is raised here.

    A fork starts in milliseconds. But one that left with an error was once seen to stay for a minute, and the rank that
    waited for it timed out: a test in which a rank leaves starts them by ``"spawn"``.
    """
    context = mp.start_processes(_process, (number, case, str(folder)), number, join=False, start_method=start)
    deadline = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"{number} processes took longer than {SECONDS} s"
    finally:
        for process in context.processes:
            process.kill()


in_two_processes = partial(in_processes, 2)


def _process(rank: int, number: int, case: Callable[[int, DeviceMesh, str], None], folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=SECONDS / 2), rank=rank, world_size=number)
    case(rank, init_device_mesh("cpu", (number,)), folder)
    dist.destroy_process_group()  # not after an error: it may wait for a rank that waits for this one
