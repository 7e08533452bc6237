"""Where the microseconds of ``optimizer.step(losses)`` go: phase by phase, and the formula line by line.

    python -m benchmarks.overhead.profile                                    # art, the MLP, 7 named losses
    python -m benchmarks.overhead.profile --method famo --input mixed --tasks 200
    python -m benchmarks.overhead.profile --help

A phase is the difference between two steps, one of which stops before it; all of them take turns in the same rounds.
The lines are timed by a trace function, which adds to each: what they sum to is printed beside the time without it. On
an accelerator they are the time of the host, which goes on before the device has finished.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from art_optim import TaskReweightedOptimizer
from art_optim.weighting import Weighting, available

from .inputs import INPUTS, Input
from .measuring import Combination
from .methods import AGGREGATOR, weighting
from .problems import PROBLEMS
from .timing import Step, rounds
from .training import inner

PHASES = ("forward", "gather", "weigh", "backward", "inner step")


def prefixes(optimizer: TaskReweightedOptimizer, given: Input) -> dict[str, Step]:
    """Return steps by the phase that they stop after; the last is a whole one."""
    state = optimizer.task_state

    def after_zero_grad(step: Step) -> Step:
        return lambda: (optimizer.zero_grad(), step())

    steps: tuple[Step, ...] = (
        given.losses,
        lambda: state.gather(given.losses()),
        lambda: state.weigh(state.gather(given.losses())),
        lambda: optimizer.backward(given.losses()),
        lambda: optimizer.step(given.losses()),
    )
    return {phase: after_zero_grad(step) for phase, step in zip(PHASES, steps, strict=True)}


def phases(times: pd.DataFrame) -> pd.DataFrame:
    """Return the quartiles of the microseconds of each phase, from those of the steps that stop after them."""
    differences = 1e6 * times.diff(axis=1).fillna({times.columns[0]: times[times.columns[0]]})
    return differences.quantile([0.25, 0.5, 0.75]).T


class LineTimer:
    """A trace function that sums the seconds of each line of one function, with all that the line calls."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.seconds: Counter[int] = Counter()
        self._line: int | None = None
        self._since = 0.0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace the lines of the function and of no other."""
        return self._trace if frame.f_code is self.code else None

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        now = time.perf_counter()
        if self._line is not None:
            self.seconds[self._line] += now - self._since
        self._line = None if event == "return" else frame.f_lineno
        self._since = time.perf_counter()
        return self._trace


def formula(made: Weighting) -> Any:
    """The function with the formula: ``weigh``, or of a method that looks at gradients ``objective``."""
    return inspect.unwrap(getattr(type(made), "objective" if "objective" in vars(type(made)) else "weigh"))


def lines(optimizer: TaskReweightedOptimizer, given: Input, repeats: int) -> dict[str, float]:
    """Return the mean microseconds of each line of the formula, by its text, in the order of the file."""
    function, state = formula(optimizer.weighting), optimizer.task_state
    text, first = inspect.getsourcelines(function)
    timer, before = LineTimer(function.__code__), sys.gettrace()
    for _ in range(repeats):
        losses = state.gather(given.losses())
        sys.settrace(timer)
        try:
            state.weigh(losses)
        finally:
            sys.settrace(before)
    seconds = sorted(timer.seconds.items())
    return {f"{number}: {text[number - first].strip()}": 1e6 * total / repeats for number, total in seconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", choices=[*available(), AGGREGATOR], default="art")
    parser.add_argument("--problem", choices=[name for name in PROBLEMS if name != "weighing"], default="mlp")
    parser.add_argument("--input", choices=INPUTS, default="named")
    parser.add_argument("--tasks", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)

    given = Combination(asked.problem, asked.input, asked.tasks).given(asked.device)
    made = weighting(asked.method, given.problem)
    optimizer = TaskReweightedOptimizer(inner(given.problem.network), given.problem.tasks, made)
    quartiles = phases(rounds(prefixes(optimizer, given), asked.device, asked.rounds, seconds=0))
    of_lines = lines(optimizer, given, asked.rounds)

    table = Table("phase", "µs, median (quartiles)", "share", title=f"a step of {asked.method}, {asked.tasks} tasks")
    total = quartiles[0.5].sum()
    for phase, (low, median, high) in quartiles.iterrows():
        table.add_row(phase, f"{median:.1f} ({low:.1f}-{high:.1f})", f"{median / total:.1%}")
    Console().print(table)
    table = Table(
        "line",
        "µs, mean",
        title=f"{formula(made).__qualname__}, {sum(of_lines.values()):.1f} µs under the trace function; "
        f"weighing takes {quartiles.loc['weigh', 0.5]:.1f} µs without",
    )
    for line, microseconds in of_lines.items():
        table.add_row(line, f"{microseconds:.1f}")
    Console(markup=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
