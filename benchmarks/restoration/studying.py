"""A study: methods x networks x seeds, each trained and evaluated by the commands of the suite, some at a time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from benchmarks.methods import FIXED_AT

from . import runs
from .evaluation import JSON

LOG = "log.txt"


@dataclass(frozen=True)
class Method:
    """A weighting with its interval, written ``art@8``; ``fixed-at:art@8`` has the average weights of that run."""

    weighting: str
    interval: int = 1
    averaged: str = ""

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the method that a text names.

        Raises:
            ValueError: Its interval is not a positive number.
        """
        if text.startswith(FIXED_AT):
            return cls("", averaged=text.removeprefix(FIXED_AT))
        weighting, at, interval = text.partition("@")
        if at and not (interval.isdecimal() and int(interval) > 0):
            raise ValueError(f"method {text!r} has the interval {interval!r}; write a positive number, as in art@8")
        return cls(weighting, int(interval or 1))


def folder(output: Path, model: str, method: str, seed: int) -> Path:
    """Return the folder of a run.

    Example:
        >>> folder(Path("study"), "srresnet", "art:decay=0.9@8", 1).as_posix()
        'study/srresnet-art-decay-0.9-every-8-seed-1'
    """
    readable = method.replace("@", "-every-").translate(str.maketrans(":=,", "---"))
    return output / f"{model}-{readable}-seed-{seed}"


def study(
    models: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    options: Sequence[str],
    jobs: int,
    advance: Callable[[Path], None] = lambda run: None,
) -> list[Path]:
    """Train and evaluate every run that is not there yet, and return the folders of all.

    A run's messages are in its ``log.txt``. The average weights of a method are known once its run is finished, so the
    runs that take them come last.

    Args:
        models: Names of networks.
        methods: See :class:`Method`.
        seeds: Of network and samples.
        output: The folder of the runs' folders.
        options: What the command ``train`` is given besides.
        jobs: How many runs there are at a time, each with one thread.
        advance: Told the folder of each run once it is evaluated.

    Raises:
        ValueError: A method cannot be read, or averages one that is not among the methods.
        RuntimeError: A run failed.
    """
    parsed = {method: Method.parse(method) for method in methods}
    for method, given in parsed.items():
        if given.averaged and given.averaged not in parsed:
            raise ValueError(f"method {method!r} averages {given.averaged!r}, which is not among the methods: add it")
    configurations = [*itertools.product(seeds, models, methods)]  # a seed is complete before the next
    for averaged in (False, True):
        part = [each for each in configurations if bool(parsed[each[2]].averaged) is averaged]
        _side_by_side([_commands(output, parsed, options, *each) for each in part], jobs, advance)
    return [folder(output, model, method, seed) for seed, model, method in configurations]


Commands = tuple[Path, list[list[str]]]


def _commands(
    output: Path, methods: dict[str, Method], options: Sequence[str], seed: int, model: str, name: str
) -> Commands:
    method, run = methods[name], folder(output, model, name, seed)
    weighting = method.weighting
    if method.averaged:
        weighting = f"{FIXED_AT}{folder(output, model, method.averaged, seed)}"
    start = [sys.executable, "-m", "benchmarks.restoration"]
    train = ["train", "--model", model, "--weighting", weighting, "--interval", str(method.interval)]
    train += ["--seed", str(seed), "--output", str(run), *options]
    commands = [] if runs.finished(run) else [[*start, *train]]
    return run, commands if (run / JSON).exists() and not commands else [*commands, [*start, "evaluate", str(run)]]


def _side_by_side(work: Iterable[Commands], jobs: int, advance: Callable[[Path], None]) -> None:
    stopped: list[Path] = []
    processes: set[subprocess.Popen[bytes]] = set()
    lock = Lock()  # no process starts once those that run have been told to stop

    def make(run: Path, commands: list[list[str]]) -> None:
        run.mkdir(parents=True, exist_ok=True)
        for command in commands:
            with (run / LOG).open("ab") as log, lock:
                if stopped:
                    return
                # A session of its own: an interrupt of the terminal is for this process, which passes it on.
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
                processes.add(process)
            status = process.wait()
            processes.remove(process)
            if status:
                stopped.append(run)
                return
        advance(run)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(make, run, commands) for run, commands in work]
        try:
            for done in waiting:
                done.result()
        except BaseException:
            with lock:
                stopped.append(Path())
                for process in [*processes]:
                    process.terminate()  # train saves a checkpoint; unlike SIGINT, no shell ignores SIGTERM
            raise
    if stopped:
        raise RuntimeError(f"{stopped[0]} failed; its {LOG} says why: mend it, and give the same command again")
