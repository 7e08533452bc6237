"""Tuning, alike for all: the same number of trials a method, chosen on validation with seeds of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.methods import Method
from benchmarks.problems import Problem

from .training import Run

TRIALS = 9  # of a method: its hyperparameter at three values times three learning rates, or nine learning rates
RANGE = 5.0  # learning rates from a fifth of the problem's to five times that
FIRST_SEED = 1000  # results are of others


@dataclass(frozen=True)
class Tuned:
    """A method with the hyperparameter and the learning rate that it is run with."""

    method: str
    learning_rate: float
    trials: int = 0

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"method": self.method, "learning_rate": self.learning_rate, "trials": self.trials}


def untuned(method: str, problem: Problem) -> Tuned:
    """Return the method as its name says, with the learning rate of the problem."""
    return Tuned(method, problem.learning_rate)


def candidates(method: str, problem: Problem) -> list[Tuned]:
    """Return what is tried for a method.

    Example:
        >>> from benchmarks.problems import create
        >>> sorted({tried.method for tried in candidates("art", create("synthetic"))})
        ['art', 'art:temperature=0.3', 'art:temperature=1.0']
    """
    variants = [str(variant) for variant in Method.parse(method).trials()]
    number = TRIALS // len(variants)
    rates = [problem.learning_rate * RANGE ** (2 * index / (number - 1) - 1) for index in range(number)]
    return [Tuned(variant, float(f"{rate:.4g}"), TRIALS) for variant in variants for rate in rates]


def trials(text: str, method: str, problem: Problem, seeds: int, steps: int, device: str) -> dict[Tuned, list[Run]]:
    """Return the runs of each candidate."""
    return {
        tried: [Run(text, tried.method, FIRST_SEED + seed, steps, tried.learning_rate, device) for seed in range(seeds)]
        for tried in candidates(method, problem)
    }


def best(problem: Problem, tried: Mapping[Tuned, Sequence[Run]], records: Mapping[Run, Any]) -> Tuned:
    """Return the candidate whose deciding metric is best on validation, averaged over the seeds.

    A run that failed or diverged is the worst; among equals the first is taken.
    """
    name, metric = next(iter(problem.metrics.items()))

    def value(runs: Iterable[Run]) -> float:
        values = [records[run].get("metrics", {}).get("validation", {}).get(name) for run in runs]
        if any(value is None for value in values):
            return -float("inf")
        mean = sum(values) / len(values)
        return mean if metric.higher else -mean

    return max(tried, key=lambda candidate: value(tried[candidate]))
