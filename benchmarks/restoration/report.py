"""What came out of a comparison: a table and two pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor


def table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> pd.DataFrame:
    """Lay out ``scores[run][task]["psnr" or "ssim"]`` as a row a task and their average, and a column a run."""
    cells = []
    for metric, pattern in (("psnr", "{:.2f} dB"), ("ssim", "{:.3f}")):
        frame = pd.DataFrame({run: {task: score[metric] for task, score in of.items()} for run, of in scores.items()})
        frame.loc["average"] = frame.mean()
        cells.append(frame.map(pattern.format))
    psnr, ssim = cells
    return psnr + ", " + ssim


def plot_histories(histories: Mapping[str, Tensor], tasks: Sequence[str], path: Path, window: int = 25) -> None:
    """Draw the task losses and weights of each run over its steps.

    Args:
        histories: [steps, 2, K] by the name of the run: the losses (NaN where absent) and the weights of each step.
        tasks: The K names.
        path: The picture to write.
        window: How many steps are averaged.
    """
    figure = Figure(figsize=(4.2 * len(histories), 6), layout="constrained")
    axes = figure.subplots(2, len(histories), sharex=True, sharey="row", squeeze=False)
    for column, (name, history) in zip(axes.T, histories.items(), strict=True):
        for axis, values in zip(column, history.unbind(1), strict=True):
            frame = pd.DataFrame(values.numpy(), columns=list(tasks)).rolling(window, min_periods=1).mean()
            axis.plot(frame, label=tasks, linewidth=1.2)
            axis.grid(alpha=0.3)
        column[0].set(title=name, yscale="log")
        column[1].set(xlabel=f"step (mean over {window})")
    axes[0, 0].set_ylabel("task loss")
    axes[1, 0].set(ylabel="task weight", ylim=(0, None))
    axes[0, -1].legend(fontsize="small")
    figure.savefig(path, dpi=100)


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
    figure.savefig(path, dpi=100)
