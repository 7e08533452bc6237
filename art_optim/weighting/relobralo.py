"""ReLoBRaLo: smoothed SoftAdapt weights, with random lookback to the first loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, finite, number_of, positive, relative_weights, sum_to_one
from .registry import register
from .stream import init_streams, next_uniforms
from .validation import check_real, check_whole


@register("relobralo")
@dataclass(frozen=True)
class ReLoBRaLo(Weighting):
    r"""Relative loss balancing with random lookback of Bischof and Kraus, "Multi-Objective Loss Balancing for
    Physics-Informed Deep Learning" (2021).

    .. math::

        \lambda_t \leftarrow \alpha \big( \rho \lambda_t + (1 - \rho) B_t(0) \big) + (1 - \alpha) B_t(-1), \qquad
        B_t(i) = K \operatorname{softmax}_t \frac{L_t}{\tau L_t(i)}

    where

    - :math:`L_t` is the loss of task :math:`t` in this step, :math:`L_t(-1)` its previous and :math:`L_t(0)` its first;
    - :math:`\rho` is 1 with probability :math:`\beta`, else 0: drawn once a step, for all tasks;
    - the weight is :math:`\lambda_t` after its update, scaled so that the weights of the present tasks sum to their
      number :math:`K`. The scale is 1 while all tasks are present.

    :math:`B_t = 1` at a task's first loss, which counts as its previous one, and where the ratio is not positive. A
    loss that is not finite (see :class:`Weighting`) leaves the state unchanged.

    Args:
        alpha: :math:`\alpha` in [0, 1], the share of history. 0.95 is PhysicsNeMo's, the paper prefers 0.999.
        beta: :math:`\beta` in [0, 1], the probability of keeping the history instead of looking back to the first loss.
            0.99 is PhysicsNeMo's, the paper prefers 0.999.
        temperature: :math:`\tau`, at least 1e-6; the larger, the closer the weights are to uniform.
        seed: At least 0. The draws depend on nothing else, so ranks with the same seed draw the same.
        normalize: See :class:`Weighting`.

    State:
        ``first`` and ``previous``, 0 before a task's first loss, and ``balance``, :math:`\lambda`, all [K] float32;
        ``stream``, the state of the random generator, a 0-dimensional int64.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        With ``alpha=0`` it is :class:`SoftAdapt` with :math:`\beta = 1 / \tau`. The look-alike is :class:`Art`, which
        smooths losses, not weights, and looks back to the smallest loss, not to the first. The first loss is kept for
        the rest of the run, also if it is an outlier; the effect of a later one decays by the factor ``alpha`` a step.

    Example:
        >>> import torch
        >>> from art_optim import ReLoBRaLo
        >>> weighting, present = ReLoBRaLo(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([1., 1.])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # a twentieth of the way to 1.2449, 0.7551
        tensor([1.0122, 0.9878])
    """

    needs: ClassVar[str] = "positive losses"

    alpha: float = 0.95
    beta: float = 0.99
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "alpha", 0, 1)
        check_real(self, "beta", 0, 1)
        check_real(self, "temperature", 1e-6)
        check_whole(self, "seed", 0)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        zeros = torch.zeros(num_tasks, dtype=torch.float32, device=device)
        return {
            "first": zeros,
            "previous": zeros.clone(),
            "balance": torch.ones_like(zeros),
            "stream": init_streams(self.seed, (), device),
        }

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        usable = finite(losses)
        first, previous = (torch.where(state[name] == 0, losses, state[name]) for name in ("first", "previous"))
        keep = next_uniforms(state["stream"], usable.any())[0] < self.beta

        history = torch.where(keep, state["balance"], self._against(first, losses))
        balance = history.lerp(self._against(previous, losses), 1 - self.alpha)
        balance = torch.where(usable, balance, state["balance"])

        for name, value in (("first", first), ("previous", losses), ("balance", balance)):
            torch.where(usable, value, state[name], out=state[name])
        return sum_to_one(balance, present) * number_of(present, losses)

    def _against(self, reference: Tensor, losses: Tensor) -> Tensor:
        ratio = losses / reference
        return relative_weights(ratio / self.temperature, positive(ratio))
