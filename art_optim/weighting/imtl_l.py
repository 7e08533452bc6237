"""Impartial loss balance: a learned scale for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, positive
from .learning import adam_step, init_learned
from .registry import register
from .validation import check_real


@register("imtl_l")
@dataclass(frozen=True)
class ImpartialLoss(Weighting):
    r"""The loss balance (IMTL-L) of Liu et al., "Towards Impartial Multi-task Learning" (ICLR 2021): learn a scale for
    every task under which all scaled losses are 1.

    .. math::

        \min_{s} \sum_t e^{s_t} L_t - s_t, \qquad w_t = e^{s_t}

    where

    - :math:`s_t` is the logarithm of the scale of task :math:`t`, 0 at the start. The weights are those before its
      update;
    - :math:`-s_t` has no gradient for the model. It keeps the scale from vanishing: the minimum is at
      :math:`e^{s_t} = 1 / L_t`.

    A loss that is not positive (see :class:`Weighting`) has no such minimum, as the scale would grow without bound: it
    leaves the state unchanged, and is weighed by the current scale.

    Args:
        lr: The learning rate of Adam for :math:`s`, not negative. The paper leaves :math:`s` to the model's optimizer.
        normalize: See :class:`Weighting`.

    State:
        ``log_scale``, with Adam's ``exp_avg``, ``exp_avg_sq`` and ``step``, all [K] float32.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        With :math:`s \to -s` it is the uncertainty weighting of Kendall's notebook, and twice that of the regression
        form of :class:`UncertaintyWeighting`. Its companion IMTL-G balances gradients, and is not a loss weighting.

        An outlier moves :math:`s_t` by at most about 40 ``lr``, however large it is. The second moment of Adam then
        makes the steps of its task small for about :math:`2000 \log (g / 30)` steps, where :math:`g` is the ratio of
        its gradient to ordinary ones.

    Example:
        >>> import torch
        >>> from art_optim import ImpartialLoss
        >>> weighting, present = ImpartialLoss(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> losses = torch.tensor([2.0, 0.2])
        >>> weighting(losses, present, state)
        tensor([1., 1.])
        >>> weighting(losses, present, state)
        tensor([0.9753, 1.0253])
    """

    needs: ClassVar[str] = "positive losses"

    lr: float = 0.025

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "lr", 0)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return init_learned("log_scale", 0.0, num_tasks, device)

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        weights = state["log_scale"].exp()
        adam_step(state, "log_scale", weights * losses - 1, positive(losses), self.lr)
        return weights
