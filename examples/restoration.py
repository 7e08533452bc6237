"""One network restores photographs from many degradations: equal weighting against Art, from the same seed.

    python -m examples.restoration                      # rain, haze, noise
    python -m examples.restoration --setting multiple   # the seven degradations
    python -m examples.restoration --help

Each batch mixes patches of all tasks; ``per_task_mean`` sorts their losses, and the optimizer weighs them. A run that
was interrupted goes on from its last checkpoint when the same command is given again, to the same result.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from art_optim.weighting import available, create
from benchmarks.compare import training
from benchmarks.compare.data import ValidationImage
from benchmarks.compare.training import Config, Data
from benchmarks.restoration import report
from benchmarks.restoration.degradations import SETTINGS
from benchmarks.restoration.metrics import psnr

INPUT = "degraded input"


def status(tasks: tuple[str, ...], history: list[Tensor]) -> str:
    """The losses and weights of the last steps, for the progress bar."""
    losses, weights = torch.stack(history[-training.SAVE_EVERY :]).nanmean(0).tolist()
    return "  ".join(f"{t} {loss:.3f} x{weight:.2f}" for t, loss, weight in zip(tasks, losses, weights, strict=True))


def compare(config: Config, weightings: list[str], output: Path, console: Console) -> dict[str, Any]:
    """Train a network with each weighting, and write ``results.json``, ``table.md`` and two pictures to ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    data = Data(config)
    images = data.images

    outputs = {INPUT: [image.degraded for image in images]}
    histories, runs = {}, {}
    columns = (
        "{task.description}",
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=Column(min_width=len(f"{config.steps}/{config.steps}"))),
        TimeRemainingColumn(table_column=Column(min_width=7)),
        TextColumn("{task.fields[status]}", table_column=Column(no_wrap=False)),
    )
    with Progress(*columns, console=console) as progress:
        bars = {name: progress.add_task(name, total=config.steps, status="", start=False) for name in weightings}
        for name, bar in bars.items():

            def watch(history: list[Tensor], bar: Any = bar) -> None:
                if len(history) % 10 == 0 or len(history) == config.steps:
                    progress.update(bar, completed=len(history), status=status(config.tasks, history))

            progress.start_task(bar)
            weighting = create(name, normalize="mean")
            checkpoint = training.train(weighting, config, data.patches, output / f"{name}.pt", watch)
            watch(list(checkpoint["history"]))
            outputs[name] = training.restore(checkpoint, images, config.device)
            histories[name] = checkpoint["history"].cpu()
            weights = dict(zip(config.tasks, histories[name][:, 1].mean(0).tolist(), strict=True))
            runs[name] = {"mean_weights": weights, "training_seconds": checkpoint["seconds"]}

    results = {
        "config": asdict(config),
        "tasks": config.tasks,
        "training": [photograph.name for photograph in data.training],
        "validation": [photograph.name for photograph in data.validation],
        "scores": {name: training.score(restored, images) for name, restored in outputs.items()},
        "runs": runs,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = report.table(results["scores"]).to_markdown()
    (output / "table.md").write_text(table + "\n")
    report.plot_histories(histories, config.tasks, output / "weights.png")
    report.plot_images(rows(images, outputs), output / "restored.png")
    console.print(table, soft_wrap=True)
    console.print(f"\nresults.json, table.md, weights.png and restored.png are in {output}/", soft_wrap=True)
    return results


def rows(images: list[ValidationImage], outputs: dict[str, list[Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Crops of one photograph a task, the photographs in turn: degraded, restored by each run, truth."""
    chosen: dict[str, dict[str, Tensor]] = {}
    names = list(dict.fromkeys(image.photograph.name for image in images))
    for index, task in enumerate(dict.fromkeys(image.task for image in images)):
        name = names[index % len(names)]
        position = next(i for i, image in enumerate(images) if (image.task, image.photograph.name) == (task, name))
        truth = images[position].photograph.image
        crop = slice(None), *(slice((side - 240) // 2 if side > 240 else 0, None) for side in truth.shape[1:])
        line = {
            f"{run}, {psnr(restored[position], truth):.1f} dB": restored[position][crop][:, :240, :240]
            for run, restored in outputs.items()
        }
        chosen[task] = {**line, "truth": truth[crop][:, :240, :240]}
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.restoration", description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="rain-haze-noise", help="which tasks")
    names = [name for name in available() if name != "fixed"]  # which needs weights
    parser.add_argument("--weighting", nargs="+", choices=names, default=["equal", "art"], help="what to compare")
    parser.add_argument("--steps", type=int, default=1600, help="training steps of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the degradations, the patches and the network")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--photographs", help="a folder of photographs, in place of the packaged ones")
    parser.add_argument("--output", type=Path, default=Path("runs/restoration"), help="folder of results, checkpoints")
    given = parser.parse_args(arguments)
    config = Config(given.setting, given.steps, given.seed, given.device, given.photographs)
    console = Console()
    try:
        compare(config, given.weighting, given.output, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the checkpoints in {given.output}/", soft_wrap=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
