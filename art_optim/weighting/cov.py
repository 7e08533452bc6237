"""Coefficient of variations: more weight for losses that still vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import LARGEST, Present, among, number_of, positive, relative_weights
from .history import update_moments
from .registry import register


@register("cov")
@dataclass(frozen=True)
class CoVWeighting(Weighting):
    r"""CoV-weighting of Groenendijk et al., "Multi-Loss Weighting with Coefficient of Variations" (WACV 2021): a loss
    that no longer varies counts as satisfied, whatever its scale.

    .. math::

        w_t = \frac{c_t}{\sum_i c_i}, \qquad
        c_t = \frac{\operatorname{std}(\ell_t)}{\operatorname{mean}(\ell_t)}, \qquad
        \ell_t = \frac{L_t}{\operatorname{mean}(L_t)}

    where

    - :math:`\ell_t` is the loss ratio, a loss of task :math:`t` over the mean of its earlier losses (1 for the first);
    - mean and standard deviation are over all earlier steps, this one excluded;
    - the sum is over the present tasks, so the weights sum to 1.

    A task has weight :math:`1/K`, the mean of the others, until it has had two losses. A loss that is not positive
    leaves the state unchanged. A ratio counts as at most :math:`2^{62}`.

    Args:
        normalize: See :class:`Weighting`.

    State:
        ``mean_loss``, ``mean_ratio``, ``variance_ratio`` and ``count``, all [K] float32.

    Note:
        As in the authors' code, :math:`10^{-8}` is added to the variance, and the variance is that of the population;
        its other mode, a decaying mean, is not implemented. The look-alike is :class:`SLAW`, where a task that varies
        gets less weight.

        All earlier steps have an equal share in mean and deviation, so an outlier raises the weight of its task for the
        rest of the run. A constant loss has weight near 0 among losses that vary: it counts as satisfied.

    Example:
        >>> import torch
        >>> from art_optim import CoVWeighting
        >>> weighting, present = CoVWeighting(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> for losses in ([0.4, 0.2], [0.3, 0.1]):
        ...     weighting(torch.tensor(losses), present, state)
        tensor([0.5000, 0.5000])
        tensor([0.5000, 0.5000])
        >>> weighting(torch.tensor([0.3, 0.1]), present, state)  # ratios (1, 0.75) and (1, 0.5): c is 1/7 and 1/3
        tensor([0.3000, 0.7000])
    """

    needs: ClassVar[str] = "positive losses"

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        zeros = torch.zeros(num_tasks, dtype=torch.float32, device=device)
        return {name: zeros.clone() for name in ("mean_loss", "mean_ratio", "variance_ratio", "count")}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        mean_loss, mean, variance, count = (
            state[name] for name in ("mean_loss", "mean_ratio", "variance_ratio", "count")
        )
        coefficient = (variance + 1e-8).sqrt() / mean
        weights = relative_weights(coefficient.log(), among(present, count > 1)) / number_of(present, losses)

        ratio = torch.where(count > 0, losses / mean_loss, 1.0).clamp(max=LARGEST)
        usable = positive(losses)
        share = 1 / count.add_(usable)
        update_moments(ratio, usable, share, mean, variance)
        torch.where(usable, mean_loss.lerp(losses, share), mean_loss, out=mean_loss)
        return weights
