"""What the wrapper costs a step: every weighting beside the plain loop, in rounds in which all take turns.

python -m benchmarks.overhead                                    # everything
python -m benchmarks.overhead --quick                            # two problems, 7 and 40 tasks: under a minute
python -m benchmarks.overhead --problems mlp --methods art --compile
python -m benchmarks.overhead --problems helmholtz vae                    # of benchmarks.problems, by name
python -m benchmarks.overhead --device cuda
python -m benchmarks.overhead.profile                            # where the microseconds of one step go
python -m benchmarks.overhead --help
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product, starmap
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.machine import at_least, circumstances, save

from . import methods, report
from .inputs import INPUTS, OWN
from .measuring import Combination, measure
from .problems import PROBLEMS, created

QUICK = {"problems": ["weighing", "mlp"], "tasks": [7, 40], "seconds": 1.0, "rounds": 3}


def sweep(
    combinations: Sequence[Combination], names: Sequence[str], given: argparse.Namespace, console: Console
) -> tuple[list[dict[str, Any]], dict[Combination, dict[str, str]]]:
    """Measure the combinations, until interrupted; return a record for each and method, and why others are left out."""
    records: list[dict[str, Any]] = []
    skipped: dict[Combination, dict[str, str]] = {}
    try:
        for of in track(combinations, "measuring", console=console):
            why = of.skipped()
            measured, skipped[of] = (
                ([], {of.problem: why}) if why else measure(of, names, given.device, given.rounds, given.seconds)
            )
            records += measured
    except KeyboardInterrupt:
        console.print("interrupted: the results are of what was finished")
    return records, skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parse(arguments)
    torch.set_num_threads(given.threads)
    console = Console()
    note = why_not(given.device) if given.compile else None
    if note:
        console.print(f"nothing is compiled: {note}", soft_wrap=True, markup=False)
    names = given.methods
    if given.compile and not note:
        names = [*names, *(f"{methods.COMPILED}{name}" for name in methods.compilable() if name in names)]
    records, skipped = sweep(given.combinations, names, given, console)
    if not records:
        return 130

    results = {
        **circumstances("benchmarks.overhead", arguments),
        "rounds": {"least": given.rounds, "seconds": given.seconds},
        "not compiled": note,
        "skipped": [
            {**vars(of), "what": what, "why": why} for of, all_ in skipped.items() for what, why in all_.items()
        ],
        "results": records,
    }
    device = torch.cuda.get_device_name() if torch.device(given.device).type == "cuda" else given.device
    results["machine"] |= {"threads": torch.get_num_threads(), "device": device}
    where = "{processor}, {threads} thread(s), {device}".format(**results["machine"])
    summary = f"{report.ratios(records)}\n\n{report.notes(where, report.grouped(skipped))}\n"
    save(given.output, results, f"{summary}\n{report.details(records)}")
    report.plot(records, given.output / "overhead.png")
    console.print(summary, soft_wrap=True, markup=False)
    console.print(f"results.json, table.md and overhead.png are in {given.output}/", soft_wrap=True)
    return 0


def why_not(device: str) -> str | None:
    """Compile something small; return why that does not work, or None where it does."""
    try:
        torch.compile(lambda x: (x + 1).log())(torch.ones(3, device=device))
    except Exception as error:  # of the compiler, whatever it is
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def combinations(problems: Sequence[str], inputs: Sequence[str], tasks: Sequence[int]) -> list[Combination]:
    """Return what is measured; a problem of :mod:`benchmarks.problems` has its own losses and number of tasks."""
    ours = product([problem for problem in problems if problem in PROBLEMS], inputs, tasks)
    others = [problem for problem in problems if problem not in PROBLEMS]
    return [*starmap(Combination, ours), *(Combination(text, OWN, len(created(text).tasks)) for text in others)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names, problems = methods.names(), f"{', '.join(PROBLEMS)}, or of benchmarks.problems by name (default: the former)"
    beside = f"beside the plain loop (default: all): {', '.join(names[2:])}"
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="METHOD", help=beside)
    parser.add_argument("--problems", nargs="+", default=[*PROBLEMS], metavar="PROBLEM", help=problems)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=[*INPUTS])
    parser.add_argument("--tasks", nargs="+", type=at_least(1), default=[2, 7, 40, 200, 1000], help="how many")
    parser.add_argument("--seconds", type=float, default=30.0, help="of rounds, for each combination of the above")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="at least, however long they take")
    parser.add_argument("--quick", action="store_true", help="less of it, unless given as well")
    parser.add_argument("--compile", action="store_true", help="the weighing compiled as well")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of the CPU")
    parser.add_argument("--output", type=Path, default=Path("runs/overhead"), help="folder of the results")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    given = parser.parse_args(arguments)
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device is {given.device}; this machine has no CUDA device")
    try:
        given.combinations = combinations(given.problems, given.inputs, given.tasks)
    except ValueError as error:
        parser.error(f"--problems: {error}")
    return given


if __name__ == "__main__":
    sys.exit(main())
