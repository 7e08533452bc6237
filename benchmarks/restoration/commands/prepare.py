"""``prepare``: photographs in, the folder of a setting out."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from benchmarks.restoration import layouts, preparing

HELP = "degrade photographs and write them as the folder of a setting"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--setting", required=True, choices=layouts.SETTINGS, help="which layout to write")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write, new or interrupted")
    parser.add_argument(
        "--photographs", default=preparing.PACKAGED, metavar="DIR", help="folder of photographs (default: packaged)"
    )
    parser.add_argument(
        "--test-photographs",
        metavar="DIR",
        help="photographs to test on, or 'packaged' (default: every fourth of --photographs, which is not trained on)",
    )
    parser.add_argument("--size", type=int, default=300, help="side of the sub-images for training (default: 300)")
    parser.add_argument("--levels", type=int, default=1, help="times a photograph is degraded by a task (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the levels and degradations (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes to work with (default: 2)")


def run(given: argparse.Namespace) -> int:
    """Write the folder; return the exit status."""
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("pictures", total=None)
            facts = preparing.prepare(
                given.setting,
                given.output,
                given.photographs,
                given.test_photographs,
                size=given.size,
                levels=given.levels,
                seed=given.seed,
                jobs=given.jobs,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {given.output}", file=sys.stderr)
        return 130
    for split in layouts.SPLITS:
        pictures = [picture for picture in facts["pictures"] if picture["split"] == split]
        files = sum(len(picture["files"]) for picture in pictures)
        print(f"{split}: {len(facts['photographs'][split])} photographs, {files} pictures in {given.output}")
    return 0
