"""Smooth Tchebycheff: a soft maximum of the losses, each over its early mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, mean_elsewhere, positive, relative_weights
from .history import early_mean, init_early_mean
from .registry import register
from .validation import check_real, check_whole


@register("stch")
@dataclass(frozen=True)
class SmoothTchebycheff(Weighting):
    r"""Smooth Tchebycheff scalarization of Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization" (ICML 2024), as its authors apply it to many tasks: minimise a soft maximum of the relative losses.

    .. math::

        \min K \mu \log \sum_t \exp \frac{\log (L_t / n_t)}{\mu}, \qquad
        w_t = \frac{K}{L_t} \operatorname{softmax}_t \frac{\log (L_t / n_t)}{\mu}

    where

    - :math:`L_t` is the loss of task :math:`t` in this step;
    - :math:`n_t` is its nadir, the mean loss in period number ``warmup``, counted from 0. Until the end of that period
      the task is in its warm-up, where it adds :math:`\log L_t` to the objective: :math:`w_t = 1 / L_t`;
    - the sum and the softmax are over the present tasks past their warm-up, and :math:`K` is their number.

    A loss that is not positive (see :class:`Weighting`) is excluded from the nadir, and has the mean weight of the
    others.

    Args:
        mu: :math:`\mu`, at least 1e-6; the smaller, the closer the objective is to the maximum. 1 is the authors'.
        warmup: The number of periods before that of the nadir, at least 0. 4 is the authors'.
        period: The number of losses of a task in a period, at least 1. The authors' is the number of steps in an epoch.
        normalize: See :class:`Weighting`.

    State:
        ``count`` [K] int64, the number of losses so far; ``total`` [K] float32, the sum of those in the nadir's period.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        The paper's scalarization is :math:`\mu \log \sum_t \exp(\lambda_t (L_t - z_t^*) / \mu)`, of losses and an ideal
        point :math:`z^*`, which TorchJD's ``STCH`` implements. The multi-task code of the authors, and LibMTL's, take
        logarithms of losses over their nadir, as here. A period counts the losses of the task, not the steps of the
        run. The nadir is fixed for the rest of the run, with any outlier in its period; a longer period averages over
        more losses.

        The look-alike is :class:`ImprovableGap`, where the softmax of :math:`L_t / n_t` weighs the logarithms instead
        of being the gradient of their soft maximum.

    Example:
        >>> import torch
        >>> from art_optim import SmoothTchebycheff
        >>> weighting, present = SmoothTchebycheff(warmup=0), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([2.5000, 5.0000])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # the first task is now the worse one
        tensor([3.3333, 6.6667])
    """

    needs: ClassVar[str] = "positive losses"

    mu: float = 1.0
    warmup: int = 4
    period: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "mu", 1e-6)
        check_whole(self, "warmup", 0)
        check_whole(self, "period", 1)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return init_early_mean(num_tasks, device)

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        usable = positive(losses)
        nadir, known = early_mean(losses, usable, state, self.warmup, self.period)
        relative = relative_weights((losses / nadir).log() / self.mu, usable & known)
        return mean_elsewhere(relative / losses, usable)
