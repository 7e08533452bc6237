"""The processes that train one network together: one, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """This process among those that train together: its ``rank``, their number ``size``, and its ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network with its gradients averaged over the processes.

        Parameters may get no gradient, as long as they are the same in every step.
        """
        if self.size == 1:
            return network
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, static_graph=True)

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        if self.size > 1:
            value = value / self.size
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in one of the processes; all have to ask."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags.item())


def find(device: str | torch.device) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: There is none that computes.
    """
    try:
        probe = torch.zeros(1, device=device)
        probe.item()
    except (AssertionError, RuntimeError) as error:  # whichever the missing backend raises
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which is not here ({reason}); give cpu") from None
    return probe.device


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the processes of torchrun if it started this one; on CUDA each takes the device of its local rank.

    Raises:
        ValueError: There is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    place = find(device)
    if size == 1:
        yield Group(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()
