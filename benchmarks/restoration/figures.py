"""Pictures of runs: curves of losses and weights, and restored images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

POINTS = 1000
LARGEST = 1_500_000  # bytes


def plot_histories(
    histories: Mapping[str, Tensor],
    tasks: Sequence[str],
    path: Path,
    window: int = 25,
    steps: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Draw the task losses and weights of each run over its steps.

    Args:
        histories: [steps, 2, K] by the name of the run: the losses (NaN where absent) and the weights of each step.
        tasks: The K names.
        path: The picture to write.
        window: How many of the steps are averaged.
        steps: The number of each step of a run; consecutive from 0 where not given.
    """
    figure = Figure(figsize=(4.2 * len(histories), 6), layout="constrained")
    axes = figure.subplots(2, len(histories), sharex=True, sharey="row", squeeze=False)
    for column, (name, history) in zip(axes.T, histories.items(), strict=True):
        for axis, values in zip(column, history.unbind(1), strict=True):
            frame = pd.DataFrame(values.numpy(), steps[name] if steps else None, list(tasks))
            frame = frame.rolling(window, min_periods=1).mean()
            axis.plot(frame[:: max(len(frame) // POINTS, 1)], label=tasks, linewidth=1.2)
            axis.grid(alpha=0.3)
        column[0].set_title(name, fontsize="medium")
        column[0].set_yscale("log")
        column[1].set(xlabel=f"step (mean over {window})")
        column[1].locator_params("x", nbins=5)
    axes[0, 0].set_ylabel("task loss")
    axes[1, 0].set(ylabel="task weight", ylim=(0, None))
    axes[0, -1].legend(fontsize="small")
    save(figure, path)


def plot_images(rows: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Draw uint8 images [3, H, W] by row and title."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label)
        for axis, (title, image) in zip(line, images.items(), strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_title(title, fontsize="small")
            axis.set(xticks=[], yticks=[])
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture of at most 1.5 MB, coarser where it would be larger."""
    options = {"pil_kwargs": {"quality": 95, "subsampling": 0}} if path.suffix == ".jpg" else {}
    for power in count():
        figure.savefig(path, dpi=100 * 0.8**power, **options)
        if path.stat().st_size <= LARGEST:
            return
