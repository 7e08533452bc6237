"""What the wrapper costs a step: every weighting beside the plain loop, in rounds in which all take turns.

python -m benchmarks.overhead                                    # everything
python -m benchmarks.overhead --quick                            # two problems, 7 and 40 tasks: under a minute
python -m benchmarks.overhead --problems mlp --methods art --compile
python -m benchmarks.overhead --device cuda
python -m benchmarks.overhead.profile                            # where the microseconds of one step go
python -m benchmarks.overhead --help
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

import art_optim
from benchmarks.machine import processor

from . import methods, report
from .compiling import COMPILED, why_not
from .inputs import INPUTS
from .measuring import Combination, measure
from .problems import PROBLEMS

QUICK = {"problems": ["weighing", "mlp"], "tasks": [7, 40], "seconds": 1.0, "rounds": 3}


def sweep(
    combinations: Sequence[Combination], names: Sequence[str], given: argparse.Namespace, console: Console
) -> tuple[list[dict[str, Any]], dict[Combination, dict[str, str]]]:
    """Measure the combinations, until interrupted; return a record for each and method, and why others are left out."""
    records: list[dict[str, Any]] = []
    skipped: dict[Combination, dict[str, str]] = {}
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(combinations))
        try:
            for of in combinations:
                progress.update(bar, description=f"{of.problem}, {of.input}, {of.tasks} tasks")
                why = of.skipped()
                if why is not None:
                    skipped[of] = {of.problem: why}
                else:
                    measured, skipped[of] = measure(of, names, given.device, given.rounds, given.seconds)
                    records += measured
                progress.advance(bar)
        except KeyboardInterrupt:
            console.print("interrupted: the results are of what was finished")
    return records, skipped


def machine(given: argparse.Namespace) -> dict[str, Any]:
    """Where it is measured."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.device(given.device).type == "cuda" else given.device,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parse(arguments)
    torch.set_num_threads(given.threads)
    console = Console()
    note = why_not(given.device) if given.compile else None
    if note:
        console.print(f"nothing is compiled: {note}", soft_wrap=True, markup=False)
    names = given.methods or methods.names()
    if given.compile and not note:
        names = [*names, *(f"{COMPILED}{name}" for name in methods.compilable() if name in names)]
    combinations = [Combination(*axes) for axes in product(given.problems, given.inputs, given.tasks)]
    records, skipped = sweep(combinations, names, given, console)
    if not records:
        return 130

    results = {
        "command": shlex.join(["python", "-m", "benchmarks.overhead", *arguments]),
        "machine": machine(given),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchjd": version("torchjd"),
            "art_optim": art_optim.__version__,
        },
        "rounds": {"least": given.rounds, "seconds": given.seconds},
        "not compiled": note,
        "skipped": [
            {**vars(of), "what": what, "why": why} for of, all_ in skipped.items() for what, why in all_.items()
        ],
        "results": records,
    }
    where = "{processor}, {threads} thread(s), {device}".format(**results["machine"])
    ratios, notes = report.ratios(records), report.notes(where, report.grouped(skipped))
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.output / "table.md").write_text(f"{ratios}\n\n{notes}\n\n{report.details(records)}\n")
    report.plot(records, given.output / "overhead.png")
    console.print(f"{ratios}\n\n{notes}\n", soft_wrap=True, markup=False)
    console.print(f"results.json, table.md and overhead.png are in {given.output}/", soft_wrap=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", nargs="+", help="which beside the plain loop (default: all)", metavar="METHOD")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=[*INPUTS])
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 7, 40, 200, 1000], help="how many")
    parser.add_argument("--seconds", type=float, default=30.0, help="of rounds, for each combination of the above")
    parser.add_argument("--rounds", type=int, default=5, help="at least, however long they take")
    parser.add_argument("--quick", action="store_true", help="less of it, unless given as well")
    parser.add_argument("--compile", action="store_true", help="the weighing compiled as well")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--output", type=Path, default=Path("runs/overhead"), help="folder of the results")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    for name in ("rounds", "threads"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; give a whole number, at least 1")
    if min(given.tasks) < 1:
        parser.error(f"--tasks has {min(given.tasks)}; give whole numbers, at least 1")
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device is {given.device}; this machine has no CUDA device")
    unknown = [name for name in given.methods or () if name not in methods.names()]
    if unknown:
        parser.error(f"--methods has {unknown[0]!r}; choose from {', '.join(methods.names())}")
    return given


if __name__ == "__main__":
    sys.exit(main())
