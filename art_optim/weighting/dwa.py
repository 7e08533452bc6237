"""Dynamic weight average: more weight for losses that decrease slowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, among, finite, positive, relative_weights
from .registry import register
from .validation import check_real, check_whole


@register("dwa")
@dataclass(frozen=True)
class DynamicWeightAverage(Weighting):
    r"""Dynamic weight average of Liu et al., "End-to-End Multi-Task Learning with Attention" (CVPR 2019).

    .. math::

        r_t = \frac{\bar L_t(e - 1)}{\bar L_t(e - 2)}, \qquad
        w_t = K \operatorname{softmax}_t (r_t / \tau)

    where

    - :math:`\bar L_t(e)` is the mean loss of task :math:`t` in period :math:`e`, the paper's epoch;
    - :math:`r_t` is its relative descending rate;
    - the softmax is over the present tasks, and :math:`K` is their number, which the weights sum to.

    The weight is 1 until the task has completed two periods, and where the rate is not positive (a mean is 0, or the
    sign has changed). A loss that is not finite (see :class:`Weighting`) is excluded from the mean.

    Args:
        temperature: :math:`\tau`, at least 1e-6; the larger, the closer the weights are to uniform. 2 is the paper's.
        period: The number of losses of a task in a mean, at least 1. The paper's is the number of steps in an epoch.
        normalize: See :class:`Weighting`.

    State:
        ``last`` and ``before``, the sums of the losses of the last two completed periods, 0 where there is none;
        ``total`` and ``count``, the sum and number of losses of the current period. All [K] float32, except ``count``,
        which is int64.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        A period counts the losses of the task, not the steps of the run. The two agree while all tasks are present; a
        rare task has longer periods, and no period is empty. Implementations disagree: those of Nash-MTL and FAMO
        compare two sliding windows of 25 steps that include this one, and their weights sum to 1.

        The look-alikes: :class:`SoftAdapt` divides this step's loss by the previous one, and so reacts a step earlier
        than ``period=1``; :class:`Art` divides it by a smoothed loss.

    Example:
        >>> import torch
        >>> from art_optim import DynamicWeightAverage
        >>> weighting, present = DynamicWeightAverage(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([1., 1.])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)
        tensor([1., 1.])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # the second task had halved its loss
        tensor([1.1244, 0.8756])
    """

    needs: ClassVar[str] = "positive losses"

    temperature: float = 2.0
    period: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "temperature", 1e-6)
        check_whole(self, "period", 1)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        zeros = torch.zeros(num_tasks, dtype=torch.float32, device=device)
        state = {name: zeros.clone() for name in ("last", "before", "total")}
        return {**state, "count": zeros.long()}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        rate = state["last"] / state["before"]  # the quotient of sums is that of means; not finite before two periods
        weights = relative_weights(rate / self.temperature, among(present, positive(rate)))

        usable = finite(losses)
        total = state["total"] + torch.where(usable, losses, 0.0)
        count = state["count"] + usable
        ended = count == self.period
        torch.where(ended, state["last"], state["before"], out=state["before"])
        torch.where(ended, total, state["last"], out=state["last"])
        state["total"].copy_(total.masked_fill(ended, 0))
        state["count"].copy_(count.masked_fill(ended, 0))
        return weights
