"""Finished, evaluated runs, sorted into arenas of runs that may be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.methods import FIXED, canonical, create

from .history import weighed
from .weighting_names import average_weights

AVERAGE = "average"
REFERENCE = "equal"
ALIKE = (
    *("setting", "tasks", "model", "scale", "precision"),
    *("schedule", "order", "steps", "batch", "patch", "sampler"),
    *("recipe", "stages", "loss", "optimizer", "average"),
)
EVALUATED_ALIKE = ("precision", "tile", "overlap")
FILES = ("scores.json", "history.npz")
ORDER = ("equal", "art", "fixed at the average of art", "rlw", "uncertainty")


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder: ``run.json`` as ``config`` and ``scores.json`` as ``scores``."""

    folder: Path
    config: dict[str, Any]
    scores: dict[str, Any]

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in order."""
        return list(self.config["tasks"])

    @property
    def is_fixed(self) -> bool:
        """Whether its weights were constants given by hand."""
        return str(self.config["weighting"]).startswith(f"{FIXED}:")

    @property
    def method(self) -> str:
        """The weighting, and its interval where that is not 1."""
        interval = self.config.get("interval") or 1
        name = canonical(self.config["weighting"])
        return name if interval == 1 else f"{name}, interval {interval}"

    @property
    def kind(self) -> str:
        """What it shares with the runs that it may be compared with, as JSON."""
        alike = {key: self.config.get(key) for key in ALIKE}
        return json.dumps({**alike, "data": self.config["data"]["digest"]}, sort_keys=True)

    def psnr(self, images: str = "restored") -> dict[str, float]:
        """Return the PSNR of each task, of the ``"restored"`` or the ``"input"`` images, and the mean of the tasks."""
        of_task = {task: self.scores[images][task]["psnr"] for task in self.tasks}
        values = {task: np.nan if value is None else float(value) for task, value in of_task.items()}
        return {**values, AVERAGE: float(np.mean(list(values.values())))}

    def history(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the steps [S], the losses [S, K] (NaN where absent) and the weights [S, K]."""
        with np.load(self.folder / "history.npz") as stored:
            return stored["steps"], stored["losses"], stored["weights"]


