"""Improvable gap balancing: more weight for losses that have decreased least since the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, mean_elsewhere, positive, relative_weights
from .history import early_mean, init_early_mean
from .registry import register
from .validation import check_whole


@register("igb")
@dataclass(frozen=True)
class ImprovableGap(Weighting):
    r"""Improvable gap balancing (IGBv1) of Dai et al., "Improvable Gap Balancing for Multi-Task Learning" (UAI 2023).

    .. math::

        \min \sum_t \lambda_t \log L_t, \qquad
        \lambda_t = K \operatorname{softmax}_t (L_t / B_t), \qquad
        w_t = \lambda_t / L_t

    where

    - :math:`L_t` is the loss of task :math:`t` in this step;
    - :math:`B_t` is its base, the mean loss in period number ``warmup``, counted from 0. Until the end of that period,
      :math:`\lambda_t = 1`;
    - :math:`\lambda_t` is detached. The softmax is over the present tasks that have a base, and :math:`K` is their
      number.

    A loss that is not positive (see :class:`Weighting`) is excluded from the base, and has the mean weight of the
    others.

    Args:
        warmup: The number of periods before that of the base, at least 0. 1 is the default of the authors' code.
        period: The number of losses of a task in a period, at least 1. The authors' is the number of steps in an epoch.
        normalize: See :class:`Weighting`.

    State:
        ``count`` [K] int64, the number of losses so far; ``total`` [K] float32, the sum of those in the base's period.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        IGBv2, which finds :math:`\lambda` by reinforcement learning, is not implemented. The authors report
        :math:`\lambda`, not the weight of the loss. A period counts the losses of the task, not the steps of the run.
        The base is fixed for the rest of the run, with any outlier in its period; a longer period averages over more
        losses. The look-alikes are :class:`ScaleInvariant`, :math:`\lambda = 1`, and :class:`SmoothTchebycheff`,
        the gradient of a soft maximum.

    Example:
        >>> import torch
        >>> from art_optim import ImprovableGap
        >>> weighting, present = ImprovableGap(warmup=0), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([2.5000, 5.0000])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # lambda is 1.2449, 0.7551
        tensor([3.1123, 7.5508])
    """

    needs: ClassVar[str] = "positive losses"

    warmup: int = 1
    period: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "warmup", 0)
        check_whole(self, "period", 1)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return init_early_mean(num_tasks, device)

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        usable = positive(losses)
        base, known = early_mean(losses, usable, state, self.warmup, self.period)
        relative = relative_weights(losses / base, usable & known)
        return mean_elsewhere(relative / losses, usable)
