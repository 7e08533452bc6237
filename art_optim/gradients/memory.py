"""What an aggregator of TorchJD remembers from step to step, as tensors of the task state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it the global generators have a seed; afterwards they are where they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def parts_that_remember(aggregator: Aggregator) -> list[Stateful]:
    """Return the modules of an aggregator that have a memory."""
    return [module for module in aggregator.modules() if isinstance(module, Stateful)]


# TorchJD has no state dict for what its aggregators remember: some of it is in buffers, some in attributes.
def memory(aggregator: Aggregator) -> dict[str, Tensor]:
    """Return copies of all numbers, arrays and tensors in an aggregator, as tensors by their paths."""
    return {
        f"{path}.{name}": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        if not isinstance(value, Tensor)
        else value.detach().clone()
        for path, module in aggregator.named_modules()
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))
        if isinstance(value, (Tensor, int, float)) or type(value).__module__ == "numpy"
    }


def parts_of_memory(state: dict[str, Tensor]) -> list[str]:
    """Return the names of a task state that :func:`memory` has given: paths, which have a dot."""
    return [name for name in state if "." in name]


def first_memory(aggregator: Aggregator, jacobian: Tensor) -> dict[str, Tensor]:
    """Return what an aggregator remembers of its first Jacobian."""
    aggregator = copy.deepcopy(aggregator)
    _forget(aggregator)
    before = memory(aggregator)
    if parts_that_remember(aggregator):
        with seeded(0, jacobian.device):
            aggregator(jacobian)
    return {name: tensor for name, tensor in memory(aggregator).items() if not _same(before.get(name), tensor)}


def _forget(aggregator: Aggregator) -> None:
    for part in parts_that_remember(aggregator):
        part.reset()


def recall(aggregator: Aggregator, jacobian: Tensor, state: dict[str, Tensor]) -> None:
    """Bring an aggregator to where it was when it left the state, unless it is there."""
    remembered = {name: state[name].cpu() for name in parts_of_memory(state)}
    now = memory(aggregator)
    if state["steps"] == 0:
        _forget(aggregator)
    elif not all(_same(now.get(name), tensor) for name, tensor in remembered.items()):
        _forget(aggregator)
        # A first Jacobian makes what is no number: the key of the shapes, the problem of a solver.
        with seeded(0, jacobian.device):
            aggregator(torch.eye(len(jacobian)).to(jacobian))
        modules = dict(aggregator.named_modules())
        for name, tensor in remembered.items():
            path, _, attribute = name.rpartition(".")
            value = getattr(modules[path], attribute)
            if isinstance(value, Tensor):
                setattr(modules[path], attribute, tensor.to(value.device, copy=True))
            else:
                setattr(modules[path], attribute, tensor.numpy() if tensor.ndim else type(value)(tensor.item()))


def _same(left: Tensor | None, right: Tensor) -> bool:
    return left is not None and left.dtype == right.dtype and torch.equal(left.cpu(), right.cpu())
