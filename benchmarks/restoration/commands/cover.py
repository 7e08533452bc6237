"""Try every network in every setting, by both schedules, with and without Art."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from .. import covering
from ..pairwise import every, pairwise

HELP = "train, kill, resume, evaluate and restore with all networks in all settings, at tiny scale"

TABLE = "table.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    which = parser.add_mutually_exclusive_group()
    text = "combinations that hold every pair of network, setting, schedule and weighting (default)"
    which.add_argument("--pairwise", action="store_true", help=text)
    which.add_argument("--all", action="store_true", help="all combinations")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="length of the runs (20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of data, networks and kills (0)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes to work with (2)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder; goes on if begun")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    combinations = (every if given.all else pairwise)(covering.FACTORS)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeElapsedColumn())
    began = time.perf_counter()
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("combinations", total=len(combinations))
            results = covering.cover(
                combinations,
                given.output,
                steps=given.steps,
                seed=given.seed,
                jobs=given.jobs,
                progress=lambda done: progress.update(bar, completed=done),
            )
        of_report = covering.report(results, given.output)
    except KeyboardInterrupt:
        print(f"cover: interrupted; the same command goes on from {given.output}", file=sys.stderr)
        return 130
    cells = summary(results)
    (given.output / TABLE).write_text(f"{cells.to_markdown()}\n")
    Console().print(table(cells))
    failures = [f"{name}: {result['failure']}" for name, result in results.items() if result["failure"]]
    if of_report:
        failures.append(f"report: {of_report}")
    for failure in failures:
        print(f"cover: {failure}", file=sys.stderr)
    if not failures:
        print(f"all {len(results)} combinations passed, in {time.perf_counter() - began:.0f} s: {given.output}")
    return 1 if failures else 0


def summary(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Count the combinations that passed, a row a network and a column a setting; and the seconds that one took."""
    frame = pd.DataFrame(results.values())
    frame["passed"] = frame["failure"].isna()
    by_cell = frame.groupby(["model", "setting"])["passed"]
    cells = (by_cell.sum().astype(str) + " of " + by_cell.count().astype(str)).unstack()
    cells["seconds each"] = frame.groupby("model")["seconds"].mean().map("{:.1f}".format)
    return cells.rename_axis(index="passed", columns=None)


def table(cells: pd.DataFrame) -> Table:
    """Lay out what :func:`summary` returns, for a terminal."""
    laid_out = Table()
    laid_out.add_column("passed", no_wrap=True)
    for column in cells:
        laid_out.add_column(str(column), justify="right", overflow="fold")
    for model, row in cells.iterrows():
        laid_out.add_row(str(model), *row)
    return laid_out
