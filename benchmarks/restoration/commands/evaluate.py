"""Score the networks of runs on the test set of their setting."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .. import layouts, runs
from ..evaluation import column, evaluate
from ..metrics import METRICS
from ..restoring import PRECISIONS, check_tiling, precision

HELP = "score the networks of runs on a test set, image by image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="the runs' folders")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the setting's folder; that of the training")
    parser.add_argument("--split", choices=layouts.SPLITS, default="test", help="which of its pictures (test)")
    parser.add_argument(
        "--metrics", nargs="+", choices=METRICS, default=["psnr", "ssim"], metavar="NAME", help=", ".join(METRICS)
    )
    parser.add_argument("--pictures", type=int, default=2, metavar="N", help="images of a task to write (2)")
    parser.add_argument("--tile", type=int, default=2048, metavar="N", help="side of the tiles of larger images (2048)")
    parser.add_argument("--overlap", type=int, default=64, metavar="N", help="pixels that tiles share (64)")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network's arithmetic")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    check_tiling(given.tile, given.overlap, 1)
    loaded = [runs.load(folder, given.device) for folder in given.run_folders]
    sets = [_test_set(one, given) for one in loaded]
    pairs = {of: layouts.read(of[0], of[1], given.split) for of in dict.fromkeys(sets)}
    scores: dict[tuple[str, Path], dict[str, dict[str, Any]]] = {of: {} for of in pairs}
    status = 0
    try:
        for one, of in zip(loaded, sets, strict=True):
            try:
                scores[of][str(one.folder)] = _evaluate(one, pairs[of], given)
            except (ValueError, torch.OutOfMemoryError) as error:
                memory = isinstance(error, torch.OutOfMemoryError)
                print(f"evaluate: {one.folder}: {'give a smaller --tile: ' * memory}{error}", file=sys.stderr)
                status = 1
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same command goes on", file=sys.stderr)
        status = 130
    for (setting, folder), of_runs in scores.items():
        if of_runs:
            Console().print(table(of_runs, given.metrics, f"{setting}, {folder}, {given.split}"))
    return status


def table(scores: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], title: str) -> Table:
    """Lay out scores of runs on one test set: a row a task and their average; a column for the input and each run."""
    layout = Table(title=title, caption=_caption(scores, metrics), caption_justify="left")
    first = next(iter(scores.values()))
    columns = {"input": (first, "input"), **{name: (of, "restored") for name, of in scores.items()}}
    layout.add_column("task")
    for name in columns:
        layout.add_column(name, justify="right", overflow="fold")
    for task in first["input"]:
        layout.add_row(task, *(_cell(of[side][task], metrics) for of, side in columns.values()))
    layout.add_section()
    layout.add_row("average", *(_cell(of["average"][side], metrics) for of, side in columns.values()))
    return layout


def _test_set(of: runs.Run, given: argparse.Namespace) -> tuple[str, Path]:
    return of.config["setting"], given.data or Path(of.config["data"]["folder"])


def _evaluate(of: runs.Run, pairs: layouts.Pairs, given: argparse.Namespace) -> dict[str, Any]:
    checkpoint = hashlib.sha256((of.folder / runs.CHECKPOINT).read_bytes()).hexdigest()
    options = {name: getattr(given, name) for name in ("split", "tile", "overlap", "precision")}
    console = Console(stderr=True)
    with Progress(console=console) as bar, precision(given.precision, of.device):
        task = bar.add_task(of.folder.name, total=len(pairs))
        return evaluate(
            of.network(),
            pairs,
            of.folder,
            identity={"checkpoint": checkpoint, "data": str(pairs.folder), **options},
            metrics=given.metrics,
            pictures=given.pictures,
            tile=given.tile,
            overlap=given.overlap,
            progress=lambda done, total: bar.update(task, completed=done),
        )


def _cell(score: Mapping[str, Any], metrics: Sequence[str]) -> str:
    values = ((score[column(name)], METRICS[name].digits) for name in metrics)
    return " / ".join("-" if value is None else f"{value:.{digits}f}" for value, digits in values)


def _caption(scores: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    lines = [f"{name}: {METRICS[name].meaning}" for name in metrics]
    for name, of in scores.items():
        for task, score in of["restored"].items():
            lines += [f"{name}: {n} images of {task} with infinite {m}, left out" for m, n in score["infinite"].items()]
    return "\n".join(lines)
