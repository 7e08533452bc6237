"""Uncertainty weighting: a learned variance for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, positive
from .learning import adam_step, init_learned
from .registry import register
from .validation import check_choice, check_real

Form = Literal["regression", "classification", "revised"]


@register("uncertainty")
@dataclass(frozen=True)
class UncertaintyWeighting(Weighting):
    r"""Uncertainty weighting of Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics" (CVPR 2018): a task is weighed by the inverse of its noise, a learned variance.

    .. math::

        \min_{s} \sum_t \tfrac12 e^{-s_t} L_t + \tfrac12 s_t, \qquad w_t = \tfrac12 e^{-s_t}

    where

    - :math:`s_t = \log \sigma_t^2` is the log variance of task :math:`t`. The weights are those before its update;
    - the regulariser has no gradient for the model. It keeps :math:`s_t` from growing: the minimum is at
      :math:`e^{s_t} = L_t`, so the weight tends to :math:`1 / (2 L_t)`.

    Three forms go by this name:

    - ``"regression"``: the above, :math:`L / (2 \sigma^2) + \log \sigma`, for squared errors;
    - ``"classification"``: :math:`e^{-s} L + \tfrac12 s`, with :math:`w = e^{-s}`, for cross-entropies. Its minimum is
      at :math:`e^s = 2 L`, with the same weight;
    - ``"revised"``: :math:`\tfrac12 e^{-s} L + \log(1 + e^s)`, with :math:`w = \tfrac12 e^{-s}`, of Liebel and Körner,
      "Auxiliary Tasks in Multi-task Learning" (2018), whose regulariser is never negative.

    A loss that is not positive (see :class:`Weighting`) has no such minimum, as the weight would grow without bound: it
    leaves the state unchanged, and is weighed by the current variance.

    Args:
        form: One of the above.
        initial_log_variance: :math:`s_t` at the start, in [-80, 80].
        lr: The learning rate of Adam for :math:`s`, not negative. 0.025 is that of the Nash-MTL and FAMO benchmarks.
        normalize: See :class:`Weighting`.

    State:
        ``log_variance``, with Adam's ``exp_avg``, ``exp_avg_sq`` and ``step``, all [K] float32.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        Where implementations disagree:

        - the authors' notebook omits both factors of 1/2, :math:`e^{-s} L + s`: this is :class:`ImpartialLoss` with
          :math:`s \to -s`;
        - LibMTL starts at -0.5, and updates :math:`s` with the model's optimizer, whose weight decay pulls :math:`s` to
          0; the Nash-MTL and FAMO benchmarks start at 0. The latter report :math:`e^{-s}`, twice the loss's weight;
        - Liebel and Körner learn :math:`c` with :math:`c^2 = e^s`: a small loss can drive it through 0, where the
          weight is infinite. Learning :math:`s` has the same minima and no such pole.

        An outlier moves :math:`s_t` by at most about 40 ``lr``, however large it is. The second moment of Adam then
        makes the steps of its task small for about :math:`2000 \log (g / 30)` steps, where :math:`g` is the ratio of
        its gradient to ordinary ones.

    Example:
        >>> import torch
        >>> from art_optim import UncertaintyWeighting
        >>> weighting, present = UncertaintyWeighting(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> losses = torch.tensor([2.0, 0.2])
        >>> weighting(losses, present, state)
        tensor([0.5000, 0.5000])
        >>> weighting(losses, present, state)  # the first task is noisier than its variance says
        tensor([0.4877, 0.5127])
    """

    needs: ClassVar[str] = "positive losses"

    form: Form = "regression"
    initial_log_variance: float = 0.0
    lr: float = 0.025

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", Form)
        check_real(self, "initial_log_variance", -80, 80)
        check_real(self, "lr", 0)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return init_learned("log_variance", self.initial_log_variance, num_tasks, device)

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        s = state["log_variance"]
        weights = (-s).exp() if self.form == "classification" else 0.5 * (-s).exp()
        regularizer_slope = s.sigmoid() if self.form == "revised" else 0.5
        gradient = regularizer_slope - weights * losses
        adam_step(state, "log_variance", gradient, positive(losses), self.lr)
        return weights
