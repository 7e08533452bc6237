"""Runs that are made once: by several processes, and kept as one small file each."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Over = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def complete(
    make: Callable[[Run], Run], configs: Mapping[Path, Run], over: Over, advance: Callable[[int], Any]
) -> list[Run]:
    """Return the run of each configuration: from its file if it was finished before, else made now, and then kept.

    Args:
        make: Makes the run of a configuration: the configuration, and what came of it. Where it is interrupted it may
            leave a checkpoint, the file with the suffix ``.pt``, which goes once the run is kept.
        configs: What a run depends on, by the file of the run; as JSON has it.
        over: The ``map`` of :func:`processes`.
        advance: Told how many runs are there, as they come.
    """
    runs = {path: run for path, config in configs.items() if (run := finished(path, config)) is not None}
    todo = [(path, config) for path, config in configs.items() if path not in runs]
    advance(len(runs))
    for path, _ in todo:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, run in over(partial(_at, make), todo):
        path.with_suffix(".new").write_text(json.dumps(run) + "\n")
        os.replace(path.with_suffix(".new"), path)  # never half a run
        path.with_suffix(".pt").unlink(missing_ok=True)
        runs[path] = run
        advance(1)
    return [runs[path] for path in configs]


def finished(path: Path, config: Run) -> Run | None:
    """Return the run in ``path`` if it is one of this configuration."""
    run: Run = json.loads(path.read_text()) if path.exists() else {}
    return run if config.items() <= run.items() else None


@contextmanager
def processes(jobs: int) -> Iterator[Over]:
    """Yield a ``map`` over so many processes, started when there is something to do; results come as they are ready."""
    with ExitStack() as stack:

        @cache
        def pool() -> Pool:
            # An interrupt is for the parent, which ends the others.
            return stack.enter_context(get_context("spawn").Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)))

        def over(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
            return pool().imap_unordered(function, items) if jobs > 1 and items else map(function, items)

        yield over


def _at(make: Callable[[Run], Run], item: tuple[Path, Run]) -> tuple[Path, Run]:
    path, config = item
    return path, make(config)
