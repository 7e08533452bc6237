"""Images a second: of the loader alone, of the network alone, and of both together."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from benchmarks.timing import seconds_a_step

from . import recipes, training
from .data import Batch
from .layouts import Pairs
from .processes import Group
from .training import Config, Execution, Training

LONG = 1_000_000  # steps, more than are ever timed
LEAST = 3  # steps of the loader in a turn

Step = Callable[[], object]


@dataclass(frozen=True)
class Rate:
    """Images a second over the rounds."""

    rounds: list[float] = field(repr=False)

    def record(self) -> dict[str, float | list[float]]:
        """Return the median, the quartiles and all rounds, as for JSON."""
        low, median, high = self.quartiles()
        return {"median": median, "low": low, "high": high, "rounds": self.rounds}

    def quartiles(self) -> tuple[float, float, float]:
        """Return the first quartile, the median and the third."""
        low, median, high = np.quantile(self.rounds, [0.25, 0.5, 0.75]).tolist()
        return low, median, high

    def text(self) -> str:
        """Write the median and, in brackets, the quartiles: three digits each."""
        low, median, high = map(_digits, self.quartiles())
        return f"{median} ({low}-{high})"


def measure(
    config: Config, pairs: Pairs, workers: Sequence[int], device: torch.device, rounds: int, seconds: float
) -> dict[str, Rate]:
    """Measure ``"network"``, and for each number of workers ``"loader, N"`` and ``"both, N"``.

    In each round all take their turn, in random order, for so many seconds and at least one step; a loader starts anew
    and gives the batches that it prefetches before it is timed, so that none was made while another had its turn. The
    network trains as in a run of ``config``, by the last stage of its recipe: on one batch that is on the device, or
    on what the loader gives.
    """
    group = Group(0, 1, device)
    trained = Training(config, group, Execution(str(device)))
    span = recipes.spans(config.recipe, config.schedule, config.tasks, LONG)[-1]
    trained.enter(span)
    start = count()

    def batches(number: int) -> Iterator[Batch]:
        first = LONG * next(start)
        made = training.loader(config, span, pairs, group, number)(range(first, first + LONG))
        iterator = iter(made)
        for _ in range(1 + number * (made.prefetch_factor or 0)):
            next(iterator)
        return iterator

    fixed = next(batches(0)).to(device)

    def rate(step: Step, least: int = 1) -> float:
        began = time.perf_counter()
        step()  # not timed, but by it the number of those that are
        steps = math.ceil(seconds / (time.perf_counter() - began))
        return config.batch / seconds_a_step(step, max(least, steps), str(device))

    def network() -> float:
        return rate(lambda: trained.train(fixed))

    def loader(number: int) -> float:
        iterator = batches(number)
        return rate(lambda: next(iterator), LEAST)

    def both(number: int) -> float:
        iterator = batches(number)
        return rate(lambda: trained.train(next(iterator).to(device)))

    turns: dict[str, Callable[[], float]] = {"network": network}
    for number in workers:
        turns[f"loader, {number}"] = lambda number=number: loader(number)
        turns[f"both, {number}"] = lambda number=number: both(number)
    shuffle = random.Random(0).shuffle
    found: dict[str, list[float]] = {name: [] for name in turns}
    trained.train(fixed)
    for _ in range(rounds):
        order = list(turns)
        shuffle(order)
        for name in order:
            found[name].append(turns[name]())
    return {name: Rate(rates) for name, rates in found.items()}


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
