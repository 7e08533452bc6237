"""Train and evaluate methods x networks x seeds, and report what came out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from .. import models, report
from ..studying import study

HELP = "train and evaluate methods x networks x seeds, and report them"
METHODS = ["equal", "art", "art@8", "fixed-at:art", "rlw", "uncertainty"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.epilog = "What follows -- is for the command train, e.g. -- --setting multiple --data DIR --steps 2000"
    parser.add_argument("--models", nargs="+", choices=models.available(), default=["srresnet"], metavar="NAME")
    methods = "NAME, NAME@N to weigh once in N steps, fixed-at:NAME for that run's average weights"
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME", help=methods)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time, each with one thread")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the runs' folders; goes on if begun")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="options of the command train")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    console = Console()
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    total = len(given.models) * len(given.methods) * len(given.seeds)
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("runs", total=total)
            folders = study(
                given.models,
                given.methods,
                given.seeds,
                given.output,
                given.options,
                given.jobs,
                lambda folder: progress.update(bar, advance=1, description=folder.name),
            )
    except RuntimeError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from {given.output}", soft_wrap=True)
        return 130
    report.write(folders, given.output / "report")
    console.print(f"report.md, report.json and the pictures are in {given.output}/report/", soft_wrap=True)
    return 0
