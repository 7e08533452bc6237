"""One run for each method and seed, and for a control the run that it averages before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cache import Run, complete, processes

from . import methods, training
from .training import Config, Data


def compare(
    names: Sequence[str],
    configs: Sequence[Config],
    jobs: int,
    folder: Path,
    advance: Callable[[int], Any] = lambda runs: None,
) -> list[Run]:
    """Return the runs of the methods, each with every configuration: from ``folder`` those that were finished before.

    The configurations are of different seeds. ``advance`` is told how many runs are there, as they come.
    """
    averaged, controls = needed(names)
    with processes(min(jobs, len(averaged) * len(configs))) as over:

        def make(wanted: list[Run]) -> dict[tuple[str, int], Run]:
            made = complete(partial(examine, folder), {path(folder, run): run for run in wanted}, over, advance)
            return {(run["method"], run["config"]["seed"]): run for run in made}

        def mean_weights(control: str, config: Config) -> list[float]:
            return runs[methods.base(control), config.seed]["mean_weights"]

        runs = make([describe(name, config) for config in configs for name in averaged])
        runs |= make([describe(name, config, mean_weights(name, config)) for config in configs for name in controls])
    return [runs[name, config.seed] for name in names for config in configs]


def needed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the methods to run first, and the controls, which take the weights of these."""
    return list(dict.fromkeys(map(methods.base, names))), [name for name in names if methods.base(name) != name]


def describe(name: str, config: Config, weights: list[float] | None = None) -> Run:
    """What a run depends on."""
    return {
        "method": name,
        "weights": weights,
        "weighting": repr(methods.make(name, config.seed, weights)),
        "config": asdict(config),
    }


def path(folder: Path, run: Run) -> Path:
    """The file of a run: its method and seed, to read, and a digest of all that it depends on."""
    digest = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:12]
    return folder / f"{run['method'].replace(':', '-')}-{run['config']['seed']}-{digest}.json"


def examine(folder: Path, run: Run) -> Run:
    """Train a network, or go on training it, and return how well it restores and what the weights were."""
    torch.set_num_threads(1)  # several runs share the machine
    config = Config(**run["config"])
    data = prepared(config)
    weighting = methods.make(run["method"], config.seed, run["weights"])
    checkpoint = training.train(weighting, config, data.patches, path(folder, run).with_suffix(".pt"))
    losses, weights = checkpoint["history"].unbind(1)
    steps = (~losses.isnan()).sum(0).clamp(min=1)
    return {
        **run,
        "scores": training.score(training.restore(checkpoint, data.images, config.device), data.images),
        "mean_weights": (weights.sum(0) / steps).tolist(),  # an absent task has weight 0
    }


def degraded(config: Config) -> Run:
    """Return the scores of the images that are to be restored, like those of a run."""
    images = prepared(config).images
    scores = training.score([image.degraded for image in images], images)
    return {"method": "degraded input", "config": asdict(config), "scores": scores}


@lru_cache(maxsize=1)
def prepared(config: Config) -> Data:
    """Return the data of a configuration, which the runs that follow one another have in common."""
    return Data(config)
