"""What is measured, by label: loops that weigh nothing, and methods of :mod:`benchmarks.methods`."""

from __future__ import annotations

from dataclasses import replace

from torchjd.scalarization import DWA, Scalarizer

from art_optim.weighting import Weighting, available
from benchmarks.methods import AUTHORS, FIXED, FIXED_AT, SCALARIZERS, Method

from .inputs import Input
from .problems import Problem

REFERENCE = "plain"
AGAIN = f"{REFERENCE} again"
STACKED = "stacked"
HOST = "on the host"
AGGREGATOR = "upgrad"
INTERVAL = 8
AT_INTERVALS = f" every {INTERVAL}"  # after the label of a weighting
COMPILED = "compiled "  # before it
TORCHJD = "torchjd "
OF_LABELS = {HOST: AUTHORS, FIXED: f"{FIXED_AT}equal"}  # the others differ in their punctuation
MOST_GRADIENTS = 40  # tasks that are differentiated one by one


def names() -> list[str]:
    """Everything that is measured, the reference first."""
    at_intervals = [f"{name}{AT_INTERVALS}" for name in ("art", "gradnorm", AGGREGATOR)]
    scalarizers = [name.replace(".", " ") for name in SCALARIZERS]
    return [REFERENCE, AGAIN, STACKED, HOST, *available(), AGGREGATOR, *at_intervals, *scalarizers]


def compilable() -> list[str]:
    """What can be measured compiled as well: the weightings, and a scalarizer that learns."""
    return [*available(), f"{TORCHJD}UW"]


def method_of(label: str) -> Method | None:
    """Return the method of a label, or None of a loop that weighs nothing."""
    if label in (REFERENCE, AGAIN, STACKED):
        return None
    base = label.removeprefix(COMPILED)
    return Method.parse(OF_LABELS.get(base, base.replace(" every ", "@").replace(" ", ".")))


def interval_of(label: str) -> int:
    """Return the number of steps from one weighing to the next."""
    method = method_of(label)
    return int(method.interval) if method else 1


def skipped(label: str, given: Input) -> str | None:
    """Why it makes no sense to measure this here, or None where it does."""
    problem, method = given.problem, method_of(label)
    if problem.network is None and label == STACKED:
        return "stacking is the reference where there is no network"
    if method and method.has_weighting and "gradients" in weighting(method, problem).needs:
        if problem.network is None:
            return "gradients need a network"
        if len(problem.tasks) > MOST_GRADIENTS:
            return f"a backward pass a task is too much for more than {MOST_GRADIENTS} tasks"
        if label.startswith(COMPILED):
            return "its time is that of the backward passes, which are not compiled here"
    if method and method.kind in SCALARIZERS and any(loss is None for loss in given.one_by_one()):
        return "a scalarizer wants a loss of every task, and the batch has fewer samples"
    return None


def weighting(method: Method, problem: Problem) -> Weighting:
    """Make a weighting on its published scale, with the shared layer if it takes one."""
    equal = [1 / len(problem.tasks)] * len(problem.tasks)
    return replace(method.weighting(shared=problem.shared, weights=equal), normalize="published")


def scalarizer(method: Method, given: Input) -> Scalarizer:
    """Make a scalarizer; DWA has two epochs behind it, and the third does not end before all is measured."""
    made = SCALARIZERS[method.kind](len(given.problem.tasks)).to(given.problem.device)
    if isinstance(made, DWA):
        for _ in range(2):
            made(given.vector().detach())
            made.step()
    return made