@dataclass(frozen=True)
class Arena:
    """Runs that differ in nothing but weighting, interval and seed.

    Attributes:
        label: A letter, to refer to it.
        runs: By method and seed.
    """

    label: str
    runs: dict[tuple[str, int], FinishedRun] = field(repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of one of the runs."""
        return next(iter(self.runs.values())).config

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in order."""
        return next(iter(self.runs.values())).tasks

    @property
    def methods(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(method for method, _ in self.runs))

    @cached_property
    def psnr(self) -> pd.DataFrame:
        """A row a method and seed, a column a task and one for their average."""
        rows = {key: run.psnr() for key, run in self.runs.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["method", "seed"])

    @cached_property
    def spread(self) -> pd.Series:
        """How unevenly the losses decrease where the method weighs, by method and seed: see :func:`spread_of_rates`."""
        values = {}
        for key, run in self.runs.items():
            steps, losses, _ = run.history()
            values[key] = spread_of_rates(losses[weighed(steps, run.config["spans"])])
        return pd.Series(values).rename_axis(index=["method", "seed"])

    @property
    def shown_seed(self) -> int:
        """The seed that most methods have, the smallest of those."""
        seeds = [seed for _, seed in self.runs]
        return min(seeds, key=lambda seed: (-seeds.count(seed), seed))

    def where(self) -> str:
        """Say what was trained."""
        config = self.config
        return f"{config['model']}, {config['schedule']}, {config['scale']} scale, {config['steps']} steps"


def spread_of_rates(losses: np.ndarray) -> float:
    """Return the standard deviation over the tasks of log(last / first loss); 0 where all decrease at one rate.

    The first loss of a task is the mean over the first twentieth of the steps in which it is present, the last one over
    the last tenth.
    """
    changes = []
    for of_task in losses.T:
        present = of_task[np.isfinite(of_task)].astype(np.float64)
        if not len(present):
            return float("nan")
        first, last = max(len(present) // 20, 1), max(len(present) // 10, 1)
        changes.append(np.log(present[-last:].mean() / present[:first].mean()))
    return float(np.std(changes, ddof=1)) if len(changes) > 1 else 0.0


def read(folders: Iterable[Path]) -> tuple[list[FinishedRun], dict[str, str]]:
    """Read the runs that folders are or hold.

    Returns:
        The runs, and for each folder that was left out of those that a given folder holds, why.

    Raises:
        ValueError: A folder is or holds no run, or is a run that is not finished or not evaluated.
    """
    runs: dict[Path, FinishedRun] = {}
    left_out: dict[str, str] = {}
    for folder in folders:
        found = [folder] if (folder / "run.json").is_file() else sorted(p.parent for p in folder.rglob("run.json"))
        if not found:
            raise ValueError(f"{folder} is no run and holds none; give folders with a run.json, as train writes them")
        for each in found:
            missing = _missing(each)
            if not missing:
                config, scores = (json.loads((each / name).read_text()) for name in ("run.json", "scores.json"))
                runs[each.resolve()] = FinishedRun(each, config, scores)
            elif each == folder:
                raise ValueError(f"{each} {missing}; a report wants finished, evaluated runs")
            else:
                left_out[each.relative_to(folder).as_posix()] = missing
    if not runs:
        raise ValueError(f"none of {len(left_out)} runs is finished and evaluated: {_first(left_out)}")
    return list(runs.values()), left_out


def arenas(runs: Sequence[FinishedRun]) -> list[Arena]:
    """Sort runs into arenas.

    A run with fixed weights that are the average of those of another run of its arena is named after that one's method,
    since such weights differ from seed to seed.

    Raises:
        ValueError: Two runs differ in nothing, or two of an arena were evaluated on different pictures or in different
            ways.
    """
    sorted_runs: dict[str, list[FinishedRun]] = {}
    for run in runs:
        sorted_runs.setdefault(run.kind, []).append(run)
    result = []
    for index, group in enumerate(sorted_runs.values()):
        named: dict[tuple[str, int], FinishedRun] = {}
        for run in group:
            _check_evaluated_alike(group[0], run)
            key = (_method(run, group), run.seed)
            if key in named:
                raise ValueError(
                    f"{named[key].folder} and {run.folder} are both {key[0]} with seed {run.seed}; a report wants one "
                    "run of each: leave one out"
                )
            named[key] = run
        order = sorted(named, key=lambda key: (_rank(key[0]), key))
        result.append(Arena(_letters(index), {key: named[key] for key in order}))
    return result


def _missing(folder: Path) -> str:
    if not json.loads((folder / "run.json").read_text()).get("finished"):
        return "is not finished: train goes on from its checkpoint"
    absent = [name for name in FILES if not (folder / name).is_file()]
    return f"has no {absent[0]}: evaluate it" if absent else ""


def _first(left_out: dict[str, str]) -> str:
    return next(f"{folder} {why}" for folder, why in left_out.items())


def _method(run: FinishedRun, group: Sequence[FinishedRun]) -> str:
    if not run.is_fixed:
        return run.method
    weights = create(run.config["weighting"]).for_tasks(run.tasks).init(len(run.tasks))["weights"].double().numpy()
    distances = [
        (float(np.abs([*average_weights(other.folder).values()] - weights / weights.sum()).max()), other.method)
        for other in group
        if not other.is_fixed
    ]
    distance, method = min(distances, default=(1.0, ""))
    return f"fixed at the average of {method}" if distance < 1e-4 else run.method


def _check_evaluated_alike(first: FinishedRun, run: FinishedRun) -> None:
    for task in run.tasks:
        ours, theirs = (of.scores["input"][task] for of in (run, first))
        if ours["images"] != theirs["images"] or not np.isclose(run.psnr("input")[task], first.psnr("input")[task]):
            raise ValueError(
                f"{first.folder} and {run.folder} were evaluated on different pictures: the input of {task} has "
                f"{theirs['psnr']} dB over {theirs['images']} and {ours['psnr']} dB over {ours['images']}; runs "
                "that are compared want the same: evaluate them again on one test set"
            )
    for option in EVALUATED_ALIKE:
        ours, theirs = (of.scores.get("identity", {}).get(option) for of in (run, first))
        if ours != theirs:
            raise ValueError(
                f"{first.folder} and {run.folder} were evaluated with the {option} {theirs} and {ours}; runs that are "
                "compared want the same: evaluate them again"
            )


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _letters(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"A{index}"
