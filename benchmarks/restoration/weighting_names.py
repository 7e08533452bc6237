"""The weighting of a run as a line of text: what :mod:`benchmarks.methods` reads, and ``fixed-at:FOLDER``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.methods import FIXED, FIXED_AT, canonical

from .history import weighed


def resolve(text: str) -> str:
    """Return the canonical text, with ``fixed-at:FOLDER`` replaced by that run's average weights, ``fixed:...``.

    Raises:
        ValueError: The folder has no finished run, or the text names no weighting.
    """
    if not text.startswith(FIXED_AT):
        return canonical(text)
    folder = Path(text.removeprefix(FIXED_AT))
    missing = [name for name in ("run.json", "history.npz") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"weighting {text!r}: {folder} has no {missing[0]}; give the folder of a run that was trained")
    if not json.loads((folder / "run.json").read_text())["finished"]:
        raise ValueError(
            f"weighting {text!r}: that run is not finished; an average is over all of a run: finish it first"
        )
    weights = ",".join(f"{task}={weight:.6g}" for task, weight in average_weights(folder).items())
    return canonical(f"{FIXED}:{weights}")


def average_weights(run: Path) -> dict[str, float]:
    """Average the weights of a finished run, of sum 1.

    The average of a task is over the steps that have a loss of it, in the stages that the method weighed: a sequential
    training begins with others.

    Raises:
        ValueError: A task has no loss in any of these steps.
    """
    config = json.loads((run / "run.json").read_text())
    with np.load(run / "history.npz") as history:
        steps, losses, weights = (history[name] for name in ("steps", "losses", "weights"))
    present = np.isfinite(losses) & weighed(steps, config["spans"])[:, None]
    counts = present.sum(axis=0)
    if not counts.all():
        raise ValueError(
            f"the history of {run} has no loss of task {config['tasks'][int(counts.argmin())]!r} where it weighs; an "
            "average weight wants every task: train longer"
        )
    average = np.where(present, weights, 0).sum(axis=0, dtype=np.float64) / counts
    return dict(zip(config["tasks"], (average / average.sum()).tolist(), strict=True))
