"""Means and variances of past losses, counted in losses of each task rather than in steps of the run."""

from __future__ import annotations

import torch
from torch import Tensor


def init_early_mean(num_tasks: int, device: torch.device | str | None) -> dict[str, Tensor]:
    """Return the state of :func:`early_mean`."""
    return {
        "count": torch.zeros(num_tasks, dtype=torch.int64, device=device),
        "total": torch.zeros(num_tasks, dtype=torch.float32, device=device),
    }


def early_mean(
    losses: Tensor, usable: Tensor, state: dict[str, Tensor], warmup: int, period: int
) -> tuple[Tensor, Tensor]:
    """Return the mean of each task's losses in period number ``warmup`` (from 0), and which tasks have completed it.

    Both exclude this step. Then the usable losses are added to the state, in place.
    """
    count, total = state["count"], state["total"]
    mean, known = total / period, count >= (warmup + 1) * period
    total.add_(torch.where(usable & (count >= warmup * period) & ~known, losses, 0.0))
    count.add_(usable)
    return mean, known


def update_moments(values: Tensor, usable: Tensor, share: Tensor, mean: Tensor, variance: Tensor) -> None:
    r"""Update a running mean and variance with new values of the given share, in place.

    With a share of :math:`1/n` for the :math:`n`-th value, these are the mean and the biased variance of all values
    (Welford's algorithm); with a constant share, exponential averages. The variance equals :math:`E[x^2] - E[x]^2`, but
    is computed without its cancellation. It stays in float32 if the usable values are finite in the sense of
    :func:`~.functional.finite`.
    """
    difference = values - mean
    torch.where(usable, (1 - share) * (variance + share * difference.square()), variance, out=variance)
    torch.where(usable, mean + share * difference, mean, out=mean)
