"""What came out: tables, and a picture of the ratios against the number of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .measuring import Combination
from .methods import AGAIN, AGGREGATOR, AT_INTERVALS, COMPILED, HOST, INTERVAL, REFERENCE, STACKED, TORCHJD

OUT_OF_SCALE = {base + end for base in ("gradnorm", AGGREGATOR) for end in ("", AT_INTERVALS)}  # a backward pass a task
TITLES = {
    "weighing": "weighing alone, over stacking the losses",
    "mlp": "MLP, 3 layers of 256, 64 samples",
    "mlp-256": "MLP, 256 samples",
    "mlp-1024": "MLP, 1024 samples",
    "conv": "8 convolutions",
    "srresnet": "SRResNet-like",
    "named": "named losses",
    "mixed": "a batch mixing the tasks",
    "own": "the losses of its batch",
}


ART = {"color": "tab:blue", "linewidth": 2.5, "zorder": 5}
LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    AGAIN: ("plain again: noise, quartiles", {"color": "black", "linestyle": ":", "zorder": 4}),
    STACKED: ("stacked sum", {"color": "tab:green"}),
    HOST: ("Art on the host", {"color": "tab:red"}),
    "art": ("art", ART),
    f"art{AT_INTERVALS}": (f"art{AT_INTERVALS}", {**ART, "linestyle": "--"}),
    "gradnorm": ("gradnorm, off the scale", {"color": "tab:purple"}),
    AGGREGATOR: (f"{AGGREGATOR}, off the scale", {"color": "tab:brown"}),
}


def ratios(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the ratios: a row a method, a column a number of tasks."""
    frame = pd.DataFrame(records)
    parts = ["# Time of a step over that of the plain loop: median (quartiles)"]
    for (problem, given), of in frame.groupby(["problem", "input"], sort=False):
        cells = of.assign(cell=of["ratio"].map(_ratio)).pivot(index="method", columns="tasks", values="cell")
        cells = cells.reindex(of["method"].drop_duplicates()).fillna("-").rename(columns="{} tasks".format)
        parts += [f"## {TITLES.get(problem, problem)}: {TITLES[given]}", _markdown(cells.reset_index())]
    return "\n\n".join(parts)


def details(records: Sequence[Mapping[str, Any]]) -> str:
    """Lay out everything: a table a combination."""
    frame = pd.DataFrame(records)
    parts = ["# Each combination"]
    for (problem, given, tasks), of in frame.groupby(["problem", "input", "tasks"], sort=False):
        rounds = of["rounds"].iloc[0]
        parts += [
            f"## {TITLES.get(problem, problem)}: {TITLES[given]}, {tasks} tasks ({rounds} rounds)",
            _markdown(_rows(of)),
        ]
    return "\n\n".join(parts)


def _rows(of: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "method": of["method"],
        "time ratio": of["ratio"].map(_ratio),
        "step, µs": of["time"].map("{0[median]:,.1f}".format),
        "extra, µs": of["extra"].map(
            lambda quartiles: "{median:+,.1f} ({low:+,.1f} to {high:+,.1f})".format(**quartiles)
        ),
        "operators": of["operators"].map("{:g}".format),
        "memory beyond, KiB": of["bytes beyond"].map(lambda size: f"{size / 1024:+,.2f}"),
    }
    if "kernels" in of:
        columns |= {
            "kernels": of["kernels"].map("{:g}".format),
            "host waits": of["host waits"].map({True: "yes", False: "no"}),
        }
    return pd.DataFrame(columns)


def _ratio(quartiles: Mapping[str, float]) -> str:
    return "{median:.3f} ({low:.3f}-{high:.3f})".format(**quartiles)


def _markdown(rows: pd.DataFrame) -> str:
    columns = ["left", *["right"] * (len(rows.columns) - 1)]
    return rows.to_markdown(index=False, disable_numparse=True, colalign=columns)


