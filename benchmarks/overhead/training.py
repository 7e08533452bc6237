"""A training step with each method: forward, weigh, backward, and AdamW."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchjd.scalarization import FAMO

from art_optim import TaskReweightedOptimizer
from benchmarks.timing import Step

from .authors import HostArt
from .compiling import COMPILED, compiled
from .inputs import Input
from .methods import HOST, SCALARIZERS, STACKED, base_of, interval_of, is_weighting, scalarizer, weighting


def step_of(name: str, given: Input) -> Step:
    """Return what takes a step of a method on the network of the problem."""
    base, network = base_of(name), given.problem.network
    if is_weighting(base):
        made = weighting(base, given.problem)
        options = {"compile": name.startswith(COMPILED), "interval": interval_of(name)}
        return _wrapped(TaskReweightedOptimizer(inner(network), given.problem.tasks, made, **options), given)
    if base in SCALARIZERS:
        made = scalarizer(base, given)
        if isinstance(made, FAMO):
            return _famo(made, given)
        combine = made if name == base else compiled(lambda values: made(values))
        return _loop(inner(network, made), lambda: combine(given.vector()))
    if name == HOST:
        art = HostArt(len(given.problem.tasks))
        return _loop(inner(network), lambda: art(given.one_by_one()))
    return _loop(inner(network), (lambda: given.vector().sum()) if name == STACKED else given.plain)


def inner(*modules: nn.Module) -> torch.optim.Optimizer:
    """AdamW with small steps: the losses of the last round are like those of the first."""
    return torch.optim.AdamW([p for module in modules for p in module.parameters()], lr=1e-6)


def _loop(optimizer: torch.optim.Optimizer, total: Callable[[], Tensor]) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        total().backward()
        optimizer.step()

    return step


def _wrapped(optimizer: TaskReweightedOptimizer, given: Input) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        optimizer.step(given.losses())

    return step


def _famo(made: FAMO, given: Input) -> Step:
    """As documented: it steps its own parameters, for which the losses are computed once more after the step."""
    step = _loop(inner(given.problem.network), lambda: made(given.vector()))

    def step_and_update() -> None:
        step()
        with torch.no_grad():
            made.update(given.vector())

    return step_and_update
