"""Methods x seeds on the demo's problem: the same steps, batches and scale of the weights for all of them.

    python -m benchmarks.compare                                             # every method, 3 seeds, 800 steps
    python -m benchmarks.compare --methods art mean-of:art rlw --seeds 0 1   # some of them
    python -m benchmarks.compare --quick                                     # six methods, a few minutes
    python -m benchmarks.compare --help

``mean-of:NAME`` is a control: fixed weights, the average over the steps of those that NAME had with the same seed. It
tells what a method gains by moving its weights from what it gains by their mean.

Every finished run is kept in the output folder, an interrupted one goes on from its checkpoint, and more methods or
seeds reuse what is there; remove the folder to train anew, as after a change to a weighting.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

import art_optim
from benchmarks.machine import processor

from . import methods, report, runs, statistics
from .timing import step_times
from .training import SETTINGS, Config, Data

QUICK = {
    "methods": ["equal", "rlw", "uncertainty", "famo", "art", "mean-of:art"],
    "steps": 120,
    "levels": 1,
}


def compare(
    names: Sequence[str], configs: Sequence[Config], jobs: int, output: Path, console: Console
) -> dict[str, Any]:
    """Run the methods with each configuration, which is one a seed, and time their steps.

    Return the results; a table and a picture of them are in ``output``.
    """
    config = configs[0]
    data = Data(config)  # before anything else, as it may be refused
    torch.set_num_threads(1)
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=len(configs) * sum(map(len, runs.needed(names))))
        made = runs.compare(names, configs, jobs, output / "runs", partial(progress.advance, bar))
        bar = progress.add_task("timing the steps", total=1)
        weightings = {
            run["method"]: methods.make(run["method"], config.seed, run["weights"])
            for run in made
            if run["config"]["seed"] == config.seed
        }
        times = step_times(weightings, config, data)
        progress.advance(bar)

    scores = statistics.scores(made)
    inputs = statistics.mean(statistics.psnr(statistics.scores([runs.degraded(config) for config in configs]))).iloc[0]
    summary = report.summarize(scores, times)
    records = summary.reset_index().astype(object)
    table = f"{report.table(summary, inputs)}\n\n{report.notes(summary, configs)}\n"
    (output / "table.md").write_text(table)
    report.plot(scores, output / "comparison.png")
    console.print(table, soft_wrap=True)
    return {
        "config": {key: value for key, value in asdict(config).items() if key != "seed"},
        "seeds": [config.seed for config in configs],
        "tasks": config.tasks,
        "training": [photograph.name for photograph in data.training],
        "validation": [photograph.name for photograph in data.validation],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "art_optim": art_optim.__version__,
        },
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "degraded input": inputs.to_dict(),
        "table": records.where(records.notna(), None).to_dict("records"),
        "runs": [
            {
                "method": run["method"],
                "seed": run["config"]["seed"],
                "weighting": run["weighting"],
                "scores": run["scores"],
                "mean_weights": dict(zip(config.tasks, run["mean_weights"], strict=True)),
            }
            for run in made
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    known = f"{', '.join(methods.names())}, or {methods.CONTROL} and one of these; equal is always among them"
    parser.add_argument("--methods", nargs="+", default=methods.default(), metavar="METHOD", help=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED", help="one run each a method")
    parser.add_argument("--steps", type=int, default=800, help="training steps of each run")
    parser.add_argument("--quick", action="store_true", help="fewer methods, steps and images, unless given as well")
    parser.add_argument("--setting", choices=SETTINGS, default="rain-haze-noise", help="which tasks")
    parser.add_argument("--levels", type=int, default=3, help="validation images of each photograph and task")
    parser.add_argument("--photographs", help="a folder of photographs, in place of the packaged ones")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, a process and a thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder of results, finished runs")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    for name in ("steps", "levels", "jobs"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; give a whole number, at least 1")
    if min(given.seeds) < 0:
        parser.error(f"--seeds has {min(given.seeds)}; give whole numbers, at least 0")
    names = list(dict.fromkeys([statistics.REFERENCE, *given.methods]))
    try:
        methods.check(names)
    except ValueError as error:
        parser.error(f"--methods: {error}")

    configs = [
        Config(given.setting, given.steps, seed, given.device, given.photographs, levels=given.levels)
        for seed in dict.fromkeys(given.seeds)
    ]
    console = Console()
    try:
        results = compare(names, configs, given.jobs, given.output, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the runs in {given.output}/", soft_wrap=True)
        return 130
    results = {"command": shlex.join(["python", "-m", "benchmarks.compare", *arguments]), **results}
    (given.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"results.json, table.md and comparison.png are in {given.output}/", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
