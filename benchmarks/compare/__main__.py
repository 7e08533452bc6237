"""Methods x problems x seeds: tuned alike, on the same batches, with the same scale of the weights.

    python -m benchmarks.compare                                          # every problem and method
    python -m benchmarks.compare --problem helmholtz --methods art rlw    # some of them; equal is always among them
    python -m benchmarks.compare --problem my_module:MyProblem            # your own
    python -m benchmarks.compare --quick                                  # untuned, short: under ten minutes
    python -m benchmarks.compare --help

A method is written as :mod:`benchmarks.methods` has it: ``art``, ``art:temperature=1``, ``art@8``, ``fixed-at:art``,
``upgrad``, ``torchjd.UW``, ``pooled``.

Every finished run is kept in the output folder under a digest of all that it depends on, so the same command goes on
where it was interrupted, more methods or seeds reuse what is there, and a change to a formula or to the data trains
what depends on it anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.machine import at_least, circumstances
from benchmarks.methods import Method, default
from benchmarks.problems import PROBLEMS, Problem, create

from . import report, tuning
from .runs import BACKENDS, Record, complete
from .statistics import REFERENCE
from .training import Run
from .tuning import Tuned

QUICK = {
    "methods": [REFERENCE, "rlw", "uncertainty", "famo", "art", "fixed-at:art"],
    "seeds": [0, 1, 2],
    "tune": "none",
}
QUICK_SHARE = 5  # a fifth of the steps
Records = dict[Run, Record]
Over = Callable[[str, list[Run]], Records]


class Comparison:
    """Compares methods on one problem.

    Args:
        text: The text that names the problem.
        methods: The texts that name the methods, equal weights among them.
        seeds: Of the runs that are reported.
        steps: Of a run.
        tuning_seeds: Of a trial; 0 leaves the methods untuned.
        device: Where the networks are.
    """

    def __init__(
        self, text: str, methods: Sequence[str], seeds: Sequence[int], steps: int, tuning_seeds: int, device: str
    ) -> None:
        self.text, self.seeds, self.steps, self.tuning_seeds, self.device = text, seeds, steps, tuning_seeds, device
        self.problem: Problem = create(text)
        self.parsed = {method: Method.parse(method) for method in methods}
        self.standing = {method for method, of in self.parsed.items() if not of.averaged}
        self.standing |= {of.averaged for of in self.parsed.values() if of.averaged}

    def run(self, over: Over) -> dict[str, Any]:
        """Return the results; ``over`` makes runs, as :func:`~.runs.complete` does with a folder."""
        tuned = self._tuned(over)
        made = {method: self._runs(tuned[method]) for method in sorted(self.standing)}
        alone = [self._run(tuned[REFERENCE], seed, task=task) for task in self._alone() for seed in self.seeds]
        records = over("", [run for of in made.values() for run in of]) | over("alone", alone)
        for method, of in self.parsed.items():
            if of.averaged:
                tuned[method] = replace(tuned[of.averaged], method=method)
                made[method] = [
                    self._run(tuned[method], run.seed, weights=tuple(records[run]["mean_weights"].values()))
                    for run in made[of.averaged]
                    if "error" not in records[run]
                ]
                records |= over("controls", made[method])
        return self._results({method: made[method] for method in self.parsed}, alone, tuned, records)

    def _tuned(self, over: Over) -> dict[str, Tuned]:
        if not self.tuning_seeds:
            return {method: tuning.untuned(method, self.problem) for method in self.standing}
        tried = {
            method: tuning.trials(self.text, method, self.problem, self.tuning_seeds, self.steps, self.device)
            for method in sorted(self.standing)
        }
        records = over("tuning", [run for of in tried.values() for runs in of.values() for run in runs])
        return {method: tuning.best(self.problem, of, records) for method, of in tried.items()}

    def _alone(self) -> list[str]:
        return list(dict.fromkeys(metric.task for metric in self.problem.metrics.values() if metric.task))

    def _runs(self, tuned: Tuned) -> list[Run]:
        return [self._run(tuned, seed) for seed in self.seeds]

    def _run(self, tuned: Tuned, seed: int, **other: Any) -> Run:
        return Run(self.text, tuned.method, seed, self.steps, tuned.learning_rate, self.device, **other)

    def _results(
        self, made: dict[str, list[Run]], alone: list[Run], tuned: dict[str, Tuned], records: dict[Run, Record]
    ) -> dict[str, Any]:
        named = [(method, run, records[run]) for method, of in made.items() for run in of]
        good = [(method, run, record) for method, run, record in named if "error" not in record]
        bad = [(method, run, record) for method, run, record in named if "error" in record]
        bad += [(f"{run.task} alone", run, records[run]) for run in alone if "error" in records[run]]
        return {
            "problem": self.text,
            "description": (type(self.problem).__doc__ or "").split("\n\n")[0].replace("\n    ", " "),
            "metrics": {name: asdict(metric) for name, metric in self.problem.metrics.items()},
            "tasks": [*self.problem.tasks],
            "steps": self.steps,
            "seeds": [*self.seeds],
            "methods": [*dict.fromkeys(method for method, _, _ in good)],
            "tuning": {"trials": tuning.TRIALS, "seeds": self.tuning_seeds} if self.tuning_seeds else None,
            "tuned": {method: tuned[method].record() for method in made},
            "runs": [
                {
                    "problem": self.text,
                    "method": method,
                    "seed": run.seed,
                    "hyperparameters": run.method,
                    "learning_rate": run.learning_rate,
                    "mean_weights": record["mean_weights"],
                    "seconds": record["seconds"],
                    "metrics": record["metrics"],
                }
                for method, run, record in good
            ],
            "alone": [
                {
                    "task": run.task,
                    "seed": run.seed,
                    "learning_rate": run.learning_rate,
                    "metrics": records[run]["metrics"],
                }
                for run in alone
                if "error" not in records[run]
            ],
            "failed": [{"method": name, "seed": run.seed, "error": record["error"]} for name, run, record in bad],
            "curves": {
                method: record["curves"]
                for method, run, record in good
                if method in report.SHOWN and run.seed == self.seeds[0]
            },
        }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = _parse(arguments)
    about = circumstances("benchmarks.compare", arguments)
    about["machine"] |= {"threads a run": 1, "device": given.device}
    console, every = Console(), []
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns, console=console) as progress:
            for comparison in given.comparisons:
                folder = given.output / report.slug(comparison.text)

                def over(kind: str, wanted: list[Run], folder: Path = folder, text: str = comparison.text) -> Records:
                    if not wanted:
                        return {}
                    bar = progress.add_task(f"{text} {kind}".strip(), total=len(dict.fromkeys(wanted)))
                    return complete(wanted, folder / "runs", given.jobs, given.backend, partial(progress.advance, bar))

                results = comparison.run(over) | about
                every.append(results)
                (folder / report.RESULTS).write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
                if REFERENCE in results["methods"]:
                    report.write(results, folder)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the runs in {given.output}/", soft_wrap=True)
        return 130
    for results in every:
        if REFERENCE in results["methods"]:
            console.print(f"\n{results['problem']}\n{report.table(results)}", soft_wrap=True)
    console.print(f"\n{report.write_overall(given.output)}\npages and pictures are in {given.output}/", soft_wrap=True)
    failed = [(results["problem"], of) for results in every for of in results["failed"]]
    for problem, of in failed:
        console.print(f"{problem}: {of['method']}, seed {of['seed']}, failed: {of['error']}", soft_wrap=True)
    return 1 if failed else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    known = f"{', '.join(PROBLEMS)}, or module:Class of your own"
    parser.add_argument("--problem", nargs="+", default=list(PROBLEMS), metavar="PROBLEM", help=known)
    texts = f"{', '.join(default())}, and what benchmarks/methods.py has besides; equal is always among them"
    parser.add_argument("--methods", nargs="+", default=default(), metavar="METHOD", help=texts)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="SEED", help="one run each")
    parser.add_argument("--steps", type=at_least(1), help="of each run (default: the problem's)")
    tune = f"{tuning.TRIALS} trials a method for its learning rate and one hyperparameter, or none"
    parser.add_argument("--tune", choices=["grid", "none"], default="grid", help=tune)
    parser.add_argument("--tuning-seeds", type=at_least(1), default=1, metavar="N", help="runs of a trial (default: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer methods, seeds and steps, unless given as well")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--jobs", type=at_least(1), default=os.cpu_count(), help="runs at once, in a thread each")
    parser.add_argument("--backend", choices=BACKENDS, default="loky", help="processes here, or a cluster's")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder of results, finished runs")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0 or max(given.seeds) >= tuning.FIRST_SEED:
        parser.error(f"--seeds are {given.seeds}; give whole numbers from 0 to {tuning.FIRST_SEED - 1}")
    methods = list(dict.fromkeys([REFERENCE, *given.methods]))
    tuning_seeds = given.tuning_seeds if given.tune == "grid" else 0
    sys.path.insert(0, "")  # a module of one's own may lie in the current folder
    try:
        given.comparisons = []
        for text in dict.fromkeys(given.problem):
            steps = given.steps or max(1, create(text).steps // (QUICK_SHARE if given.quick else 1))
            seeds = list(dict.fromkeys(given.seeds))
            given.comparisons.append(Comparison(text, methods, seeds, steps, tuning_seeds, given.device))
    except ValueError as error:
        parser.error(str(error))
    return given


if __name__ == "__main__":
    sys.exit(main())
