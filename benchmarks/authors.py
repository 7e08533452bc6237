"""Art on the host, as published training scripts weigh: a number at a time, in Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


class HostArt:
    """The formula of ``Art.reference(temperature)``; each loss is read back from the device.

    Args:
        num_tasks: K.
        temperature: Of the softmax.
        decay: The share of history in the smoothed losses.
    """

    def __init__(self, num_tasks: int, temperature: float = 0.1, decay: float = 0.99) -> None:
        self.temperature = temperature
        self.decay = decay
        self.smoothed = [0.1] * num_tasks
        self.minimum = [0.1] * num_tasks

    def weigh(self, losses: Sequence[Tensor | None]) -> list[float]:
        """Return the weights, 0 for absent tasks, and take the losses in."""
        logits = [-math.inf] * len(losses)
        for task, loss in enumerate(losses):
            if loss is None:
                continue
            value = loss.item()
            rate = value / self.smoothed[task]
            correction = math.log(self.minimum[task]) / math.log(value)
            logits[task] = rate * correction / self.temperature
            self.smoothed[task] = self.decay * self.smoothed[task] + (1 - self.decay) * value
            self.minimum[task] = min(self.minimum[task], value)
        largest = max(logits)
        exponentials = [math.exp(logit - largest) for logit in logits]
        total = sum(exponentials)
        return [exponential / total for exponential in exponentials]

    def __call__(self, losses: Sequence[Tensor | None]) -> Tensor:
        """Return the weighted sum of the losses."""
        weighted = zip(self.weigh(losses), losses, strict=True)
        return sum(weight * loss for weight, loss in weighted if loss is not None)
