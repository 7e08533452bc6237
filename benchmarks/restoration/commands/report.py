"""The command that turns finished runs into the paper's tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.restoration import report

HELP = "write the paper's tables, claims, curves and pictures from finished, evaluated runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder that holds runs")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where report.md and all else goes")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    text = report.write(given.runs, given.output)
    console = Console()
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report.md, report.json and the pictures are in {given.output}/", soft_wrap=True)
    return 0
