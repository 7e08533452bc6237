"""What a problem is: its tasks, a network, the losses of a step, and metrics on held-out data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from art_optim import TaskLosses

Split = Literal["validation", "test"]
Losses = Mapping[str, Tensor] | TaskLosses


@dataclass(frozen=True)
class Metric:
    """How the values of a metric are read.

    Attributes:
        higher: Whether a higher value is the better one.
        task: The task that it measures, which is also trained alone for Delta m; None where it measures them together.
    """

    higher: bool
    task: str | None = None


class Problem(ABC):
    """A problem that :mod:`benchmarks.compare` trains with each method.

    A run depends on the arguments of the constructor, the seed, what :meth:`data` returns, and the code. Everything
    random comes from the seed: twice the same run gives the same bits. Seeds of training are 0 or more; what is fixed
    or held out is drawn with others, or it shares its numbers with a batch.

    Attributes:
        tasks: The names of the tasks.
        metrics: The metrics by name. The first decides: tuning looks for its best value, tables are sorted by it.
        steps: The length of a run.
        epoch: The steps in which the training data are seen once, for methods that count epochs.
        learning_rate: Of Adam; tuning looks around it.
    """

    tasks: Sequence[str]
    metrics: Mapping[str, Metric]
    steps: int
    epoch: int = 1
    learning_rate: float = 1e-3

    @abstractmethod
    def network(self) -> nn.Module:
        """Construct the network; torch's default generator has been seeded with the seed of the run."""

    @abstractmethod
    def losses(self, network: Any, seed: int, step: int) -> Losses:
        """Compute the losses of a step, as ``TaskReweightedOptimizer.step`` takes them.

        The batch is a function of the seed and the step alone, so that a run goes on exactly where it was interrupted.
        It goes to the device of the network.
        """

    @abstractmethod
    def evaluate(self, network: Any, split: Split) -> dict[str, float]:
        """Compute every metric on data that were not trained on."""

    def shared(self, network: Any) -> list[nn.Parameter]:
        """Return the parameters by which GradNorm differentiates the losses: those of the last layer that all share."""
        return [*network.parameters()]

    def data(self) -> Iterable[Tensor | Path]:
        """Return the data that are not made by the code: their contents are part of a run's identity."""
        return ()
