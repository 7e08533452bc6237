"""How long a training step takes with a method, relative to equal weighting."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from art_optim.weighting import Weighting
from benchmarks.timing import quartiles, rounds

from . import methods, statistics, training
from .training import Config, Data

SECONDS = 40.0  # in all, but for the least rounds
ROUNDS = 5  # at least


def step_times(weightings: Mapping[str, Weighting], config: Config, data: Data) -> pd.DataFrame:
    """Return the quartiles of the step time relative to that of equal weighting: a row a method.

    Equal weighting takes turns twice, and each round relates the others to one of them: so the row of the other shows
    the noise. Each method trains a network of its own on one batch.
    """
    batch = data.patches.batch(0, config.batch, config.patch).to(config.device)
    reference = f"{statistics.REFERENCE} again"
    steps = {
        name: partial(training.step, *training.start(weighting, config), batch)
        for name, weighting in {**weightings, reference: methods.make(statistics.REFERENCE, config.seed)}.items()
    }
    return quartiles(rounds(steps, config.device, ROUNDS, SECONDS), reference).loc[[*weightings], "ratio"]
