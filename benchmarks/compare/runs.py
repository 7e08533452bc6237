"""Runs that are made once: several at a time, each kept as one small file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config

from benchmarks.methods import Method
from benchmarks.problems import Problem, create

from .identity import contents, version
from .training import Run, Trained, train

BACKENDS = ("loky", "dask", "ray")
POINTS = 100  # of a curve
Record = dict[str, Any]


def complete(
    wanted: Iterable[Run], folder: Path, jobs: int, backend: str, advance: Callable[[int], Any] = lambda runs: None
) -> dict[Run, Record]:
    """Return the record of each run: from its file if it was finished before, else made now and then kept.

    A run that fails has the record ``{"error": ...}``, is not kept, and does not end the others.

    Args:
        wanted: The runs.
        folder: Of their files.
        jobs: How many are made at a time, each with one thread.
        backend: One of :data:`BACKENDS`. ``"dask"`` connects to the cluster that Dask's configuration names (such as
            ``DASK_SCHEDULER_ADDRESS``) or starts a local one, ``"ray"`` likewise.
        advance: Told how many runs are there, as they come.
    """
    wanted = list(dict.fromkeys(wanted))
    problems = {text: create(text) for text in dict.fromkeys(run.problem for run in wanted)}
    data = {text: contents(problem.data()) for text, problem in problems.items()}
    of = {(run.problem, run.method) for run in wanted}
    versions = {(text, method): version(problems[text], Method.parse(method), data[text]) for text, method in of}
    paths = {run: path(folder, run, versions[run.problem, run.method]) for run in wanted}
    records = {run: json.loads(file.read_text()) for run, file in paths.items() if file.exists()}
    todo = [run for run in wanted if run not in records]
    advance(len(records))
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        with _workers(backend, min(jobs, len(todo))):
            made = Parallel(return_as="generator_unordered", batch_size=1)(
                delayed(make)(run, paths[run].with_suffix(".pt"), versions[run.problem, run.method]) for run in todo
            )
            for run, record in made:
                records[run] = record
                if "error" not in record:
                    _keep(record, paths[run])
                advance(1)
    return {run: records[run] for run in wanted}


def path(folder: Path, run: Run, of: str) -> Path:
    """The file of a run: what is readable of it, and a digest of all that it depends on, ``of`` being its version."""
    text = json.dumps([asdict(run), of])
    readable = "-".join(filter(None, [run.method, run.task, f"{run.learning_rate:.2g}", f"seed-{run.seed}"]))
    safe = "".join(character if character.isalnum() or character in ".-_" else "-" for character in readable)
    return folder / f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def make(run: Run, checkpoint: Path, of: str) -> tuple[Run, Record]:
    """Train and evaluate, and return the record."""
    torch.set_num_threads(1)
    try:
        problem = _problem(run.problem, of)
        return run, _record(problem, run, train(problem, run, checkpoint))
    except Exception as error:
        return run, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _keep(record: Record, file: Path) -> None:
    file.with_suffix(".new").write_text(json.dumps(record, allow_nan=False) + "\n")
    os.replace(file.with_suffix(".new"), file)  # never half a record
    file.with_suffix(".pt").unlink(missing_ok=True)


def _record(problem: Problem, run: Run, trained: Trained) -> Record:
    tasks = [run.task] if run.task else [*problem.tasks]
    present = ~trained.losses.isnan()
    average = trained.weights.sum(0) / present.sum(0).clamp(min=1)  # an absent task has weight 0
    every = math.ceil(run.steps / POINTS)
    return {
        "metrics": {split: finite(problem.evaluate(trained.network, split)) for split in ("validation", "test")},
        "mean_weights": finite(dict(zip(tasks, average.tolist(), strict=True))),
        "seconds": round(trained.seconds, 3),
        "curves": {
            "steps": list(range(0, run.steps, every)),
            "losses": _averages(trained.losses, every, tasks),
            "weights": _averages(trained.weights.where(present, torch.nan), every, tasks),
        },
    }


def _averages(values: torch.Tensor, every: int, tasks: list[str]) -> dict[str, list[float | None]]:
    """Average over so many steps at a time, of those in which a task is there."""
    means = torch.stack([block.nanmean(0) for block in values.split(every)])
    return {task: _rounded(of.tolist()) for task, of in zip(tasks, means.T, strict=True)}


def _rounded(values: list[float]) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """Replace what JSON does not have by None."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


@contextmanager
def _workers(backend: str, jobs: int) -> Iterator[None]:
    with ExitStack() as stack:
        if backend == "dask":
            from distributed import Client

            stack.enter_context(Client())
        elif backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        stack.enter_context(parallel_config(backend, **({} if backend == "dask" else {"n_jobs": jobs})))
        yield


@lru_cache(maxsize=1)
def _problem(text: str, version: str) -> Problem:
    """Construct a problem once for the runs that follow one another in a process."""
    return create(text)
