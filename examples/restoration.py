"""One network restores photographs from many degradations: equal weighting against Art, from the same seed.

    python -m examples.restoration                      # rain, haze, noise
    python -m examples.restoration --setting multiple   # the seven degradations
    python -m examples.restoration --help

It runs three commands of ``python -m benchmarks.restoration``: prepare, train (once for each weighting) and evaluate.
After an interruption the same command goes on from the last checkpoint, to the same result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.restoration import layouts, preparing, report
from benchmarks.restoration.__main__ import main as suite
from benchmarks.restoration.figures import plot_images
from benchmarks.restoration.finished import Arena, arenas, read
from benchmarks.restoration.report_pictures import crops, plot_curves
from benchmarks.restoration.weighting_names import average_weights

PREPARE = ["--size", "160", "--levels", "8", "--jobs", "1"]
TRAIN = ["--model", "global-srresnet", "--recipe", "demo", "--scale", "small", "--channels-last", "--save-every", "100"]


def compare(given: argparse.Namespace) -> int:
    """Prepare a folder, train a network with each weighting and evaluate them; return the exit status."""
    setting, seed, device = ["--setting", given.setting], ["--seed", str(given.seed)], ["--device", given.device]
    data = ["--data", str(given.output / "data")]
    runs = [given.output / name for name in given.weighting]
    training = [*setting, *data, *TRAIN, "--steps", str(given.steps), *seed, *device]
    commands = [
        ["prepare", *setting, "--photographs", given.photographs, "--output", data[1], *PREPARE, *seed],
        *(["train", *training, "--weighting", run.name, "--output", str(run)] for run in runs),
        ["evaluate", *map(str, runs), *device],
    ]
    for command in commands:
        status = suite(command)
        if status:
            return status
    [arena] = arenas(read(runs)[0])
    write(arena, json.loads((given.output / "data" / "prepared.json").read_text()), given.output)
    return 0


def write(arena: Arena, prepared: dict[str, Any], output: Path) -> None:
    """Write ``results.json``, ``table.md`` and two pictures, and print the table."""
    runs = {method: run for (method, _), run in arena.runs.items()}
    scores = {"degraded input": next(iter(runs.values())).scores["input"]}
    scores |= {method: run.scores["restored"] for method, run in runs.items()}
    results = {
        "photographs": {split: [of["name"] for of in prepared["photographs"][split]] for split in layouts.SPLITS},
        "scores": scores,
        "mean_weights": {method: average_weights(run.folder) for method, run in runs.items()},
        "runs": {method: run.config for method, run in runs.items()},
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = report.table(scores).to_markdown()
    (output / "table.md").write_text(table + "\n")
    plot_curves(arena, output / "weights.png")
    plot_images({label: row for of in crops(arena).values() for label, row in of.items()}, output / "restored.png")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"\nresults.json, table.md, weights.png and restored.png are in {output}/")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.restoration", description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=layouts.SETTINGS, default="rain-haze-noise", help="which tasks")
    parser.add_argument("--weighting", nargs="+", metavar="NAME", default=["equal", "art"], help="what to compare")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the degradations, the patches and the network")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--photographs", default=preparing.PACKAGED, help="a folder of them; those of packages")
    parser.add_argument("--output", type=Path, default=Path("runs/restoration"), help="folder of results, checkpoints")
    return compare(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
