"""Tensor functions that several methods share: masks of the present tasks, finiteness, softmax over the tasks."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

Present: TypeAlias = Tensor | None

LARGEST = 2.0**62  # squares, inverses and quotients of numbers up to it, and squares of their differences, are float32


def nan_where_absent(losses: Tensor, present: Present) -> Tensor:
    """Replace the losses of absent tasks by NaN."""
    return losses if present is None else torch.where(present, losses, math.nan)


def zero_where_absent(weights: Tensor, present: Present) -> Tensor:
    """Replace the weights of absent tasks by 0."""
    return weights if present is None else torch.where(present, weights, 0.0)


def sum_to_one(weights: Tensor, present: Present) -> Tensor:
    """Divide the weights of the present tasks by their sum; 0 for the others."""
    weights = zero_where_absent(weights, present)
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def among(present: Present, mask: Tensor) -> Tensor:
    """Return the tasks of a mask that are present, [K] bool."""
    return mask if present is None else mask & present


def number_of(present: Present, values: Tensor) -> Tensor | int:
    """Return the number of present tasks, where ``values`` has one entry a task."""
    return len(values) if present is None else present.sum()


def masked_softmax(logits: Tensor, present: Present) -> Tensor:
    """Softmax over the present tasks alone: [K] logits, [K] bool -> [K]."""
    return logits.softmax(0) if present is None else torch.where(present, logits, -torch.inf).softmax(0)


def relative_weights(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the usable tasks times their number, so that their mean is 1; 1 for the others."""
    largest = torch.finfo(logits.dtype).max
    return torch.where(usable, masked_softmax(logits.clamp(-largest, largest), usable) * usable.sum(), 1.0)


def mean_elsewhere(weights: Tensor, usable: Tensor) -> Tensor:
    """Give tasks that are not usable the mean weight of those that are, or 1 where no task is usable."""
    number = usable.sum()
    mean = torch.where(usable, weights, 0.0).sum() / number.clamp(min=1)
    return torch.where(usable, weights, torch.where(number > 0, mean, 1.0))


def finite(values: Tensor) -> Tensor:
    """Return which values are finite, [K] bool: of magnitude up to :data:`LARGEST`."""
    return _within(values, -LARGEST, LARGEST)


def positive(values: Tensor) -> Tensor:
    """Return which values are positive and finite, [K] bool: from ``1 / LARGEST`` to :data:`LARGEST`."""
    return _within(values, 1 / LARGEST, LARGEST)


def finite_logarithm(logarithms: Tensor) -> Tensor:
    """:func:`positive`, given the logarithms of the values."""
    return _within(logarithms, -math.log(LARGEST), math.log(LARGEST))


def _within(values: Tensor, smallest: float, largest: float) -> Tensor:
    return values.clamp(smallest, largest) == values  # faster than to compare a tensor with a number
