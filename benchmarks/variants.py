"""Changes to Art that were tried: none is part of the package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from art_optim.weighting import Weighting

LARGEST = 2.0**62  # what the package calls finite


@dataclass(frozen=True)
class ArtVariant(Weighting):
    r"""Art with one thing changed; with the defaults it is :class:`~art_optim.Art`.

    .. math::

        s_t = \frac{N_t}{E_t}, \qquad
        r_t = 1 + \frac{\log (N_t / M_t)}{\max(1, -\log N_t)}, \qquad
        w_t = \operatorname{softmax}_t (s_t r_t / \tau)

    Args:
        temperature: :math:`\tau`.
        decay: The share of history in :math:`E_t`.
        numerator: The share of history in :math:`N_t`, the loss that is compared; 0 is the loss of this step.
        leak: The share of the minimum that stays, on a logarithmic scale: :math:`\log M_t` moves by 1 - ``leak`` of the
            way up to :math:`\log E_t` in each step. 1 never forgets.
        log_losses: Whether the weights are divided by the losses, which is to weigh their logarithms.
        log_ratio: Whether the denominator of :math:`r_t` is 1 throughout.
    """

    needs: ClassVar[str] = "positive losses"

    temperature: float = 3.0
    decay: float = 0.99
    numerator: float = 0.0
    leak: float = 1.0
    log_losses: bool = False
    log_ratio: bool = False

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Return unknown averages and minima."""
        unknown = torch.full((num_tasks,), math.nan, dtype=torch.float32, device=device)
        return {"numerator": unknown, "smoothed": unknown.clone(), "minimum": unknown.clone()}

    def weigh(self, losses: Tensor, present: Tensor | None, state: dict[str, Tensor]) -> Tensor:
        """Return the weights."""
        usable = (losses >= 1 / LARGEST) & (losses <= LARGEST)
        loss = torch.where(usable, losses, math.nan)
        smoothed, minimum = state["smoothed"].clone(), state["minimum"].clone()
        known = usable & ~smoothed.isnan()

        numerator = torch.where(known, loss.lerp(state["numerator"], self.numerator), loss)
        log_numerator = numerator.log()
        denominator = torch.ones_like(loss) if self.log_ratio else log_numerator.clamp(max=-1).neg()
        correction = 1 + (log_numerator - minimum.log()) / denominator
        priority = (numerator / smoothed * correction).clamp(0, 10).nan_to_num(1.0)

        updated = torch.where(known, smoothed.lerp(loss, 1 - self.decay), loss)
        raised = minimum.log().lerp(smoothed.log(), 1 - self.leak).exp() if self.leak < 1 else minimum
        for name, value in (("numerator", numerator), ("smoothed", updated), ("minimum", raised.fmin(numerator))):
            torch.where(usable, value, state[name], out=state[name])

        logits = priority / self.temperature
        weights = (logits if present is None else torch.where(present, logits, -torch.inf)).softmax(0)
        if not self.log_losses:
            return weights
        inverse = 1 / torch.where(usable, losses, losses.nanmean())
        return weights * inverse.nan_to_num(1.0, 1.0, 1.0)


VARIANTS: dict[str, type[Weighting]] = {"art-variant": ArtVariant}
