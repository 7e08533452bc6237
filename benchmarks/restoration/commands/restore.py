"""Restore pictures with the network of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from .. import runs
from ..restoring import PRECISIONS, check_tiling, plan, precision, restore_file

HELP = "restore a picture or a folder of pictures with the network of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("input", type=Path, metavar="INPUT", help="a picture, or a folder; its subfolders are searched")
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT", help="a folder; for one picture, a .png or .tif file, too"
    )
    parser.add_argument(
        "--tile",
        type=int,
        default=512,
        metavar="N",
        help="side of the tiles of larger pictures, each of which the network sees alone (512)",
    )
    parser.add_argument("--overlap", type=int, default=32, metavar="N", help="pixels that tiles share (32)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="tiles at once (1)")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network's arithmetic")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    check_tiling(given.tile, given.overlap, given.batch)
    files = plan(given.input, given.output)
    network = runs.load(given.run_folder, given.device).network()
    failures = []
    tiling = {name: getattr(given, name) for name in ("tile", "overlap", "batch")}
    try:
        with Progress(console=Console(stderr=True)) as bar, precision(given.precision, torch.device(given.device)):
            task = bar.add_task("restoring", total=len(files))
            for index, (source, target) in enumerate(files):

                def report(done: int, total: int, index: int = index) -> None:
                    bar.update(task, completed=index + done / total)

                try:
                    restore_file(network, source, target, **tiling, progress=report)
                except (OSError, ValueError) as error:
                    failures.append(str(error) if str(source) in str(error) else f"{source}: {error}")
                except torch.OutOfMemoryError:
                    failures.append(f"{source}: not enough memory on {given.device}; give a smaller --tile or --batch")
                bar.update(task, completed=index + 1)
    except KeyboardInterrupt:
        print(f"restore: interrupted; the pictures before {source} are restored", file=sys.stderr)
        return 130
    print(f"restored {len(files) - len(failures)} of {len(files)} pictures: {given.output}")
    for failure in failures:
        print(f"restore: {failure}", file=sys.stderr)
    return 1 if failures else 0
