"""Rounds in which all contestants take their turn, and what they say."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import torch

BLOCK, MOST_STEPS = 1e-2, 50  # in a round, steps until the first has taken so many seconds

Step = Callable[[], object]


def rounds(contestants: Mapping[str, Step], device: str, least: int, seconds: float, multiple: int = 1) -> pd.DataFrame:
    """Return the seconds of a step: a row a round, a column a contestant.

    In each round all contestants take the same number of steps, in random order: as many as suit the first, after one
    that is not timed, since training does not change the method between two steps and has its code in the caches. Their
    number is a multiple of ``multiple``, so that what is done once in so many steps has its share. There are at least
    so many rounds, and more until the seconds are over; another one before them warms up.
    """
    order, shuffle = list(contestants), random.Random(0).shuffle
    for step in contestants.values():
        seconds_a_step(step, 2, device)
    steps = min(MOST_STEPS, math.ceil(BLOCK / seconds_a_step(contestants[order[0]], 2, device)))
    steps = multiple * math.ceil(steps / multiple)
    times: list[dict[str, float]] = []
    began = time.perf_counter()
    with _no_collection():
        while len(times) <= least or time.perf_counter() - began < seconds:
            shuffle(order)
            gc.collect()
            times.append({})
            for name in order:
                contestants[name]()
                times[-1][name] = seconds_a_step(contestants[name], steps, device)
    return pd.DataFrame(times[1:], columns=list(contestants))


def seconds_a_step(step: Step, steps: int, device: str) -> float:
    """Return the mean over so many steps; an accelerator has finished all that it was given before and in them."""
    finish(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    finish(device)
    return (time.perf_counter() - began) / steps


def quartiles(times: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Relate each round to the reference in that round; return the quartiles over the rounds, a row a contestant.

    ``ratio`` is the time over that of the reference, ``extra`` the microseconds beyond it, ``time`` the microseconds.
    """
    related = {
        "time": 1e6 * times,
        "ratio": times.div(times[reference], axis=0),
        "extra": 1e6 * times.sub(times[reference], axis=0),
    }
    names = {0.25: "low", 0.5: "median", 0.75: "high"}
    return pd.concat(
        {key: frame.quantile(list(names)).T.rename(columns=names) for key, frame in related.items()}, axis=1
    )


def finish(device: str) -> None:
    """Wait until an accelerator has done what it was given."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage between the rounds, not in a step that happens to be the one."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
