"""Measure whether the loader keeps up with a network."""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import processor

from .. import layouts, models, recipes
from ..throughput import Rate, measure
from ..training import Config

HELP = "images a second of the loader, of a network in training, and of both"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--setting", choices=layouts.SETTINGS, required=True, help="the tasks, and their folders")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the setting's folder, as prepared")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of throughput.json and .md")
    parser.add_argument("--model", choices=models.available(), default="srresnet", help="the network (srresnet)")
    parser.add_argument("--scale", nargs="+", choices=models.SCALES, default=["paper"], help="of the network (paper)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="samples a step (16)")
    parser.add_argument("--patch", nargs="+", type=int, default=[128], metavar="N", help="side of the patches (128)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], metavar="N", help="that load images (0 2)")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns that each takes (5)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of a turn, at least a step (2)")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    load = os.getloadavg()
    records: list[dict[str, Any]] = []
    lines: list[dict[str, str]] = []
    cases = list(product(given.scale, given.patch))
    try:
        pairs = layouts.read(given.setting, given.data)
        with Progress(console=Console(stderr=True)) as bar:
            for scale, patch in bar.track(cases, description=given.model):
                recipe = recipes.default(given.model, "mixed")
                config = Config(given.setting, given.model, recipe, recipe.steps, given.batch, patch, scale=scale)
                rates = measure(config, pairs, given.workers, torch.device(given.device), given.rounds, given.seconds)
                for number in given.workers:
                    of = {"network": rates["network"]}
                    of |= {name: rates[f"{name}, {number}"] for name in ("loader", "both")}
                    found = {name: rate.record() for name, rate in of.items()}
                    records.append({"scale": scale, "patch": patch, "workers": number, **found})
                    lines.append(_line(given.model, scale, patch, number, of))
    except KeyboardInterrupt:
        print("throughput: interrupted; nothing was written", file=sys.stderr)
        return 130
    options = {key: value for key, value in vars(given).items() if key not in ("run", "data", "output")}
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load before": load,
        "device": torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device,
        "torch": torch.__version__,
    }
    given.output.mkdir(parents=True, exist_ok=True)
    results = {"options": options, "machine": machine, "images a second": records}
    (given.output / "throughput.json").write_text(json.dumps(results, indent=2) + "\n")
    text = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
    (given.output / "throughput.md").write_text(f"{text}\n")
    Console().print(_table(lines))
    return 0


def _line(model: str, scale: str, patch: int, workers: int, of: dict[str, Rate]) -> dict[str, str]:
    medians = {name: rate.quartiles()[1] for name, rate in of.items()}
    return {
        "network": f"{model} {scale}",
        "patch": str(patch),
        "workers": str(workers),
        "loader alone": of["loader"].text(),
        "network alone": of["network"].text(),
        "both": of["both"].text(),
        "loader / network": f"{medians['loader'] / medians['network']:.2f}",
        "both / network": f"{medians['both'] / medians['network']:.2f}",
    }


def _table(lines: list[dict[str, str]]) -> Table:
    table = Table(title="images a second: median (quartiles)")
    for name in lines[0]:
        table.add_column(name, justify="left" if name == "network" else "right")
    for line in lines:
        table.add_row(*line.values())
    return table
