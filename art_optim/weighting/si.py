"""The sum of the logarithms of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Weighting
from .functional import Present, mean_elsewhere, positive
from .registry import register


@register("si")
@dataclass(frozen=True)
class ScaleInvariant(Weighting):
    r"""The scale-invariant baseline of Navon et al., "Multi-Task Learning as a Bargaining Game" (ICML 2022): minimise
    the sum of the logarithms of the losses, whose gradient does not depend on a task's unit of measure.

    .. math::

        \min \sum_t \log L_t, \qquad w_t = 1 / L_t

    where :math:`L_t` is the loss of task :math:`t` in this step.

    A loss that is not positive (see :class:`Weighting`) has the mean weight of the others.

    Args:
        normalize: See :class:`Weighting`. The published weights have no fixed sum and are large for small losses:
            choose ``"mean"`` or ``"sum"``, or adapt the learning rate.

    Note:
        It is :class:`ImprovableGap` with :math:`\lambda = 1`, the warm-up of :class:`SmoothTchebycheff`, and the limit
        of :class:`UncertaintyWeighting` (up to a factor of 1/2) and :class:`ImpartialLoss`. The look-alike is
        :class:`GeometricLoss`, the same direction scaled by the geometric mean of the losses.

    Example:
        >>> import torch
        >>> from art_optim import ScaleInvariant
        >>> ScaleInvariant()(torch.tensor([0.5, 0.1]), torch.tensor([True, True]), {})
        tensor([ 2., 10.])
    """

    needs: ClassVar[str] = "positive losses"

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        return mean_elsewhere(1 / losses, positive(losses))
