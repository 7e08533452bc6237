"""The whole suite on combinations of its choices: train, be killed, go on, evaluate, restore, report.

The command line does the work, in processes of one thread that start from a server with everything imported; this
process kills and compares. A folder holds ``photographs`` and ``data``, which the combinations share; of each
combination the run that was killed (``runs``) and the one that was not (``whole``), a ``restored`` picture and the
output of the commands (``logs``); the ``report``; and the results, ``cover.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import processor

from . import layouts, models, photographs, runs
from .bitwise import differing
from .recipes import Schedule

T = TypeVar("T")
Combination = Mapping[str, str]
Command = Sequence[object]
Work = Generator[None, None, T]
"""Yields while a process works, and returns what came of it."""

FACTORS: dict[str, tuple[str, ...]] = {
    "model": models.available(),
    "setting": tuple(layouts.SETTINGS),
    "schedule": get_args(Schedule),
    "weighting": ("equal", "art"),
}
COMMANDS = ("prepare", "train", "evaluate", "restore", "report")
RESULTS = "cover.json"
PICTURES, HEIGHT, WIDTH, SUB_IMAGE = 4, 72, 88, 48
TRIES = 20
"""How often a run is begun that comes to its end before it is killed."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([f"{__package__}.commands.{each}" for each in COMMANDS] + ["torch._dynamo"])


class Failure(Exception):
    """A command failed, or what it left is wrong."""


def name(combination: Combination) -> str:
    """Return what the folders of a combination are called.

    Example:
        >>> name({"model": "airnet", "setting": "multiple", "schedule": "mixed", "weighting": "art"})
        'airnet_multiple_mixed_art'
    """
    return "_".join(combination.values())


def cover(
    combinations: Sequence[Combination],
    folder: Path,
    *,
    steps: int = 20,
    seed: int = 0,
    jobs: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Any]]:
    """Put combinations of ``FACTORS`` through the suite, and return the result of each by its name.

    A combination passes if no command fails, the losses are finite, and the run that was killed by SIGKILL comes to the
    checkpoint and history of one that was not, bit for bit. A ``failure`` says what is wrong with another one. In a
    folder of an earlier call those that passed are kept.

    Args:
        combinations: Each a value of every factor.
        folder: New, or one of an earlier call with the same ``steps`` and ``seed``.
        steps: Length of the runs, at least 2.
        seed: Of the data, the networks and the steps in which runs are killed.
        jobs: Combinations at a time.
        progress: Called with the number of combinations done.

    Raises:
        ValueError: There are too few steps or jobs, or the folder is not one of such a call.
    """
    if steps < 2:
        raise ValueError(f"steps are {steps}; a run must have 2 or more to be killed on its way: raise them")
    if jobs < 1:
        raise ValueError(f"jobs are {jobs}; there must be 1 or more: raise them")
    options = {"steps": steps, "seed": seed}
    where = {"python": platform.python_version(), "torch": torch.__version__, "processor": processor()}
    known = _known(folder, options)
    _make_data(sorted({each["setting"] for each in combinations}), folder, seed)
    results = {key: known[key] for key in map(name, combinations) if key in known and not known[key]["failure"]}
    left = [each for each in combinations if name(each) not in results]
    working: dict[str, Work[dict[str, Any]]] = {}
    try:
        while left or working:
            while left and len(working) < jobs:
                combination = left.pop(0)
                working[name(combination)] = _cover(combination, folder, steps, seed)
            progress(len(results))
            for key, work in list(working.items()):
                try:
                    next(work)
                except StopIteration as end:
                    known[key] = results[key] = end.value
                    del working[key]
                    runs.write_json(folder / RESULTS, {**options, **where, "combinations": known})
            time.sleep(0.002)
    finally:
        for work in working.values():
            work.close()
    progress(len(results))
    return {key: results[key] for key in map(name, combinations)}


def report(results: Mapping[str, Mapping[str, Any]], folder: Path) -> str | None:
    """Report on the runs that passed; return what is wrong with the report, if anything is."""
    passed = [folder / "runs" / key for key, result in results.items() if not result["failure"]]
    try:
        _wait(_do([["report", *passed, "--output", folder / "report"]], folder / "logs" / "report.txt"))
        arenas = json.loads((folder / "report" / "report.json").read_text())["runs"]
        reported = sum(len(arena["psnr"]) for arena in arenas)
        _require(reported == len(passed), f"it has {reported} of {len(passed)} runs")
    except Failure as failure:
        return str(failure)
    return None


