"""The geometric mean of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, mean_elsewhere, positive
from .registry import register


@register("gls")
@dataclass(frozen=True)
class GeometricLoss(Weighting):
    r"""The geometric loss strategy of Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric
    Loss Strategy for Multi-Task Learning" (CVPR Workshops 2019): minimise the geometric mean of the losses.

    .. math::

        G = \Big( \prod_t L_t \Big)^{1/K}, \qquad
        w_t = \frac{\partial G}{\partial L_t} = \frac{G}{K L_t}

    where

    - :math:`L_t` is the loss of task :math:`t` in this step;
    - the product is over the present tasks, and :math:`K` is their number. It is computed as
      :math:`\exp(\operatorname{mean} \log L_t)`, since the product would underflow.

    A loss that is not positive (see :class:`Weighting`) is excluded from the mean, and has the mean weight of the
    others.

    Args:
        normalize: See :class:`Weighting`.

    Note:
        The weights that LibMTL reports are not those of its backward pass, which agrees with this. The look-alike is
        :class:`ScaleInvariant`: the same direction, :math:`K / G` times as long, so it does not shrink with the losses.

    Example:
        >>> import torch
        >>> from art_optim import GeometricLoss
        >>> GeometricLoss()(torch.tensor([0.4, 0.1]), torch.tensor([True, True]), {})
        tensor([0.2500, 1.0000])
    """

    needs: ClassVar[str] = "positive losses"

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        usable = positive(losses)
        number = usable.sum()
        log_losses = losses.log()
        log_mean = torch.where(usable, log_losses, 0.0).sum() / number
        return mean_elsewhere((log_mean - log_losses).exp() / number, usable)
