"""A step with each method: of training, or where the problem has no network, of weighing alone.

Training is forward, weigh, backward and AdamW. Weighing alone goes from losses to weights; the reference makes one
vector of the losses. The weights of a scalarizer are the derivatives by the losses. With them come the gradients of
what it learns, but not the step along these, which a weighting takes, and of the scalarizers FAMO.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torchjd.scalarization import FAMO

from art_optim import TaskReweightedOptimizer
from benchmarks.authors import HostArt
from benchmarks.methods import SCALARIZERS
from benchmarks.timing import Step

from .inputs import Input
from .methods import COMPILED, HOST, STACKED, method_of, scalarizer, weighting
from .problems import Problem


def step_of(label: str, given: Input) -> Step:
    """Return what takes a step of a method on the network of the problem, or weighs its losses once."""
    method, problem = method_of(label), given.problem
    if method and method.has_weighting:
        return _weighted(wrapper(label, problem), given)
    if method and method.kind in SCALARIZERS:
        return _scalarized(scalarizer(method, given), label.startswith(COMPILED), given)
    art = HostArt(len(problem.tasks))
    if problem.network is None:
        return (lambda: art.weigh(given.one_by_one())) if label == HOST else given.vector
    totals = {HOST: lambda: art(given.one_by_one()), STACKED: lambda: given.vector().sum()}
    return _loop(inner(problem.network), totals.get(label, given.plain))


def inner(*modules: nn.Module) -> torch.optim.Optimizer:
    """AdamW with small steps: the losses of the last round are like those of the first."""
    return torch.optim.AdamW([p for module in modules for p in module.parameters()], lr=1e-6)


def wrapper(label: str, problem: Problem) -> TaskReweightedOptimizer:
    """Return the wrapper of a method; where there is no network, around an optimizer that takes no step."""
    method = method_of(label)
    network = problem.network or nn.Linear(1, 1, device=problem.device)
    options = {"compile": label.startswith(COMPILED), "interval": method.interval}
    return TaskReweightedOptimizer(inner(network), problem.tasks, weighting(method, problem), **options)


def compiled(function: FunctionType) -> Any:
    """Compile a function by itself: compilations are kept by the code, of which functions made alike have one."""
    copy = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    return torch.compile(copy)


def _loop(optimizer: torch.optim.Optimizer, total: Callable[[], Tensor]) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        total().backward()
        optimizer.step()

    return step


def _weighted(optimizer: TaskReweightedOptimizer, given: Input) -> Step:
    state = optimizer.task_state

    def step() -> None:
        optimizer.zero_grad()
        optimizer.step(given.losses())

    return (lambda: state.weigh(state.gather(given.losses()))) if given.problem.network is None else step


def _scalarized(made: nn.Module, compile: bool, given: Input) -> Step:
    """A scalarizer as documented: FAMO steps its own parameters, from the losses computed again after the step."""
    combine = compiled(lambda values: made(values)) if compile else made
    learned = [] if isinstance(made, FAMO) else [made]

    def weigh() -> None:
        values = given.vector()
        torch.autograd.grad(combine(values), [values, *(p for module in learned for p in module.parameters())])
        if isinstance(made, FAMO):
            made.update(values)

    if given.problem.network is None:
        return weigh
    step = _loop(inner(given.problem.network, *learned), lambda: combine(given.vector()))

    def step_and_update() -> None:
        step()
        with torch.no_grad():
            made.update(given.vector())

    return step_and_update if isinstance(made, FAMO) else step
