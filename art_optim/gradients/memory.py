"""What an aggregator of TorchJD remembers and draws, as functions of tensors and a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchjd import Stateful
from torchjd.aggregation import Aggregator

_DRAWS: WeakKeyDictionary[Aggregator, bool] = WeakKeyDictionary()


@contextmanager
def seeded(aggregator: Aggregator, seed: int, device: torch.device) -> Iterator[None]:
    """Let an aggregator draw from a stream of its own.

    The global generators, from which TorchJD draws, are seeded for that and restored. An aggregator that does not draw
    does not touch them, so that other threads may use them; the first call finds out which it is.
    """
    with ExitStack() as stack:
        if aggregator not in _DRAWS:
            first = stack.enter_context(_FirstDraw(lambda: stack.enter_context(_forked(seed, device))))
            yield
            _DRAWS[aggregator] = first.drawn
        else:
            if _DRAWS[aggregator]:
                stack.enter_context(_forked(seed, device))
            yield


class _FirstDraw(TorchDispatchMode):
    """Calls a function before the first operator that draws random numbers."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = False
        self._prepare = prepare

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.drawn and torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn = True
            self._prepare()
        return func(*args, **(kwargs or {}))


@contextmanager
def _forked(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def parts_that_remember(aggregator: Aggregator) -> list[Stateful]:
    """Return the modules of an aggregator that have a memory."""
    return [module for module in aggregator.modules() if isinstance(module, Stateful)]


# TorchJD has no state dict for what its aggregators remember, which is partly in buffers and partly in attributes.
def memory(aggregator: Aggregator) -> dict[str, Tensor]:
    """Return copies of all numbers, arrays and tensors of an aggregator, as tensors by their paths."""
    return {
        f"{path}.{name}": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
        if not isinstance(value, Tensor)
        else value.detach().clone()
        for path, module in aggregator.named_modules()
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))
        if isinstance(value, (Tensor, int, float)) or type(value).__module__ == "numpy"
    }


def parts_of_memory(state: dict[str, Tensor]) -> list[str]:
    """Return the names in a task state that come from :func:`memory`: those with a dot."""
    return [name for name in state if "." in name]


def first_memory(aggregator: Aggregator, jacobian: Tensor) -> dict[str, Tensor]:
    """Return what a fresh copy of an aggregator remembers after one Jacobian."""
    aggregator = copy.deepcopy(aggregator)
    _forget(aggregator)
    before = memory(aggregator)
    if parts_that_remember(aggregator):
        with seeded(aggregator, 0, jacobian.device):
            aggregator(jacobian)
    return {name: tensor for name, tensor in memory(aggregator).items() if not _same(before.get(name), tensor)}


def _forget(aggregator: Aggregator) -> None:
    for part in parts_that_remember(aggregator):
        part.reset()


def recall(aggregator: Aggregator, jacobian: Tensor, state: dict[str, Tensor]) -> None:
    """Restore the memory of an aggregator from the task state, unless it is up to date."""
    remembered = {name: state[name].cpu() for name in parts_of_memory(state)}
    now = memory(aggregator)
    if state["steps"] == 0:
        _forget(aggregator)
    elif not all(_same(now.get(name), tensor) for name, tensor in remembered.items()):
        _forget(aggregator)
        # A first Jacobian creates what is not a number: the key of the shapes, the problem of a solver.
        with seeded(aggregator, 0, jacobian.device):
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
