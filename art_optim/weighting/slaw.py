"""SLAW: weights inversely proportional to the spread of the losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, finite, relative_weights
from .history import update_moments
from .registry import register
from .validation import check_real


@register("slaw")
@dataclass(frozen=True)
class SLAW(Weighting):
    r"""SLAW of Crawshaw and Košecká, "SLAW: Scaled Loss Approximate Weighting for Efficient Multi-Task Learning"
    (2021): the spread of a loss estimates the norm of its gradient, and the weights make all norms equal.

    .. math::

        w_t = K \frac{1 / s_t}{\sum_i 1 / s_i}, \qquad s_t = \sqrt{E[L_t^2] - E[L_t]^2}

    where

    - :math:`E` is the mean of a task's losses, including this step's: the mean of all up to the hundredth loss (with
      ``decay`` 0.99), then an exponential one;
    - the sum is over the present tasks whose :math:`s_t` is above :math:`10^{-5}`, and :math:`K` is their number, which
      their weights sum to.

    A task without a spread to divide by has weight 1: at its first loss, and where the loss is constant. A loss that is
    not finite (see :class:`Weighting`) has weight 1, and leaves the state unchanged.

    Args:
        decay: The share of history in the means, in [0, 1]: the :math:`n`-th loss has the share
            :math:`\max(1/n, 1 - \text{decay})`. 0.99 is the authors'.
        normalize: See :class:`Weighting`.

    State:
        ``mean``, ``variance`` and ``count``, all [K] float32.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        The authors' code divides by at least :math:`10^{-5}`, which gives nearly all the weight to a constant loss. It
        computes :math:`E[L^2] - E[L]^2`; here the variance itself is updated, since in float32 that difference is noise
        for a loss of 100 that varies by 0.01.

        An outlier gives its own task almost no weight until the mean has forgotten it: with ``decay`` 0.99, for about
        :math:`100 \log (x^2 / 100)` steps, where :math:`x` is its distance in units of the usual spread. In
        :class:`CoVWeighting`, the look-alike, a task that varies gets more weight, and a step later.

    Example:
        >>> import torch
        >>> from art_optim import SLAW
        >>> weighting, present = SLAW(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.5, 0.25]), present, state)
        tensor([1., 1.])
        >>> weighting(torch.tensor([0.25, 0.125]), present, state)
        tensor([0.6667, 1.3333])
    """

    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "decay", 0, 1)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        zeros = torch.zeros(num_tasks, dtype=torch.float32, device=device)
        return {name: zeros.clone() for name in ("mean", "variance", "count")}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        usable = finite(losses)
        count = state["count"].add_(usable)
        share = (1 / count).clamp(min=1 - self.decay)
        update_moments(losses, usable, share, state["mean"], state["variance"])
        spread = state["variance"].sqrt()
        return relative_weights(-spread.log(), usable & (spread > 1e-5))
