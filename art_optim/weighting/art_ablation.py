"""Variants of Art for research: the rows of the paper's Table 1, the authors' code, other corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, finite, finite_logarithm, masked_softmax
from .validation import check_choice, check_history_share, check_positive, check_real

Rate = Literal["smoothed", "raw", "none"]
Correction = Literal["log_quotient", "log_ratio", "ratio", "none"]


@dataclass(frozen=True)
class ArtAblation(Weighting):
    r"""Variants of :class:`Art`, for research: :math:`w_t = \operatorname{softmax}_t (s_t r_t / \tau)` with a choice of
    the rate :math:`s_t` and the correction :math:`r_t`.

    With the defaults it is :class:`Art`, whose docstring defines the symbols and says how long an outlier acts. The
    rows of the paper's Table 1 are, as ``rate`` and ``correction`` with ``guarded=False``: "mixed" none, none; "s raw"
    raw, none; "s smoothed" smoothed, none; "r raw" none, ratio; "r log" none, log_quotient. It has no registered name,
    so it does not appear in tables of methods.

    Args:
        temperature: :math:`\tau`, at least 1e-6.
        decay: :math:`\beta` in [0, 1), the share of history in the smoothed loss.
        rate: ``"smoothed"`` :math:`L/E`, ``"raw"`` :math:`L` over the previous loss (``decay`` is then not used), or
            ``"none"`` 1.
        correction: ``"log_quotient"`` :math:`\log M / \log L`, ``"log_ratio"`` :math:`1 + \log(L/M)`, ``"ratio"``
            :math:`L/M`, or ``"none"`` 1.
        max_priority: The largest :math:`s_t r_t`, positive.
        initial: :math:`E_t` and :math:`M_t` before a task's first loss, positive; None to take that first loss.
        guarded: True treats losses as :class:`Art` does: the quotient of logarithms is continued above 1/e, the
            priority is clamped, and losses that are zero, negative or not finite are neutral. False is the bare
            formula, which may give infinite logits outside (0, 1), and so NaN.
        normalize: See :class:`Weighting`.

    State:
        ``smoothed`` and ``minimum``, both [K] float32, NaN before a task's first loss unless ``initial`` is given.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Example:
        >>> import torch
        >>> from art_optim import ArtAblation
        >>> art, present = ArtAblation(rate="none", correction="log_ratio"), torch.tensor([True, True])
        >>> state = art.init(num_tasks=2)
        >>> art(torch.tensor([0.4, 0.2]), present, state)
        tensor([0.5000, 0.5000])
        >>> art(torch.tensor([0.4, 0.1]), present, state)  # the priorities are 1 and 1 - log 2
        tensor([0.5575, 0.4425])
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
        check_real(self, "temperature", 1e-6)
        check_history_share(self, "decay")
        check_choice(self, "rate", Rate)
        check_choice(self, "correction", Correction)
        check_positive(self, "max_priority")
        if self.initial is not None:
            check_positive(self, "initial")

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        start = math.nan if self.initial is None else self.initial
        smoothed = torch.full((num_tasks,), start, dtype=torch.float32, device=device)
        return {"smoothed": smoothed, "minimum": smoothed.clone()}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        log_loss, smoothed, minimum = losses.log(), state["smoothed"], state["minimum"]
        usable = finite_logarithm(log_loss) if self.guarded else finite(losses)
        loss = torch.where(usable, losses, math.nan)
        updated = smoothed.lerp(loss, 1.0 if self.rate == "raw" else 1 - self.decay)
        incomparable = updated.isnan()  # a first loss, or one that is not usable

        priority = self._rate(loss, smoothed) * self._correction(loss, log_loss, minimum)
        if self.guarded:
            priority = priority.clamp(0, self.max_priority)
        priority = torch.where(incomparable, 1.0, priority)

        # fmin ignores NaN
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
        if self.correction == "log_quotient" and not self.guarded:
            return minimum.log() / log_loss
        scale = -1.0 if self.correction == "log_ratio" else log_loss.clamp(max=-1)
        return 1 + (minimum.log() - log_loss) / scale
