"""Closures that return the losses of the tasks, which the inner optimizer may evaluate several times a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .losses import Losses, TaskLosses
from .nonfinite import require_finite_gradients


class Replay:
    """The weights of one step: the first evaluation of its closure finds them, later ones repeat them in order.

    Args:
        weights: Those that the first evaluation repeats already.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        self._weights = [] if weights is None else [weights]
        self._earlier: Iterator[Tensor] | None = None  # None outside an evaluation

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Begin with the first weights again."""
        self._earlier = iter(tuple(self._weights))
        try:
            yield
        finally:
            self._earlier = None

    def next(self) -> Tensor | None:
        """Return the next weights of an earlier evaluation, or None where there are no more."""
        return None if self._earlier is None else next(self._earlier, None)

    def record(self, weights: Tensor) -> None:
        """Add weights that this evaluation has found."""
        if self._earlier is not None:
            self._weights.append(weights)


class WeighedClosure:
    """What the inner optimizer gets in place of a closure: it weighs the losses that the closure returns.

    Args:
        closure: Returns losses by task, or has called ``backward`` itself.
        backward: Weighs losses and differentiates them.
        replay: The weights of this step.
    """

    def __init__(self, closure: Callable[[], Any], backward: Callable[[Losses], Tensor], replay: Replay) -> None:
        self.closure, self.backward, self.replay = closure, backward, replay
        self._watched: list[Tensor] = []
        self._versions: list[int] = []

    def watch(self, parameters: list[Tensor]) -> None:
        """From now on require that gradients are finite, until the inner optimizer has moved a parameter.

        Later, stopping it would leave its step half done.
        """
        self._watched, self._versions = parameters, _versions(parameters)

    def __call__(self) -> Any:
        """Evaluate the closure once.

        Raises:
            Skip: Gradients that are watched are not finite.
        """
        unmoved = bool(self._watched) and self._versions == _versions(self._watched)
        with self.replay.evaluation():
            losses = self.closure()
            result = self.backward(losses) if isinstance(losses, (Mapping, TaskLosses)) else losses
        if unmoved:
            require_finite_gradients(self._watched)
        return result


def _versions(tensors: list[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]
