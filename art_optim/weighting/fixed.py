"""Constant weights, chosen by hand or taken from another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present
from .registry import register
from .validation import check_per_task, in_order, one_a_task


@register("fixed")
@dataclass(frozen=True)
class FixedWeighting(Weighting):
    r"""Constant weights, :math:`w_t = c_t`: one point of a grid search, or the control of an adaptive method.

    Args:
        weights: :math:`c_t`, one number a task: a mapping from task name to number, or a sequence in the order of the
            tasks. Finite in float32 and not negative.
        normalize: See :class:`Weighting`.

    State:
        ``weights`` [K] float32.

    Raises:
        TypeError: ``weights`` is neither a mapping nor a sequence.
        ValueError: A weight is negative or not finite; or the weights are not one a task.

    Example:
        >>> import torch
        >>> from art_optim import FixedWeighting, TaskReweightedOptimizer
        >>> x = torch.nn.Parameter(torch.tensor(0.5))
        >>> weighting = FixedWeighting({"rain": 1.0, "haze": 3.0})
        >>> optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.1), ["haze", "rain"], weighting)
        >>> _ = optimizer.step({"haze": x**2, "rain": 2 * x})
        >>> optimizer.weights
        {'haze': tensor(3.), 'rain': tensor(1.)}
    """

    needs: ClassVar[str] = "one weight a task"

    weights: Sequence[float] | Mapping[str, float] = field(hash=False)  # a mapping has no hash

    def __post_init__(self) -> None:
        super().__post_init__()
        check_per_task(self, "weights", 0, torch.finfo(torch.float32).max)

    def for_tasks(self, tasks: Sequence[str]) -> FixedWeighting:
        return replace(self, weights=in_order("weights", self.weights, tasks))

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        weights = one_a_task("weights", self.weights, num_tasks)
        return {"weights": torch.tensor(weights, dtype=torch.float32, device=device)}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        return state["weights"].clone()  # gradients may be views of what is returned