def notes(where: str, skipped: Mapping[str, Sequence[str]]) -> str:
    """Say what the numbers are, and what was not measured: the reasons, each with what it holds for."""
    lines = [
        f"- On {where}. In a round all methods take turns in random order, each with a network of its own on a batch "
        "that stays; a ratio and a difference are of one round, and medians and quartiles over the rounds.",
        f"- `{REFERENCE}` is `sum(losses).backward(); optimizer.step()` with AdamW, with forward and `zero_grad`; "
        f"`{AGAIN}` is the same once more: the noise. Of a mixed batch it is the mean over the samples. "
        f"`{STACKED}` is `torch.stack(losses).sum()`, or the sum of the means of the tasks.",
        "- Weighing alone has no network: from losses that are there to their weights, over stacking them (or, mixed, "
        "over `per_task_mean`). TorchJD's scalarizers run forward and backward down to the losses there, without the "
        "step of what they learn.",
        f"- `{HOST}` is Art as training scripts have it: an `.item()` a task and Python floats.",
        "- TorchJD's scalarizers are used as documented: what they learn is in the optimizer, and FAMO computes the "
        "losses once more after the step. DWA's epoch does not end while it is timed.",
        "- `gradnorm` has the last layer that the tasks share; `upgrad` is TorchJD's `UPGrad` through the wrapper.",
        f"- `{AT_INTERVALS.strip()}` is the weighting with `interval={INTERVAL}`: all take a multiple of {INTERVAL} "
        "steps in a round, and operators are the mean over these.",
        "- SRResNet-like is the restoration network of the demo: residual blocks as in SRResNet, no upsampling, and a "
        "head that sees the whole image. A problem of `benchmarks.problems` is a step on its first batch, made anew in "
        "each.",
        "- A mixed batch has the samples of the MLP, or 8 images for the convolutions: where there are more tasks, the "
        "others are absent.",
        "- Operators are those that a step and its backward pass call, not those within operators. Memory is the most "
        "that tensors made in a step hold at once, less that of the plain loop.",
    ]
    return "\n".join(lines + [f"- Not measured, {why}: {', '.join(what)}." for why, what in skipped.items()])


def plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the median ratio against the number of tasks: a panel a problem and input, a line a method."""
    frame = pd.DataFrame([{**record, **record["ratio"]} for record in records])
    problems, inputs = frame["problem"].unique(), frame["input"].unique()
    figure = Figure(figsize=(4.6 * len(problems), 0.9 + 3.6 * len(inputs)), layout="constrained")
    panels = figure.subplots(len(inputs), len(problems), squeeze=False)
    lines: dict[str, Any] = {}
    for row, given in zip(panels, inputs, strict=True):
        for panel, problem in zip(row, problems, strict=True):
            of = frame[(frame["problem"] == problem) & (frame["input"] == given)]
            panel.set_title(f"{TITLES.get(problem, problem)}\n{TITLES[given]}", fontsize=10)
            lines |= {} if of.empty else _panel(panel, of)
    figure.supxlabel("number of tasks")
    figure.supylabel("time of a step over that of the plain loop: median")
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=100)


def _panel(panel: Axes, of: pd.DataFrame) -> dict[str, Any]:
    lines = {}
    for name, points in of.groupby("method", sort=False):
        if name == REFERENCE:
            continue
        label, style = _look(name)
        (line,) = panel.plot(points["tasks"], points["median"], marker=".", **style)
        lines[label] = line
        if name == AGAIN:
            panel.fill_between(points["tasks"], points["low"], points["high"], color="black", alpha=0.15, linewidth=0)
    panel.set_xscale("log")
    if of["problem"].iloc[0] == "weighing":
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:.4g}")
    # Many backward passes would press all that take one into a line.
    shown = of.loc[~of["method"].isin(OUT_OF_SCALE), "median"]
    panel.set_ylim(0.95 * shown.min(), 1.05 * shown.max())
    tasks = sorted(of["tasks"].unique())
    panel.set_xticks(tasks, [str(number) for number in tasks])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    return lines


def _look(name: str) -> tuple[str, dict[str, Any]]:
    """The line of a method, and its name in the legend, which alike methods share."""
    name = name if name.startswith("art") else name.removesuffix(AT_INTERVALS)
    if name in LOOKS:
        return LOOKS[name]
    if name.startswith(TORCHJD):
        return "TorchJD's scalarizers", {"color": "tab:orange", "linewidth": 0.8, "alpha": 0.8}
    if name.startswith(COMPILED):
        return "compiled", {"color": "tab:cyan", "linewidth": 0.8, "linestyle": "--"}
    return "the other weightings", {"color": "tab:blue", "linewidth": 0.8, "alpha": 0.45}


def grouped(skipped: Mapping[Combination, Mapping[str, str]]) -> dict[str, list[str]]:
    """Gather what was not measured by the reason: methods, or all methods of a problem."""
    reasons: dict[str, list[str]] = {}
    for methods in skipped.values():
        for method, why in methods.items():
            what = reasons.setdefault(why, [])
            what += [] if method in what else [method]
    return reasons
