"""Weights chosen by hand, or found by another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present
from .registry import register


@register("fixed")
@dataclass(frozen=True)
class FixedWeighting(Weighting):
    r"""Constant weights, :math:`w_t = c_t`: a grid search's point, or the control of an adaptive method.

    Args:
        weights: One number a task, in the order of the tasks; finite in float32 and not negative.

    Raises:
        ValueError: A weight is negative or not finite, or their number is not the number of tasks.

    Example:
        >>> import torch
        >>> from art_optim import FixedWeighting
        >>> weighting = FixedWeighting((1.0, 3.0))
        >>> weighting(torch.tensor([0.5, 0.1]), torch.tensor([True, True]), weighting.init(2))
        tensor([1., 3.])
    """

    needs: ClassVar[str] = "one weight a task"

    weights: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        for weight in self.weights:
            if not 0 <= weight <= torch.finfo(torch.float32).max:
                raise ValueError(f"weights has {weight}; a fixed weight must be finite in float32 and not negative")

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        if len(self.weights) != num_tasks:
            raise ValueError(f"weights has {len(self.weights)} numbers for {num_tasks} tasks; give one a task")
        return {"weights": torch.tensor(self.weights, dtype=torch.float32, device=device)}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        return state["weights"].clone()  # gradients may be views of what is returned
