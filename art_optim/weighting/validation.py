"""Checks of hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, SupportsFloat, TypeAlias, get_args

PerTask: TypeAlias = Sequence[float] | Mapping[str, float]


def check_real(weighting: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Convert a hyperparameter to float (3 and 3.0 are one value in a checkpoint), and check that it is in [low, high].

    Raises:
        TypeError: It is not a number.
        ValueError: It is outside, or not finite.
    """
    value = _number(name, getattr(weighting, name))
    object.__setattr__(weighting, name, value)
    if not _within(value, low, high):
        raise ValueError(f"{name} is {value}; it must be {_range(low, high)}")


def check_positive(weighting: object, name: str) -> None:
    """Convert a hyperparameter to float, and check that it is positive and finite.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive and finite.
    """
    value = _number(name, getattr(weighting, name))
    object.__setattr__(weighting, name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be positive and finite")


def check_history_share(weighting: object, name: str) -> None:
    """Convert the share of history in a running mean to float, and check that it is in [0, 1).

    Raises:
        TypeError: It is not a number.
        ValueError: It is outside.
    """
    value = _number(name, getattr(weighting, name))
    object.__setattr__(weighting, name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it must be in [0, 1), the share of history in the smoothed loss")


def check_whole(weighting: object, name: str, low: int) -> None:
    """Check that a hyperparameter is a whole number from ``low`` to the largest of int64.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if not isinstance(value, int) or not low <= value < 2**63:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {low} and below 2**63")


def check_choice(weighting: object, name: str, choices: Any) -> None:
    """Check that a hyperparameter is one of the values of a ``Literal``.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")


def check_per_task(weighting: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Convert a hyperparameter with one number a task to a tuple of floats, or to a dict sorted by task name.

    Raises:
        TypeError: It is neither a sequence of numbers nor a mapping from task name to number.
        ValueError: A number is outside [low, high], or not finite.
    """
    given = getattr(weighting, name)
    numbers: dict[Any, float] | None = None
    if isinstance(given, Mapping) and all(isinstance(task, str) for task in given):
        numbers = {str.__str__(task): _number(f"{name}[{task!r}]", given[task]) for task in sorted(given)}
    elif isinstance(given, Iterable) and not isinstance(given, (str, Mapping, Set)):
        numbers = {i: _number(f"{name}[{i}]", number) for i, number in enumerate(given)}
    if numbers is None:
        raise TypeError(
            f"{name} is {given!r}; give one number a task: a mapping from task name to number, or a sequence in the "
            "order of the tasks"
        )
    for place, number in numbers.items():
        if not _within(number, low, high):
            raise ValueError(f"{name}[{place!r}] is {number}; it must be {_range(low, high)}")
    object.__setattr__(weighting, name, numbers if isinstance(given, Mapping) else tuple(numbers.values()))


def in_order(name: str, numbers: PerTask, tasks: Sequence[str]) -> Sequence[float]:
    """Return the numbers of a mapping in the order of the tasks; a sequence is in order already.

    Raises:
        ValueError: The mapping lacks a task, or names one that is unknown.
    """
    if not isinstance(numbers, Mapping):
        return numbers
    missing = [task for task in tasks if task not in numbers]
    unknown = [task for task in numbers if task not in tasks]
    if missing or unknown:
        wrong = [f"has no number for {missing}"] * bool(missing) + [f"has unknown tasks {unknown}"] * bool(unknown)
        raise ValueError(
            f"{name} {' and '.join(wrong)}; the tasks are {list(tasks)}: give each one number, and declare them all "
            "with tasks=[...]"
        )
    return tuple(numbers[task] for task in tasks)


def one_a_task(name: str, numbers: PerTask, num_tasks: int) -> Sequence[float]:
    """Return a sequence whose length has been checked.

    Raises:
        ValueError: It is of another length, or a mapping.
    """
    if isinstance(numbers, Mapping):
        raise ValueError(f"{name} is a mapping from task name to number; call for_tasks(tasks) first, then init")
    if len(numbers) != num_tasks:
        raise ValueError(
            f"{name} has {len(numbers)} numbers for {num_tasks} tasks; give one a task, and declare all tasks with "
            "tasks=[...]"
        )
    return numbers


def _number(name: str, value: Any) -> float:
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} is {value!r}; give a number")
    return float(value)


def _within(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


def _range(low: float, high: float) -> str:
    if high < math.inf:
        return f"in [{low:g}, {high:g}]"
    return f"finite and at least {low:g}" if low > -math.inf else "finite"
