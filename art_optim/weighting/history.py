"""What a weighting remembers of past losses, counted in losses of the task itself and not in steps of the run."""

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
    """Return the mean of each task's losses in period number ``warmup`` (from 0), and who has come to its end.

    Both are as before this step; then the usable losses enter the state, in place.
    """
    count, total = state["count"], state["total"]
    mean, known = total / period, count >= (warmup + 1) * period
    total.add_(torch.where(usable & (count >= warmup * period) & ~known, losses, 0.0))
    count.add_(usable)
    return mean, known


def update_moments(values: Tensor, usable: Tensor, share: Tensor, mean: Tensor, variance: Tensor) -> None:
    r"""Give new values a share in a running mean and variance, in place.

    With :math:`1/n` as the share of the :math:`n`-th value these are the mean and the (biased) variance of all, by
    Welford's algorithm; with a constant share they are exponential averages, the variance that of
    :math:`E[x^2] - E[x]^2` without its cancellation.
    """
    difference = values - mean
    variance.copy_(torch.where(usable, (1 - share) * (variance + share * difference.square()), variance))
    mean.copy_(torch.where(usable, mean + share * difference, mean))
