"""The protocol of a method that looks at gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from ..weighting import Weighting
from ..weighting.functional import Present

Average: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientWeighting(Weighting):
    """A weighting that differentiates the losses before it weighs them.

    :meth:`measure` looks at the gradients and keeps in ``state`` what :meth:`weigh` needs of them.

    Attributes:
        sharded: Whether the parameters may be sharded, as by ``fully_shard``.
        has_weights: Whether the gradient of a step is the sum of the tasks' gradients times the weights, so that the
            weights of one step can be held in the next.
    """

    sharded: ClassVar[bool] = True

    @property
    def has_weights(self) -> bool:
        return True

    @abstractmethod
    def measure(
        self,
        values: Tensor,
        present: Present,
        state: dict[str, Tensor],
        average: Average | None = None,
        tasks: Sequence[int] | None = None,
    ) -> None:
        """Differentiate the losses of the present tasks, and keep what :meth:`weigh` needs in ``state``, in place.

        Args:
            values: [K] floating point, the losses with their graph, which is kept.
            present: [K] bool, which tasks have a loss in this step, or None for all.
            state: What :meth:`init` returned, as the steps so far have left it.
            average: Averages a tensor over the ranks; None for a single process. The losses are those of all ranks
                already, but their gradients are of this one.
            tasks: The indices of the tasks to measure, where these are fewer than all.
        """

    def objective(
        self, values: Tensor, present: Present, state: dict[str, Tensor], average: Average | None = None
    ) -> tuple[Tensor, Tensor]:
        """Measure and weigh; advance ``state`` in place.

        Args:
            values: [K] floating point, the losses with their graph, or without one in validation.
            present: [K] bool, which tasks have a loss in this step, or None for all.
            state: What :meth:`init` returned, as the steps so far have left it.
            average: See :meth:`measure`.

        Returns:
            [K] values and [K] float32 weights: the gradient of the step is that of the values, times the weights.
        """
        if values.requires_grad and torch.is_grad_enabled():
            self.measure(values, present, state, average)
        return values, self(values.float(), present, state)

    def repeat(self, values: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return what to differentiate with the weights of an earlier evaluation of the same step: the losses."""
        return values
