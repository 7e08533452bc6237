"""One combination of problem, input and number of tasks: time all methods in the same rounds, then count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import Step, quartiles, rounds

from .counting import count
from .inputs import INPUTS, Input, Own
from .methods import AGAIN, REFERENCE, interval_of, skipped
from .problems import PROBLEMS, existing
from .steps import step_of

MOST_TASKS = {"srresnet": 40}  # its batch has an image of every task


@dataclass(frozen=True)
class Combination:
    """Which problem, how its losses come, and how many tasks it has."""

    problem: str
    input: str
    tasks: int

    def skipped(self) -> str | None:
        """Why it makes no sense to measure this, or None where it does."""
        most = MOST_TASKS.get(self.problem, self.tasks)
        return f"a batch with an image of every task, for more than {most} tasks" if self.tasks > most else None

    def given(self, device: str) -> Input:
        """Make the problem anew, always the same."""
        torch.manual_seed(0)
        if self.problem not in PROBLEMS:
            return Own(existing(self.problem, device))
        return INPUTS[self.input](PROBLEMS[self.problem](self.tasks, device))


def contestants(of: Combination, names: Sequence[str], device: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Return what takes a step of each method, on a network of its own; and which make no sense here, and why."""
    steps: dict[str, Step] = {}
    without: dict[str, str] = {}
    for name in dict.fromkeys([REFERENCE, AGAIN, *names]):
        given = of.given(device)
        why = skipped(name, given)
        if why is not None:
            without[name] = why
        else:
            steps[name] = step_of(name, given)
    return steps, without


def measure(
    of: Combination, names: Sequence[str], device: str, least: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a record a method, and which make no sense here, and why."""
    steps, without = contestants(of, names, device)
    intervals = {name: interval_of(name) for name in steps}
    times = rounds(steps, device, least, seconds, multiple=math.lcm(*intervals.values()))
    summary = quartiles(times, REFERENCE)
    counts = {name: count(step, device, intervals[name]) for name, step in steps.items()}
    plain = counts[REFERENCE]["peak bytes"]
    records = [
        {
            "problem": of.problem,
            "input": of.input,
            "tasks": of.tasks,
            "method": name,
            "rounds": len(times),
            **{key: summary.loc[name, key].to_dict() for key in ("time", "ratio", "extra")},
            **counts[name],
            "bytes beyond": counts[name]["peak bytes"] - plain,
        }
        for name in steps
    ]
    return records, without
