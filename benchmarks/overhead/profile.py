"""Where the microseconds of ``optimizer.step(losses)`` go: phase by phase, and the formula line by line.

    python -m benchmarks.overhead.profile                                    # art, the MLP, 7 named losses
    python -m benchmarks.overhead.profile --method famo --input mixed --tasks 200
    python -m benchmarks.overhead.profile --help

The plain loop and the wrapper take turns, some steps each, and a clock is read before and after each phase. So the code
of the wrapper is as cold as in training, where a forward pass, a backward pass and an optimizer have been in the caches
since it last ran: in a loop of its own it takes half the time. The lines are timed by a trace function, which adds to
each: what they sum to is printed beside the time without it. On an accelerator all is the time of the host, which goes
on before the device has finished; between two steps it waits.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from rich.progress import track

from art_optim import GradientWeighting, TaskReweightedOptimizer
from art_optim.weighting import Weighting, available
from benchmarks.timing import finish

from .inputs import INPUTS, Input
from .measuring import Combination
from .methods import AGGREGATOR, COMPILED, REFERENCE
from .problems import PROBLEMS
from .steps import inner, wrapper

WITHIN = ("forward", "gather", "weigh", "backward pass", "inner step")
REST = "the rest of step"
STEPS = 10  # of a side in a round
PHASES = ("zero_grad", *WITHIN, REST)


class Clock:
    """Sums the seconds of each phase of a step, by what is called in it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def timing(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[phase] += time.perf_counter() - began

        return timed

    @contextmanager
    def watching(self, plain: torch.optim.Optimizer, wrapped: TaskReweightedOptimizer) -> Iterator[None]:
        """Time what is called by the steps of the two sides."""
        calls = [
            ("gather", wrapped.task_state, "gather"),
            ("weigh", wrapped.task_state, "weigh"),
            ("backward pass", torch.autograd, "backward"),
            ("inner step", wrapped.inner, "step"),
            ("inner step", plain, "step"),
        ]
        with ExitStack() as patches:
            for phase, owner, name in calls:
                patches.enter_context(patch.object(owner, name, self.timing(phase, getattr(owner, name))))
            yield

    def read(self) -> dict[str, float]:
        """Return the microseconds of the phases, and start afresh; what holds the others is what is left of it."""
        seconds = dict.fromkeys(PHASES, 0.0) | self.seconds
        seconds[REST] -= sum(seconds[phase] for phase in WITHIN)
        self.seconds.clear()
        return {phase: 1e6 * of_phase for phase, of_phase in seconds.items()}


def phases(
    plain: torch.optim.Optimizer, wrapped: TaskReweightedOptimizer, given: Sequence[Input], device: str, rounds: int
) -> pd.DataFrame:
    """Return the microseconds by side and phase, a row a step; in a round, the sides take some steps each."""
    clock = Clock()

    def plain_step() -> None:
        plain_sum().backward()
        plain.step()

    plain_sum = clock.timing("forward", given[0].plain)
    losses = clock.timing("forward", given[1].losses)
    steps = {REFERENCE: plain_step, "wrapped": lambda: wrapped.step(losses())}
    readings: dict[str, list[dict[str, float]]] = {side: [] for side in steps}
    with clock.watching(plain, wrapped):
        for _ in track(range(rounds), "rounds", transient=True):
            for (side, step), optimizer in zip(steps.items(), (plain, wrapped), strict=True):
                for _ in range(1 + STEPS):
                    finish(device)
                    clock.timing("zero_grad", optimizer.zero_grad)()
                    clock.timing(REST, step)()
                    readings[side].append(clock.read())
                del readings[side][-1 - STEPS]  # which followed a step of the other side
    return pd.concat({side: pd.DataFrame(rows) for side, rows in readings.items()}, axis=1)


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
    return inspect.unwrap(getattr(type(made), "objective" if isinstance(made, GradientWeighting) else "weigh"))


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
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="the weighing compiled, without its lines")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)

    sides = [Combination(asked.problem, asked.input, asked.tasks).given(asked.device) for _ in range(2)]
    plain, given = inner(sides[0].problem.network), sides[1]
    wrapped = wrapper(f"{COMPILED if asked.compile else ''}{asked.method}", given.problem)
    of_phases = phases(plain, wrapped, sides, asked.device, asked.rounds)
    print(f"a step of {asked.method}, {asked.tasks} tasks: µs, medians (quartiles)\n\n{table(of_phases)}")
    if not asked.compile:
        of_lines = pd.Series(lines(wrapped, given, STEPS * asked.rounds), name="µs, mean")
        print(
            f"\n{formula(wrapped.weighting).__qualname__}, {of_lines.sum():.1f} µs under the trace function; "
            f"weighing takes {of_phases['wrapped', 'weigh'].median():.1f} µs without\n\n"
            f"{of_lines.to_markdown(floatfmt='.1f')}"
        )
    return 0


def table(of_phases: pd.DataFrame) -> str:
    """Lay out the phases of the two sides."""
    frames = {side: of_phases[side].assign(all=of_phases[side].sum(axis=1)) for side in (REFERENCE, "wrapped")}
    cells = {side: frame.quantile([0.25, 0.5, 0.75]).agg(_quartiles) for side, frame in frames.items()}
    difference = frames["wrapped"].median() - frames[REFERENCE].median()
    return pd.DataFrame({**cells, "difference": difference.map("{:+.1f}".format)}).to_markdown(disable_numparse=True)


def _quartiles(of: pd.Series) -> str:
    return "{1:.1f} ({0:.1f}-{2:.1f})".format(*of)


if __name__ == "__main__":
    sys.exit(main())
