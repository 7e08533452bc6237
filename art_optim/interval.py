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
from .weighting.functional import Present, finite, zero_where_absent

_CHUNK = 64  # calls whose losses are kept until they are added up


class Interval:
    """The losses of the calls since the last weighing, and the weights held until the next.

    A call only appends its losses to a list; they are added up when their mean is needed. So a call between two
    weighings has no operators but those that hand out the held weights.

    Args:
        size: The number of calls from one weighing to the next, at least 2.
        weighting: The method, which gives the weights before the first weighing: those of K equal losses.
        num_tasks: K.
        device: Where the state lives.

    Attributes:
        position: The number of calls since the last weighing; 0 only before the first call.
        measured: The tasks whose gradients have been measured since the last weighing.
        total: [3, K] float32, what :meth:`_sums` adds up over whole chunks of calls since the last weighing.
        held: [K] float32, the last weight of each task, NaN before its first.
    """

    def __init__(self, size: int, weighting: Weighting, num_tasks: int, device: torch.device) -> None:
        self.size, self.position, self.measured = size, 0, set[int]()
        equal = torch.full((num_tasks,), 0.5, dtype=torch.float32, device=device)  # in the domain of every method
        self._initial = weighting(equal, None, weighting.init(num_tasks, device))
        self._weights = self._initial
        self._pending: list[tuple[Tensor, Tensor | None]] = []
        self.total, self.held = equal.new_zeros(3, num_tasks), torch.full_like(equal, math.nan)

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

    def mean(self) -> tuple[Tensor, Present]:
        """Return the mean losses [K] since the last weighing, and which tasks had one [K] bool; None is all.

        The mean is over samples, where their number is known. A loss that is not finite is excluded; a task that has
        no other has the mean NaN, and is weighed as with a loss that is not finite.
        """
        losses, counts = self._stacked()
        if counts is None and self.size <= _CHUNK:
            usable = finite(losses)
            return torch.where(usable, losses, 0.0).sum(0) / usable.sum(0), None
        sums, number, all_of_them = self.total + _sums(losses, counts)
        return sums / number, all_of_them > 0

    def begin(self, weights: Tensor, present: Present) -> None:
        """Begin an interval with new weights for the present tasks; nothing may write to them."""
        if self.size > _CHUNK:
            self.total = torch.zeros_like(self.total)
        self._pending.clear()
        self.position = 0
        self.measured.clear()
        if present is None:
            self.held = self._weights = weights
        else:
            self.held = torch.where(present, weights, self.held)
            self._spread()

    def add(self, losses: Tensor, counts: Tensor | None, present: Present) -> Tensor:
        """Count a call with these losses [K], and the numbers of samples behind them; None is 1 for all.

        Both are kept as they are: nothing may write to them. Returns what :meth:`weights` does.
        """
        self._pending.append((losses, counts))
        self.position += 1
        if len(self._pending) == _CHUNK and self.position < self.size:
            self.total = self.total + _sums(*self._stacked())
            self._pending.clear()
        return self.weights(present)

    def weights(self, present: Present) -> Tensor:
        """Return the held weights [K] float32 of the present tasks, 0 for the others, as a tensor of its own."""
        return self._weights.clone() if present is None else zero_where_absent(self._weights, present)

    def to(self, device: torch.device) -> Interval:
        """Return the same on a device."""
        if device == self._weights.device:
            return self
        moved = copy.copy(self)
        for name in ("total", "held", "_initial", "_weights"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that changes; ``measured`` has a bit for each task."""
        return {"position": self.position, "measured": sum(1 << task for task in self.measured), **self.buffers()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of what :meth:`state_dict` returned, on the device of this one."""
        self.position = state_dict["position"]
        self.measured = {task for task in range(len(self._weights)) if state_dict["measured"] >> task & 1}
        self.total, self.held, losses, counts = (
            state_dict[name].to(self._initial, copy=True) for name in ("total", "held", "losses", "counts")
        )
        pending = self.position % _CHUNK or (self.position == self.size) * _CHUNK
        self._pending = [*zip(losses, counts, strict=True)][:pending]
        self._spread()

    def buffers(self) -> dict[str, Tensor]:
        """Return copies of the tensors, with the losses and counts of the last calls as rows of fixed matrices.

        A checkpoint keeps these calls apart, since adding them up earlier would change the rounding.
        """
        rows = self._weights.new_zeros(2, min(self.size, _CHUNK), len(self._weights))
        if self._pending:
            losses, counts = self._stacked()
            rows[0, : len(losses)] = losses
            rows[1, : len(losses)] = 1.0 if counts is None else counts
        losses, counts = rows
        return {
            "total": self.total.clone(),
            "held": self.held.clone(),
            "losses": losses.clone(),
            "counts": counts.clone(),
        }

    def reset(self) -> None:
        """Start afresh."""
        self.begin(torch.full_like(self._initial, math.nan), None)
        self._spread()

    def _spread(self) -> None:
        """Derive the weights of the calls to come: a task that has never been weighed has the mean of the others."""
        weighed = self.held == self.held  # not NaN
        known = torch.where(weighed, self.held, 0.0)
        weights = torch.where(weighed, self.held, known.sum() / weighed.sum())
        self._weights = torch.where(weights == weights, weights, self._initial)

    def _stacked(self) -> tuple[Tensor, Tensor | None]:
        """Return the losses and the counts of the calls that are kept, [calls, K] float32; None where all are 1."""
        like = self._initial
        losses = torch.stack([values.to(like) for values, _ in self._pending])
        if all(counts is None for _, counts in self._pending):
            return losses, None
        ones = torch.ones_like(like)
        return losses, torch.stack([ones if counts is None else counts.to(like) for _, counts in self._pending])


def _sums(losses: Tensor, counts: Tensor | None) -> Tensor:
    """Return [3, K] the sums over calls [calls, K] of losses times samples, of their samples, and of all samples.

    A loss that is not finite is left out of the first two.
    """
    counts = torch.ones_like(losses) if counts is None else counts
    usable = finite(losses)
    return torch.stack([torch.where(usable, losses * counts, 0.0), torch.where(usable, counts, 0.0), counts]).sum(1)
