"""Closures that return the losses of the tasks, which the inner optimizer may evaluate several times a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

from torch import Tensor

from .losses import Losses
from .nonfinite import require_finite_gradients


class Replay:
    """The weights of one step: the first evaluation of its closure records them, and later ones repeat them in order.

    Args:
        weights: The weights that the first evaluation repeats, too, where they are known before it.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        self._weights = [] if weights is None else [weights]
        self._earlier: Iterator[Tensor] | None = None  # None outside an evaluation

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Start again at the first weights."""
        self._earlier = iter(tuple(self._weights))
        try:
            yield
        finally:
            self._earlier = None

    def next(self) -> Tensor | None:
        """Return the next weights of an earlier evaluation, or None if there are no more."""
        return None if self._earlier is None else next(self._earlier, None)

    def record(self, weights: Tensor) -> None:
        """Add weights that were computed in this evaluation."""
        if self._earlier is not None:
            self._weights.append(weights)


class WeighedClosure:
    """Evaluates a closure for the inner optimizer, and weighs and differentiates the losses that it returns.

    Args:
        closure: Returns the losses of the tasks; or calls ``backward`` itself, and returns the total or None.
        backward: Weighs losses and differentiates them.
        replay: The weights of this step.
    """

    def __init__(self, closure: Callable[[], Any], backward: Callable[[Losses], Tensor], replay: Replay) -> None:
        self.closure, self.backward, self.replay = closure, backward, replay
        self._watched: list[Tensor] = []
        self._versions: list[int] = []

    def watch(self, parameters: list[Tensor]) -> None:
        """Require finite gradients from now on, until the inner optimizer has moved a parameter.

        After that, stopping would leave the step of the inner optimizer half done.
        """
        self._watched, self._versions = parameters, _versions(parameters)

    def __call__(self) -> Any:
        """Evaluate the closure once.

        Raises:
            TypeError: The closure returns neither losses by task nor a total, but e.g. a list of losses, which would
                train nothing.
            Skip: Gradients that are watched are not finite.
        """
        unmoved = bool(self._watched) and self._versions == _versions(self._watched)
        with self.replay.evaluation():
            result = self.closure()
            if not _is_total(result):
                result = self.backward(result)  # which refuses anything else than losses
        if unmoved:
            require_finite_gradients(self._watched)
        return result


def _is_total(result: object) -> bool:
    """Whether a closure that has called ``backward`` itself may return this: None, or one number."""
    if isinstance(result, Tensor):
        return result.numel() == 1
    return result is None or isinstance(result, SupportsFloat)


def _versions(tensors: list[Tensor]) -> list[int]:
    return [tensor._version for tensor in tensors]