def _known(folder: Path, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results in a folder, or claim it."""
    file = folder / RESULTS
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other files; the folder must be new, or that of a cover: choose another")
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(file, {**options, "combinations": {}})
    found = json.loads(file.read_text())
    known: dict[str, dict[str, Any]] = found.pop("combinations")
    if different := runs.differences({key: found[key] for key in options}, options):
        raise ValueError(f"{folder} holds another cover: {'; '.join(different)}; give another folder, or its options")
    return known


def _make_data(settings: Sequence[str], folder: Path, seed: int) -> None:
    """Prepare settings from the middle of packaged photographs, whose sides no network divides evenly."""
    source = folder / "photographs"
    source.mkdir(exist_ok=True)
    for photograph in photographs.packaged()[:PICTURES]:
        height, width = photograph.image.shape[1:]
        top, left = (height - HEIGHT) // 2, (width - WIDTH) // 2
        middle = photograph.image[:, top : top + HEIGHT, left : left + WIDTH].permute(1, 2, 0)
        Image.fromarray(middle.numpy()).save(source / f"{photograph.name}.png")
    options = ["--photographs", source, "--size", SUB_IMAGE, "--seed", seed, "--jobs", 1]
    prepare = [["prepare", "--setting", each, "--output", folder / "data" / each, *options] for each in settings]
    try:
        _wait(_do(prepare, folder / "logs" / "prepare.txt"))
    except Failure as failure:
        raise ValueError(f"the data could not be made in {folder}: {failure}") from None


def _cover(combination: Combination, folder: Path, steps: int, seed: int) -> Work[dict[str, Any]]:
    began = time.perf_counter()
    try:
        result = {"failure": None, **(yield from _pass(combination, folder, steps, seed))}
    except Exception as error:  # whatever it is, the other combinations go on
        result = {"failure": str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"}
    return {**combination, **result, "seconds": round(time.perf_counter() - began, 1)}


def _pass(combination: Combination, folder: Path, steps: int, seed: int) -> Work[dict[str, Any]]:
    key = name(combination)
    run, whole, log = folder / "runs" / key, folder / "whole" / key, folder / "logs" / f"{key}.txt"
    data, restored = folder / "data" / combination["setting"], folder / "restored" / f"{key}.png"
    log.unlink(missing_ok=True)
    shutil.rmtree(whole, ignore_errors=True)
    choices = [part for factor, value in combination.items() for part in (f"--{factor}", value)]
    train = ["train", *choices, "--data", data, "--scale", "tiny", "--steps", steps, "--seed", seed, "--output"]
    in_parts = [*train, run, "--save-every", 1]

    kill_at = random.Random(f"{seed} {key}").randint(1, steps // 2)
    killed_after = yield from _killed(in_parts, run, kill_at, steps, log)
    picture = layouts.read(combination["setting"], data, "test")[0].degraded
    rest = [[*train, whole], in_parts, ["evaluate", run, "--pictures", 1], ["restore", run, picture, restored]]
    yield from _do(rest, log)

    different = differing(whole, run)
    _require(not different, f"the resumed run differs in {', '.join(different)}")
    _check_history(run)
    _check_restored(run, restored)
    average = json.loads((run / "scores.json").read_text())["average"]
    psnr = {side: round(average[side]["psnr"], 2) for side in ("input", "restored")}
    return {"kill_at": kill_at, "killed_after": killed_after, "psnr": psnr}


def _killed(train: Command, run: Path, step: int, steps: int, log: Path) -> Work[int]:
    """Kill a training of ``steps`` once it has saved a step; return the step from which it can go on."""
    for _ in range(TRIES):
        shutil.rmtree(run, ignore_errors=True)
        with _process([train], log) as process:
            while process.is_alive() and _saved(run) < step:
                yield
            process.kill()
            process.join()
        _require(process.exitcode in (0, -signal.SIGKILL), _ended(process, log))
        killed_after = int(runs.read_checkpoint(run, torch.device("cpu"))["step"])
        if process.exitcode and killed_after < steps:
            return killed_after
    raise Failure(f"train came to its end {TRIES} times before it could be killed; give more --steps")


def _saved(run: Path) -> int:
    file = run / runs.CONFIG
    return int(json.loads(file.read_text())["step"]) if file.is_file() else 0


def _check_history(run: Path) -> None:
    config, history = runs.load(run).config, runs.load(run).history()
    absent = np.isnan(history["losses"])
    _require(history["steps"].tolist() == list(range(1, config["steps"] + 1)), "the history lacks steps")
    _require(not absent.all(1).any() and not np.isinf(history["losses"]).any(), "a loss is not finite")
    _require(bool((history["weights"][absent] == 0).all()), "an absent task has a weight")
    _require(config["skipped"] == 0, "a gradient is not finite")


def _check_restored(run: Path, restored: Path) -> None:
    task = runs.load(run).config["tasks"][0]
    (kept,) = (run / "pictures" / task).glob("*-restored.png")
    with Image.open(kept) as one, Image.open(restored) as other:
        _require(other.size == (WIDTH, HEIGHT), f"the restored picture has {other.size[0]} x {other.size[1]} pixels")
        _require(one.tobytes() == other.tobytes(), "restore and evaluate make different pictures")


def _do(commands: Sequence[Command], log: Path) -> Work[None]:
    """Run commands one after the other, until one fails."""
    with _process(commands, log) as process:
        while process.is_alive():
            yield
    _require(process.exitcode == 0, _ended(process, log))


@contextmanager
def _process(commands: Sequence[Command], log: Path) -> Iterator[BaseProcess]:
    """Run commands in a process that ends with the context, at the latest."""
    log.parent.mkdir(exist_ok=True)
    arguments = [[str(argument) for argument in command] for command in commands]
    process = PROCESSES.Process(target=_run, args=(arguments, log), daemon=True)
    try:
        process.start()
        yield process
    finally:
        if process.pid is not None:
            process.kill()
            process.join()


def _run(commands: Sequence[Sequence[str]], log: Path) -> None:
    from .__main__ import main

    with log.open("ab") as file:
        for output in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), output.fileno())
    torch.set_num_threads(1)
    for command in commands:
        print(*command, flush=True)
        if status := main(command):
            sys.exit(status)


def _ended(process: BaseProcess, log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return f"a command ended with status {process.exitcode}: {lines[-1] if lines else 'without a word'} ({log})"


def _wait(work: Work[None]) -> None:
    for _ in work:
        time.sleep(0.002)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failure(otherwise)
