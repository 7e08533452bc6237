"""Equal weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present
from .registry import register


@register("equal")
@dataclass(frozen=True)
class EqualWeighting(Weighting):
    r"""The plain sum of the losses, :math:`w_t = 1`: the baseline of every comparison.

    With ``normalize="mean"`` it is the mean over the present tasks. This differs from the mean over the samples of a
    mixed batch, where a task counts as often as it was drawn: here every present task counts once.

    Example:
        >>> import torch
        >>> from art_optim import EqualWeighting
        >>> losses, present = torch.tensor([0.5, 0.1, 0.0]), torch.tensor([True, True, False])
        >>> EqualWeighting()(losses, present, {})
        tensor([1., 1., 0.])
        >>> EqualWeighting(normalize="mean")(losses, present, {})
        tensor([0.5000, 0.5000, 0.0000])
    """

    needs: ClassVar[str] = "nothing"

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        return torch.ones_like(losses)
