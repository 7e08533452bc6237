"""The methods that can be compared, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from art_optim import FixedWeighting
from art_optim.gradients.aggregation import JacobianAggregation
from art_optim.weighting import Weighting, available, create
from benchmarks.aggregators import AGGREGATORS

CONTROL = "mean-of:"  # the weights of another run, averaged over its steps and then held fixed


def names() -> list[str]:
    """The methods that stand on their own: all but the controls."""
    return [*(name for name in available() if name != "fixed"), *AGGREGATORS]  # fixed needs weights


def default() -> list[str]:
    """What is compared unless told otherwise."""
    return [*names(), f"{CONTROL}art"]


def base(name: str) -> str:
    """The method of the run that must come first, which of a control is the one that it averages."""
    return name.removeprefix(CONTROL)


def check(given: Sequence[str]) -> None:
    """Raise if a name is not known.

    Raises:
        ValueError: A name is none of a method, nor ``mean-of:`` and one.
    """
    for name in given:
        if base(name) not in names():
            raise ValueError(
                f"method {name!r} is not known; choose from {', '.join(names())}, or put {CONTROL} before one of them"
            )


def make(name: str, seed: int, weights: Sequence[float] | None = None) -> Weighting:
    """Make a method, which draws from the seed if it draws at all; a control is given its weights."""
    if weights is not None:
        return FixedWeighting(weights, normalize="mean")
    if name in AGGREGATORS:
        return JacobianAggregation(AGGREGATORS[name](), seed=seed, normalize="mean")
    weighting = create(name, normalize="mean")
    return replace(weighting, seed=seed) if hasattr(weighting, "seed") else weighting
