"""How long a training step takes with a method, relative to equal weighting."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch

from art_optim.weighting import Weighting
from benchmarks.restoration import training
from benchmarks.restoration.training import Config, Data

from . import methods

SECONDS = 40.0  # in all, but for the least rounds
ROUNDS = 5  # at least
STEPS = 2  # of each method in a round


def step_times(weightings: Mapping[str, Weighting], config: Config, data: Data) -> pd.DataFrame:
    """Return the quartiles of the step time relative to that of equal weighting: a row a method.

    In each round all methods take a few steps, in random order, and equal weighting some more, to which the round
    relates the others: so the row of equal weighting shows the noise. Each trains a network of its own on one batch.
    """
    batch = data.patches.batch(0, config.batch, config.patch).to(config.device)
    reference = f"{methods.REFERENCE} again"
    steps = {
        name: partial(training.step, *training.start(weighting, config), batch)
        for name, weighting in {**weightings, reference: methods.make(methods.REFERENCE, config.seed)}.items()
    }
    order, shuffle = list(steps), random.Random(0).shuffle
    rounds: list[dict[str, float]] = []
    began = time.perf_counter()
    while len(rounds) <= ROUNDS or time.perf_counter() - began < SECONDS:
        shuffle(order)
        rounds.append({})
        for name in order:
            since = time.perf_counter()
            for _ in range(STEPS):
                steps[name]()
            if config.device != "cpu":
                torch.accelerator.synchronize()
            rounds[-1][name] = time.perf_counter() - since
    seconds = pd.DataFrame(rounds[1:])  # the first warms up
    return seconds[list(weightings)].div(seconds[reference], axis=0).quantile([0.25, 0.5, 0.75]).T
