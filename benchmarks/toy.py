"""Two objectives in the plane, five starts, 50,000 steps: which weightings reach the Pareto front?

    python -m benchmarks.toy                          # every method: two hours on two cores
    python -m benchmarks.toy --methods equal famo     # some of them
    python -m benchmarks.toy --help

The problem is that of CAGrad (Liu et al., NeurIPS 2021), with the scales, the starts and the optimizer of the code of
Nash-MTL and FAMO. Its objectives have a logarithm's well each where x2 > 0, in which a descent can be caught, and a
parabola each where x2 < 0, between whose minima lies the front. They go below zero, which most weightings cannot weigh
(they take ratios, logarithms or inverses of losses): these run on losses less their lower bounds, and say so by
``-shifted``.

Every finished run is kept in the output folder, and the same command goes on from there; remove the folder to descend
anew, as after a change to a weighting.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor

from art_optim import TaskReweightedOptimizer
from art_optim.weighting import Weighting
from benchmarks.machine import at_least, circumstances, save
from benchmarks.methods import FIXED_AT, Method, default

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALES = (0.1, 1.0)
BOUNDS = (-2.1, -21.0)  # of the scaled objectives, from below: those that FAMO is given by its authors
LEARNING_RATE = 1e-3
FRONT = -8.3552  # x2 of the published front, where |x1| <= 7; the exact one bends to -8.4345 at its ends
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "dwa": {"period": 25},  # the window of Nash-MTL's and FAMO's code
    "famo": {"min_losses": BOUNDS, "weight_decay": 0.0},  # its authors' for this problem
}
OUT_OF_PLACE = ("dwa", "uncertainty")  # they need positive losses, but published comparisons have them as they are
SHIFTED = "-shifted"  # after the name of a method that is given the losses less BOUNDS


def weighting(name: str) -> Weighting:
    """Construct what weighs in a method, on its published scale."""
    kind = name.removesuffix(SHIFTED)
    return replace(Method.parse(kind).weighting(), normalize="published", **HYPERPARAMETERS.get(kind, {}))


def _methods() -> list[str]:
    names = [name for name in default() if not name.startswith(FIXED_AT)]
    shifted = [name for name in names if "positive losses" in weighting(name).needs]
    as_they_are = [name for name in names if name not in shifted or name in OUT_OF_PLACE]
    return [*as_they_are, *(f"{name}{SHIFTED}" for name in shifted)]


METHODS = _methods()


def objectives(points: Tensor) -> Tensor:
    """Return both objectives, not scaled, at points [..., 2]; the second is the first with x1 mirrored."""
    x1, x2 = points.split(1, -1)
    x1 = x1 * torch.tensor([1.0, -1.0])
    well = (x1 / 2 + 3.5 - x2.tanh()).abs().clamp(min=5e-6).log() + 6
    parabola = ((x1 - 7).square() + 0.1 * (x2 + 8).square()) / 10 - 20
    above = (x2 / 2).tanh()
    return above.clamp(min=0) * well + (-above).clamp(min=0) * parabola


def on_front(points: Tensor) -> Tensor:
    """Return which of the points [..., 2] are on the Pareto front, as closely as a descent with Adam can be."""
    x1, x2 = points.unbind(-1)
    return (x1.abs() <= 7.05) & ((x2 - FRONT).abs() < 0.15)


def descend(method: str, start: Sequence[float], steps: int) -> Tensor:
    """Return the points [steps + 1, 2] that Adam visits with the losses weighed by the method."""
    x = torch.tensor(start, requires_grad=True)
    optimizer = TaskReweightedOptimizer(torch.optim.Adam([x], lr=LEARNING_RATE), ("f1", "f2"), weighting(method))
    scales, shift = torch.tensor(SCALES), torch.tensor(BOUNDS) * method.endswith(SHIFTED)
    points = torch.empty(steps + 1, 2)
    points[0] = x.detach()
    for step in range(steps):
        f1, f2 = (scales * objectives(x) - shift).unbind()
        optimizer.zero_grad()
        optimizer.step({"f1": f1, "f2": f2})
        points[step + 1] = x.detach()
    return points


def examine(method: str, start: Sequence[float], steps: int) -> dict[str, Any]:
    """Descend once, and return what came of it."""
    torch.set_num_threads(1)  # there is nothing to divide
    began = time.perf_counter()
    points = descend(method, start, steps)
    seconds = time.perf_counter() - began
    elsewhere = (~on_front(points)).nonzero()
    arrived = int(elsewhere[-1]) + 1 if len(elsewhere) else 0
    return {
        "end": points[-1].tolist(),
        "losses": (torch.tensor(SCALES) * objectives(points[-1])).tolist(),
        "reached": arrived <= steps,
        "steps_to_reach": arrived if arrived <= steps else None,
        "seconds": round(seconds, 2),
        "path": points[:: max(1, steps // 1000)].tolist(),
    }


def complete(method: str, start: Sequence[float], steps: int, file: Path) -> dict[str, Any]:
    """Return a run: from its file if that is of the same configuration, else made now and then kept."""
    config = {
        "method": method,
        "weighting": repr(weighting(method)),
        "shifted": method.endswith(SHIFTED),
        "start": list(start),
        "steps": steps,
    }
    if file.exists() and config.items() <= (found := json.loads(file.read_text())).items():
        return dict(found)
    run = config | examine(method, start, steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_text(json.dumps(run) + "\n")
    os.replace(file.with_suffix(".new"), file)  # never half a run
    return run


def compare(methods: Sequence[str], steps: int, jobs: int, output: Path, console: Console) -> dict[str, list[Any]]:
    """Descend from every start with every method; return the runs by method, in the order of the starts."""
    runs: dict[str, list[Any]] = {name: [] for name in methods}
    made = Parallel(jobs, return_as="generator", batch_size=1)(
        delayed(complete)(name, start, steps, output / "runs" / f"{name}-{index}.json")
        for name in runs
        for index, start in enumerate(STARTS, 1)
    )
    for run in track(made, "descending", len(runs) * len(STARTS), console=console):
        runs[run["method"]].append(run)
    return runs


def table(runs: dict[str, list[Any]]) -> str:
    """Lay out who reached the front and who did not from where, and say which methods needed the shift."""
    rows = [
        {
            "method": name,
            "losses": "shifted" if name.endswith(SHIFTED) else "as they are",
            "reached": f"{sum(run['reached'] for run in of)} of {len(of)}",
            "fails from": ", ".join("({:g}, {:g})".format(*run["start"]) for run in of if not run["reached"]),
        }
        for name, of in runs.items()
    ]
    why = "The losses go below zero. Methods that need positive losses run on losses less their lower bounds: shifted."
    return "\n".join([pd.DataFrame(rows).to_markdown(index=False), "", why])


def plot(runs: dict[str, list[Any]], path: Path) -> None:
    """Draw the trajectories of each method over contours of the mean objective."""
    axis = torch.linspace(-11, 11, 200)
    x1, x2 = torch.meshgrid(axis, axis, indexing="xy")
    mean = objectives(torch.stack([x1, x2], -1)).mean(-1)
    columns = min(6, len(runs))
    lines = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(runs) :]:
        panel.set_axis_off()
    for panel, (name, of) in zip(panels.flat, runs.items(), strict=False):
        panel.contour(x1, x2, mean, levels=range(-16, 20), colors="lightgray", linewidths=0.6, linestyles="solid")
        panel.plot([-7, 7], [FRONT, FRONT], color="tab:green", linewidth=5, alpha=0.6, label="Pareto front")
        for run in of:
            color = "tab:blue" if run["reached"] else "tab:red"
            label = "reaches it" if run["reached"] else "does not"
            panel.plot(*zip(*run["path"], strict=True), color=color, linewidth=1.4, label=label)
            panel.plot(*run["start"], "o", color="black", markersize=4, label="start")
            panel.plot(*run["end"], "o", color=color, markersize=5, markeredgecolor="black", label="end")
        panel.set_title(f"{name}: {sum(run['reached'] for run in of)} of {len(of)}", fontsize="medium")
        panel.set(aspect="equal", xlim=(-11, 11), ylim=(-11, 11))
    handles = {
        label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
    figure.savefig(path, dpi=100)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toy", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--steps", type=at_least(1), default=50_000, help="of Adam, from each of the five starts")
    parser.add_argument("--jobs", type=at_least(1), default=os.cpu_count(), help="processes")
    parser.add_argument("--output", type=Path, default=Path("runs/toy"), help="folder of results and finished runs")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        runs = compare(given.methods, given.steps, given.jobs, given.output, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the runs in {given.output}/", soft_wrap=True)
        return 130
    kept = {name: [{key: run[key] for key in run if key != "path"} for run in of] for name, of in runs.items()}
    problem = {"scales": SCALES, "bounds": BOUNDS, "learning_rate": LEARNING_RATE, "front": FRONT}
    results = {**circumstances("benchmarks.toy", arguments), "problem": problem, "runs": kept}
    save(given.output, results, table(runs))
    plot(runs, given.output / "toy.png")
    console.print(table(runs), soft_wrap=True)
    console.print(f"\nresults.json, table.md and toy.png are in {given.output}/", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
