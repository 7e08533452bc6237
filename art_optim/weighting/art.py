"""Art: active reweighting for all-in-one training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, masked_softmax, zero_or_nan
from .registry import register
from .validation import check_choice, check_real

Rate = Literal["smoothed", "raw", "none"]
Correction = Literal["log_quotient", "log_ratio", "ratio", "none"]


@register("art")
@dataclass(frozen=True)
class Art(Weighting):
    r"""Active reweighting of Wu et al., "Harmony in Diversity: Improving All-in-One Image Restoration via Multi-Task
    Collaboration" (ACM MM 2024).

    A task gets more weight when it converges slower than it did of late, and when it has strayed from the best it
    ever reached:

    .. math::

        s_t = L_t / E_t, \qquad
        r_t = \log M_t / \log L_t, \qquad
        w_t = \operatorname{softmax}_t (s_t r_t / \tau)

    where

    - :math:`L_t` is the loss of task :math:`t` in this step;
    - :math:`E_t` is its smoothed loss before this step, afterwards :math:`\beta E_t + (1 - \beta) L_t` (Eq. 6);
    - :math:`M_t` is its smallest loss before this step, afterwards :math:`\min(M_t, L_t)`;
    - :math:`s_t` is the local convergence rate (Eq. 5; Eq. 4 with the previous loss in place of :math:`E_t`);
    - :math:`r_t` is the global correction weight (Eq. 7 after the logarithm), above 1 exactly when :math:`L_t > M_t`;
    - the softmax (Eq. 8) is over the present tasks, so the weights sum to 1.

    A task's first loss sets :math:`E_t` and :math:`M_t`, so the first weights are uniform. The quotient of logarithms
    has a meaning only inside (0, 1): beyond 1 it changes its sign, and close to 1 it explodes (a loss of 0.999
    after 0.1 has 2301). Therefore

    - where :math:`L_t` or :math:`M_t` is not below 1, :math:`r_t = 1 + \log(L_t / M_t)`, which knows no scale;
    - the priority :math:`s_t r_t` is clamped to [0, ``max_priority``];
    - a loss that is zero, negative or not finite has the neutral priority 1 and leaves the state alone.

    Losses above 1 are thus weighed by their ratio to the minimum. For losses that pass 1, such as cross-entropies,
    choose ``correction="log_ratio"`` throughout: just below 1 the quotient exaggerates, and the weight falls back where
    the loss crosses. A loss that goes below 0 needs a shift, or another method.

    Args:
        temperature: :math:`\tau`, at least 1e-6; the larger, the closer the weights are to uniform.
        decay: :math:`\beta` in [0, 1), the share of history in the smoothed loss.
        rate: ``"smoothed"`` :math:`L/E`, ``"raw"`` :math:`L` over the previous loss (``decay`` is then not used), or
            ``"none"`` 1.
        correction: ``"log_quotient"`` :math:`\log M / \log L`, ``"log_ratio"`` :math:`1 + \log(L/M)`, ``"ratio"``
            :math:`L/M`, or ``"none"`` 1. The rows of the paper's Table 1 are configurations: "mixed" is none and none,
            "s raw" raw and none, "s smoothed" smoothed and none, "r raw" none and ratio, "r log" none and log_quotient.
        max_priority: The largest :math:`s_t r_t`, positive.
        initial: :math:`E_t` and :math:`M_t` before a task's first loss, positive; None to take that first loss.
        guarded: Whether what is said above of losses outside (0, 1) and of the clamp holds. False is the bare formula,
            which may give infinite logits there, and so NaN.
        normalize: See :class:`Weighting`.

    State:
        ``smoothed`` and ``minimum``, both [K] float32, NaN before a task's first loss unless ``initial`` is given.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        Where the paper and the authors' code disagree:

        - the paper prints Eq. 7 as :math:`L/M` and calls it "log-transformed"; the code computes
          :math:`\log M / \log L`. The raw :math:`L/M` is the 14.77 dB row of Table 1;
        - Eq. 6 puts :math:`\beta` on the history, but the :math:`\beta` of 0.001 to 0.1 in the ablation is, in the
          code, the weight of the new loss; read literally, 0.001 would hardly differ from 0. So ``decay`` is
          1 minus the table's value;
        - the paper's best temperature is 3 (Table 5), the code's default 0.1 is nearly one-hot;
        - the code starts :math:`E` and :math:`M` at 0.1, see :meth:`reference`.

        The look-alike is SoftAdapt, a softmax of :math:`L` over the previous loss: ``rate="raw"``,
        ``correction="none"``.

    Example:
        >>> import torch
        >>> from art_optim import Art
        >>> art, present = Art(), torch.tensor([True, True])
        >>> state = art.init(num_tasks=2)
        >>> art(torch.tensor([0.4, 0.2]), present, state)
        tensor([0.5000, 0.5000])
        >>> art(torch.tensor([0.4, 0.1]), present, state)  # the second task improves, the first does not
        tensor([0.5540, 0.4460])
    """

    needs: ClassVar[str] = "positive losses"

    temperature: float = 3.0
    decay: float = 0.99
    rate: Rate = "smoothed"
    correction: Correction = "log_quotient"
    max_priority: float = 10.0
    initial: float | None = None
    guarded: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("decay", "max_priority", "initial"):  # so that 3 and 3.0 are one in a checkpoint
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        check_real(self, "temperature", 1e-6)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay}; it must be in [0, 1), the share of history in the smoothed loss")
        check_choice(self, "rate", Rate)
        check_choice(self, "correction", Correction)
        if not 0 < self.max_priority < math.inf:
            raise ValueError(f"max_priority is {self.max_priority}; it must be positive and finite")
        if self.initial is not None and not 0 < self.initial < math.inf:
            raise ValueError(f"initial is {self.initial}; it must be positive and finite, or None for the first loss")

    @classmethod
    def reference(cls, temperature: float = 0.1) -> Art:
        """Return the authors' code: history and minimum start at 0.1, nothing is guarded.

        Two things differ from what that code does when it runs. It stores the third task's smoothed loss under another
        name, so that this one stays 0.1 for ever: here every task's is updated. And losses that are not finite stay out
        of the state.
        """
        return cls(temperature=temperature, initial=0.1, guarded=False)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        start = math.nan if self.initial is None else self.initial
        return {
            name: torch.full((num_tasks,), start, dtype=torch.float32, device=device)
            for name in ("smoothed", "minimum")
        }

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        log_loss, smoothed, minimum = losses.log(), state["smoothed"], state["minimum"]
        loss = losses + zero_or_nan(log_loss if self.guarded else losses)  # NaN if it does not count

        updated = smoothed.lerp(loss, 1.0 if self.rate == "raw" else 1 - self.decay)
        incomparable = updated.isnan()  # a task's first loss, or one that does not count

        priority = self._rate(loss, smoothed) * self._correction(loss, log_loss, minimum)
        if self.guarded:
            priority = priority.clamp(0, self.max_priority)
        priority = torch.where(incomparable, 1.0, priority)

        # Of the two, fmin takes the one that is a number.
        torch.where(incomparable, smoothed.fmin(loss), updated, out=smoothed)
        torch.fmin(minimum, loss, out=minimum)
        return masked_softmax(priority / self.temperature, present)

    def _rate(self, loss: Tensor, smoothed: Tensor) -> Tensor:
        return torch.ones_like(loss) if self.rate == "none" else loss / smoothed

    def _correction(self, loss: Tensor, log_loss: Tensor, minimum: Tensor) -> Tensor:
        if self.correction == "none":
            return torch.ones_like(loss)
        if self.correction == "ratio":
            return loss / minimum
        log_minimum = minimum.log()
        if self.correction == "log_quotient" and not self.guarded:
            return log_minimum / log_loss
        log_ratio = log_loss - log_minimum + 1  # exactly 1 at the minimum
        if self.correction == "log_ratio":
            return log_ratio
        both_below_1 = torch.maximum(log_loss, log_minimum).signbit()
        return torch.where(both_below_1, log_minimum / log_loss, log_ratio)
