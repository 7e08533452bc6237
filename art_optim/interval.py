"""Weighing once in several calls: the mean losses of an interval, and the weights held in the next."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .losses import TaskLosses
from .weighting import Weighting
from .weighting.functional import Present, finite, mean_elsewhere, zero_where_absent

_MOST_PENDING = 64  # calls


class Interval:
    """The losses of the calls since the last weighing, and the weights held until the next.

    A call only appends a copy of its losses to a list; they are added up when their mean is needed. So a call between
    two weighings has no other operators but those that hand out the held weights.

    Args:
        size: The number of calls from one weighing to the next, at least 2.
        weighting: The method, which gives the weights before the first weighing: those of K equal losses.
        num_tasks: K.
        device: Where the state lives.

    Attributes:
        position: The number of calls since the last weighing; 0 only before the first call.
        measured: The tasks whose gradients have been measured since the last weighing.
        tensors: ``total`` [2, K] float32, the sums of losses times samples and of samples since the last weighing;
            ``held`` [K] float32, the last weight of each task, NaN before its first.
    """

    def __init__(self, size: int, weighting: Weighting, num_tasks: int, device: torch.device) -> None:
        self.size, self.position, self.measured = size, 0, set[int]()
        equal = torch.full((num_tasks,), 0.5, dtype=torch.float32, device=device)  # in the domain of every method
        self._initial = weighting(equal, None, weighting.init(num_tasks, device))
        self._weights = self._initial
        self._pending: list[tuple[Tensor, Tensor | None]] = []
        self.tensors = {"total": equal.new_zeros(2, num_tasks), "held": torch.full_like(equal, math.nan)}

    def unmeasured(self, losses: TaskLosses) -> list[int]:
        """Return the tasks whose first loss of an interval is in the next call, this one's.

        Where the host does not know which tasks are present, it waits for the device, unless all have been measured.
        """
        everything = range(len(self._weights))
        begins = self.position in (0, self.size)
        if not begins and len(self.measured) == len(everything):
            return []
        given: Sequence[int] = everything
        if losses.counts is not None:
            given = losses.given or [task for task, count in enumerate(losses.counts.tolist()) if count > 0]
        return [task for task in given if begins or task not in self.measured]

    def mean(self) -> tuple[Tensor, Tensor]:
        """Return the mean losses [K] since the last weighing, and which tasks have one [K] bool.

        The mean is over samples, where their number is known; a loss that is not finite is excluded.
        """
        self._add_up()
        total, number = self.tensors["total"]
        return total / number, number > 0

    def begin(self, weights: Tensor, present: Present) -> None:
        """Begin an interval with new weights for the present tasks."""
        held = self.tensors["held"]
        held.copy_(weights if present is None else torch.where(present, weights, held))
        self.tensors["total"].zero_()
        self._pending.clear()
        self.position = 0
        self.measured.clear()
        self._hold()

    def add(self, losses: Tensor, counts: Tensor | None) -> None:
        """Count a call with these losses [K], and the numbers of samples behind them; None is 1 for all."""
        # Copies: both may be the caller's, who may fill them anew for the next call.
        self._pending.append((losses.clone(), None if counts is None else counts.clone()))
        self.position += 1
        if len(self._pending) == _MOST_PENDING:
            self._add_up()

    def weights(self, present: Present) -> Tensor:
        """Return the held weights [K] float32 of the present tasks, 0 for the others, as a tensor of its own."""
        return self._weights.clone() if present is None else zero_where_absent(self._weights, present)

    def to(self, device: torch.device) -> Interval:
        """Return the same on a device."""
        if device == self._weights.device:
            return self
        moved = copy.copy(self)
        moved.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        moved._initial, moved._weights = self._initial.to(device), self._weights.to(device)
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that changes; ``measured`` has a bit for each task."""
        self._add_up()
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return {"position": self.position, "measured": sum(1 << task for task in self.measured), **tensors}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; tensors stay where they are."""
        self._pending.clear()
        self.position = state_dict["position"]
        self.measured = {task for task in range(len(self._weights)) if state_dict["measured"] >> task & 1}
        for name, tensor in self.tensors.items():
            tensor.copy_(state_dict[name])
        self._hold()

    def reset(self) -> None:
        """Start afresh."""
        self.begin(torch.full_like(self._initial, math.nan), None)

    def _hold(self) -> None:
        """Derive the weights of the calls to come: a task that has never been weighed has the mean of the others."""
        held = self.tensors["held"]
        weighed = ~held.isnan()
        self._weights = torch.where(weighed.any(), mean_elsewhere(held, weighed), self._initial)

    def _add_up(self) -> None:
        if not self._pending:
            return
        total = self.tensors["total"]
        losses = torch.stack([values.to(total) for values, _ in self._pending])
        usable = finite(losses)
        if any(counts is not None for _, counts in self._pending):
            ones = torch.ones_like(total[0])
            counts = torch.stack([ones if n is None else n.to(total) for _, n in self._pending])
            counts = torch.where(usable, counts, 0.0)
            sums = torch.where(usable, losses * counts, 0.0)
        else:
            sums, counts = torch.where(usable, losses, 0.0), usable.to(total)
        for call in torch.stack([sums, counts], 1):  # one by one: a checkpoint in between must not change the rounding
            total.add_(call)
        self._pending.clear()
