"""Analytical uncertainty weighting: a softmax of the optimum of uncertainty weighting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Weighting
from .functional import Present, number_of, positive, relative_weights
from .registry import register
from .validation import check_real


@register("uw_so")
@dataclass(frozen=True)
class AnalyticalUncertainty(Weighting):
    r"""Soft optimal uncertainty weighting (UW-SO) of Kirchdorfer et al., "Analytical Uncertainty-Based Loss Weighting
    in Multi-Task Learning" (GCPR 2024): the optimal weights of :class:`UncertaintyWeighting` are inverse losses; this
    takes their softmax, without learning.

    .. math::

        w_t = \operatorname{softmax}_t \left( \frac{1 / L_t}{\tau} \right)

    where

    - :math:`L_t` is the loss of task :math:`t` in this step, detached;
    - the softmax is over the present tasks, so the weights sum to 1.

    A loss that is not positive (see :class:`Weighting`) has weight :math:`1/K`, the mean of the others.

    Args:
        temperature: :math:`\tau`, at least 1e-6; the larger, the closer the weights are to uniform. Tune it
            for every data set: 1 is the plain formula, which is one-hot on losses of 0.1 and below.
        normalize: See :class:`Weighting`.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        The look-alike is :class:`ScaleInvariant`, inverse losses without the softmax: there the product of weight and
        loss is constant, while here the weights depend on the scale of the losses.

    Example:
        >>> import torch
        >>> from art_optim import AnalyticalUncertainty
        >>> weighting = AnalyticalUncertainty(temperature=10.0)
        >>> weighting(torch.tensor([0.4, 0.1]), torch.tensor([True, True]), {})
        tensor([0.3208, 0.6792])
    """

    needs: ClassVar[str] = "positive losses"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "temperature", 1e-6)

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        logits = 1 / losses / self.temperature
        return relative_weights(logits, positive(losses)) / number_of(present, losses)
