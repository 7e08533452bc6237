"""Checks of hyperparameters."""

from __future__ import annotations

import math
from typing import Any, get_args


def check_real(weighting: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Hold a hyperparameter to [low, high], and make it a float, so that 3 and 3.0 are one in a checkpoint.

    Raises:
        ValueError: It is outside, or not finite.
    """
    value = float(getattr(weighting, name))
    object.__setattr__(weighting, name, value)
    if math.isfinite(value) and low <= value <= high:
        return
    wanted = f"in [{low:g}, {high:g}]" if high < math.inf else "finite"
    if high == math.inf and low > -math.inf:
        wanted += f" and at least {low:g}"
    raise ValueError(f"{name} is {value}; it must be {wanted}")


def check_whole(weighting: object, name: str, low: int) -> None:
    """Hold a hyperparameter to the whole numbers from ``low`` to the largest of int64.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if not isinstance(value, int) or not low <= value < 2**63:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {low} and below 2**63")


def check_choice(weighting: object, name: str, choices: Any) -> None:
    """Hold a hyperparameter to the values of a ``Literal``.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")
