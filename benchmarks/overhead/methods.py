"""What is measured, by name: the plain loop, every weighting, TorchJD's scalarizers, a loop that weighs on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchjd.scalarization import DWA, FAMO, IMTLL, STCH, UW, GeometricMean, Mean, Random, Scalarizer, Sum

from art_optim.gradients.aggregation import JacobianAggregation
from art_optim.weighting import Weighting, available, create
from benchmarks.aggregators import AGGREGATORS

from .compiling import COMPILED
from .inputs import Input, Mixed
from .problems import Problem

REFERENCE = "plain"
AGAIN = f"{REFERENCE} again"
STACKED = "stacked"
HOST = "on the host"
AGGREGATOR = "upgrad"
INTERVAL = 8
AT_INTERVALS = f" every {INTERVAL}"  # after the name of a weighting
SCALARIZERS: dict[str, Callable[[int], Scalarizer]] = {
    "torchjd Sum": lambda num_tasks: Sum(),
    "torchjd Mean": lambda num_tasks: Mean(),
    "torchjd DWA": lambda num_tasks: DWA(),
    "torchjd FAMO": FAMO,
    "torchjd GeometricMean": lambda num_tasks: GeometricMean(),
    "torchjd IMTLL": IMTLL,
    "torchjd Random": lambda num_tasks: Random(),
    "torchjd STCH": lambda num_tasks: STCH(mu=1.0),
    "torchjd UW": UW,
}
MOST_GRADIENTS = 40  # tasks that are differentiated one by one


def names() -> list[str]:
    """Everything that is measured, the reference first."""
    weightings = [*available(), AGGREGATOR]
    at_intervals = [f"{name}{AT_INTERVALS}" for name in ("art", "gradnorm", AGGREGATOR)]
    return [REFERENCE, AGAIN, STACKED, HOST, *weightings, *at_intervals, *SCALARIZERS]


def compilable() -> list[str]:
    """What can be measured compiled as well: the weightings, and a scalarizer that learns."""
    return [*available(), "torchjd UW"]


def is_weighting(name: str) -> bool:
    """Whether the wrapper takes it."""
    return base_of(name) in {*available(), AGGREGATOR}


def base_of(name: str) -> str:
    """Return the name of a method without what says how it is run."""
    return name.removeprefix(COMPILED).removesuffix(AT_INTERVALS)


def interval_of(name: str) -> int:
    """Return the number of steps from one weighing to the next."""
    return INTERVAL if name.endswith(AT_INTERVALS) else 1


def skipped(name: str, given: Input) -> str | None:
    """Why it makes no sense to measure this here, or None where it does."""
    problem, base = given.problem, base_of(name)
    if problem.network is None and base == STACKED:
        return "stacking is the reference where there is no network"
    if is_weighting(base) and "gradients" in weighting(base, problem).needs:
        if problem.network is None:
            return "gradients need a network"
        if len(problem.tasks) > MOST_GRADIENTS:
            return f"a backward pass a task is too much for more than {MOST_GRADIENTS} tasks"
        if name.startswith(COMPILED):
            return "its time is that of the backward passes, which are not compiled here"
    if base in SCALARIZERS and isinstance(given, Mixed) and len(problem.task_ids) < len(problem.tasks):
        return "a scalarizer wants a loss of every task, and the batch has fewer samples"
    return None


def weighting(name: str, problem: Problem) -> Weighting:
    """Make a weighting with what it cannot do without, and with the shared layer if it takes one."""
    if name == AGGREGATOR:
        return JacobianAggregation(AGGREGATORS[name]())
    required: dict[str, Any] = {"weights": [1 / len(problem.tasks)] * len(problem.tasks)} if name == "fixed" else {}
    made = create(name, **required)
    return replace(made, shared=problem.shared) if problem.shared and hasattr(made, "shared") else made


def scalarizer(name: str, given: Input) -> Scalarizer:
    """Make a scalarizer; DWA has two epochs behind it, and the third does not end before all is measured."""
    made = SCALARIZERS[name](len(given.problem.tasks)).to(given.problem.task_ids.device)
    if isinstance(made, DWA):
        for _ in range(2):
            made(given.vector().detach())
            made.step()
    return made
