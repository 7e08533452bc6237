"""What came out of the comparison: a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from . import statistics
from .statistics import AVERAGE, REFERENCE
from .training import Config


def summarize(scores: pd.DataFrame, step_times: pd.DataFrame) -> pd.DataFrame:
    """Return a row of numbers for each method, the best average PSNR first."""
    psnr = statistics.psnr(scores)
    means, difference = statistics.mean(psnr), statistics.differences(psnr)[[AVERAGE]]
    summary = means.assign(
        average_interval=statistics.half_width(psnr)[AVERAGE],
        difference=statistics.mean(difference)[AVERAGE],
        difference_interval=statistics.half_width(difference)[AVERAGE],
        step_time=step_times["median"],
        step_time_low=step_times["low"],
        step_time_high=step_times["high"],
        mean_rank=statistics.mean_rank(scores),
    )
    return summary.sort_values(AVERAGE, ascending=False)


def table(summary: pd.DataFrame, degraded: pd.Series) -> str:
    """Lay out the summary, and beneath it the PSNR of the degraded images, by task and on average."""
    tasks = degraded.index.drop(AVERAGE)
    rows = [
        {
            "method": method,
            **{f"{task}, dB": f"{row[task]:.2f}" for task in tasks},
            "average, dB": _interval("{:.2f}", row[AVERAGE], row["average_interval"]),
            "difference to equal, dB": "-"
            if method == REFERENCE
            else _interval("{:+.2f}", row["difference"], row["difference_interval"]),
            "step time": "{step_time:.2f} ({step_time_low:.2f}-{step_time_high:.2f})".format(**row),
            "mean rank": f"{row['mean_rank']:.1f}",
        }
        for method, row in summary.iterrows()
    ]
    without = dict.fromkeys(rows[0], "-") | {"method": "degraded input"}
    rows.append(without | {f"{name}, dB": f"{value:.2f}" for name, value in degraded.items()})
    columns = ["left", *["right"] * (len(rows[0]) - 1)]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True, colalign=columns)


def notes(summary: pd.DataFrame, configs: Sequence[Config]) -> str:
    """Say what the numbers in the table are."""
    config, seeds = configs[0], [str(config.seed) for config in configs]
    where = "one CPU thread" if config.device == "cpu" else config.device
    spread = (
        f"± is the 95% t interval of the mean over the {len(seeds)} seeds" if seeds[1:] else "One seed has no interval"
    )
    return "\n".join(
        [
            f"- PSNR of the validation images after {config.steps} steps, the mean over {len(seeds)} seed(s): "
            f"{', '.join(seeds)}. A seed is that of the network, the patches and the degradations.",
            f"- {spread}. The difference to equal is paired: to the run of equal weighting that has the same seed.",
            "- Step time is relative to equal weighting: the median over rounds in which all methods take turns, and "
            f"the quartiles, on {where}. Equal weighting takes two turns: its row is the noise.",
            f"- Mean rank is over {2 * len(config.tasks)} metrics, the PSNR and the SSIM of each task (1 is the best), "
            f"and then over the seeds, among these {len(summary)}: {', '.join(sorted(summary.index))}.",
        ]
    )


def plot(scores: pd.DataFrame, path: Path) -> None:
    """Draw the paired differences to equal weighting and their intervals, a panel a task and one for the average."""
    paired = statistics.differences(statistics.psnr(scores)).drop(REFERENCE, level="method")
    means, widths = statistics.mean(paired), statistics.half_width(paired)
    means = means.sort_values(AVERAGE)
    widths = widths.loc[means.index].fillna(0)
    columns = [AVERAGE, *means.columns.drop(AVERAGE)]
    figure = Figure(figsize=(1.6 + 2.4 * len(columns), 1.4 + 0.26 * len(means)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        color = "tab:blue" if column == AVERAGE else "tab:gray"
        panel.errorbar(means[column], means.index, xerr=widths[column], fmt="o", color=color, capsize=2, markersize=4)
        panel.set_title(column)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(-0.7, len(means) - 0.3)
    figure.supxlabel("PSNR less that of equal weighting with the same seed, dB: mean and 95% t interval over the seeds")
    figure.savefig(path, dpi=100)


def _interval(pattern: str, value: float, half_width: float) -> str:
    text = pattern.format(value)
    return text if math.isnan(half_width) else f"{text} ± {half_width:.2f}"
