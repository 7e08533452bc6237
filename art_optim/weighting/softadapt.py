"""SoftAdapt: more weight for losses that have just increased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, finite, positive, relative_weights
from .registry import register
from .validation import check_real


@register("softadapt")
@dataclass(frozen=True)
class SoftAdapt(Weighting):
    r"""SoftAdapt of Heydari et al., "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural Networks with
    Multi-Part Loss Functions" (2019), in the form of PhysicsNeMo and neuraloperator.

    .. math::

        w_t = K \operatorname{softmax}_t \left( \beta \frac{L_t}{L_t'} \right)

    where

    - :math:`L_t` is the loss of task :math:`t` in this step, and :math:`L_t'` its previous one;
    - the softmax is over the present tasks, and :math:`K` is their number, which the weights sum to.

    The weight is 1 at a task's first loss, and where the ratio is not positive. A loss that is not finite (see
    :class:`Weighting`) leaves the state unchanged.

    Args:
        beta: :math:`\beta`, finite. 1 is PhysicsNeMo's. Below 0, the loss that decreases fastest gets the most weight.
        normalize: See :class:`Weighting`.

    State:
        ``previous`` [K] float32, 0 before a task's first loss.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        Instead of the ratio, the paper and the author's package take the slope of the last losses by finite
        differences, which depends on their scale, with :math:`\beta = 0.1`. They have two variants, one with normalised
        slopes, one with the softmax multiplied by the losses. Their weights sum to 1.

        The look-alikes: ``ArtAblation(rate="raw", correction="none", temperature=1.0)`` is this with weights that sum
        to 1, up to its clamp; :class:`Art` compares with a smoothed loss and with the smallest one;
        :class:`DynamicWeightAverage` compares the two losses before this one.

    Example:
        >>> import torch
        >>> from art_optim import SoftAdapt
        >>> weighting, present = SoftAdapt(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([1., 1.])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # the second task improves, the first does not
        tensor([1.2449, 0.7551])
    """

    needs: ClassVar[str] = "positive losses"

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "beta")

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {"previous": torch.zeros(num_tasks, dtype=torch.float32, device=device)}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        previous = state["previous"]
        rate = losses / previous
        weights = relative_weights(self.beta * rate, positive(rate))
        torch.where(finite(losses), losses, previous, out=previous)
        return weights
