"""Tensor functions that several methods share: masks of the present tasks, finiteness, softmax over the tasks."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

Present: TypeAlias = Tensor | None


def nan_where_absent(losses: Tensor, present: Present) -> Tensor:
    """The losses of the present tasks, NaN for the others."""
    return losses if present is None else torch.where(present, losses, math.nan)


def zero_where_absent(weights: Tensor, present: Present) -> Tensor:
    """The weights of the present tasks, 0 for the others."""
    return weights if present is None else torch.where(present, weights, 0.0)


def sum_to_one(weights: Tensor, present: Present) -> Tensor:
    """The weights divided by the sum of those of the present tasks; 0 for the others."""
    weights = zero_where_absent(weights, present)
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def among(present: Present, mask: Tensor) -> Tensor:
    """[K] bool, the present ones of the tasks in a mask."""
    return mask if present is None else mask & present


def number_of(present: Present, values: Tensor) -> Tensor | int:
    """How many tasks are present, of those that have the values."""
    return len(values) if present is None else present.sum()


def masked_softmax(logits: Tensor, present: Present) -> Tensor:
    """Softmax over the present tasks alone: [K] logits, [K] bool -> [K]."""
    return logits.softmax(0) if present is None else torch.where(present, logits, -torch.inf).softmax(0)


def relative_weights(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the usable tasks times their number, so that these average 1; 1 for the others."""
    largest = torch.finfo(logits.dtype).max
    return torch.where(usable, masked_softmax(logits.clamp(-largest, largest), usable) * usable.sum(), 1.0)


def mean_elsewhere(weights: Tensor, usable: Tensor) -> Tensor:
    """The weights of the usable tasks, for the others the mean of these; 1 where no task is usable."""
    number = usable.sum()
    mean = torch.where(usable, weights, 0.0).sum() / number.clamp(min=1)
    return torch.where(usable, weights, torch.where(number > 0, mean, 1.0))


# Tensor-tensor operators avoid wrapping a Python scalar, which doubles their cost.
def zero_or_nan(values: Tensor) -> Tensor:
    """0 where the value is finite, NaN elsewhere."""
    return values - values


def finite(values: Tensor) -> Tensor:
    """[K] bool, the tasks whose value is finite."""
    zero = zero_or_nan(values)
    return zero == zero


def positive(values: Tensor) -> Tensor:
    """[K] bool, the tasks whose value is positive and finite."""
    return finite(values.log())
