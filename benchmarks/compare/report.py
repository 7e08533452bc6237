"""What a comparison says, from its results alone: a page a problem and one over all, with their pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import scikit_posthocs
from matplotlib.figure import Figure

from benchmarks.estimates import Estimate
from benchmarks.problems import PROBLEMS, Metric

from . import statistics
from .statistics import REFERENCE

Results = Mapping[str, Any]
SIGNIFICANT = 0.05
RESULTS, PAGE, OVERALL = "results.json", "page.md", "README.md"
SHOWN = ("equal", "art", "fixed-at:art", "uncertainty")  # curves of these, where they were run


def page(results: Results) -> str:
    """Return the page of a problem."""
    name, metric = _deciding(results)
    direction = "higher" if metric.higher else "lower"
    seeds = len(results["seeds"])
    lines = [
        f"# {results['problem']}",
        "",
        f"{results['description']} {results['steps']} steps; `{name}` on the test data, {direction} is better.",
        "",
        table(results),
        "",
        f"- ± is the 95% t interval of the mean over {seeds} seed(s), {_seeds(results)}. The difference to equal "
        "weights is paired by seed; `*` marks p < 0.05 in a paired t test after Holm's correction over the methods.",
        f"- The rank is by `{name}`, averaged over the seeds, among {len(results['methods'])} methods.",
        "- " + _delta_note(results),
        f"- {_tuning_note(results)}",
        f"- {_time_note(results)}",
    ]
    lines += [
        f"- `{failed['method']}`, seed {failed['seed']}, failed: {failed['error']}" for failed in results["failed"]
    ]
    lines += ["", "![Difference to equal weights](differences.png)", "", "![Losses and weights](curves.png)", ""]
    lines += [
        f"Made by `{results['command']}`, torch {results['versions']['torch']}, {results['machine']['processor']}."
    ]
    return "\n".join(lines) + "\n"


def table(results: Results) -> str:
    """Return the table of a problem, the best mean first."""
    name, metric = _deciding(results)
    values = statistics.frame(results["runs"], "test")
    means = statistics.estimates(values[name])
    gains = statistics.estimates(statistics.differences(values[name]))
    p_values = statistics.significance(values[name])
    ranks = statistics.mean_ranks(values[name], metric.higher)
    rows = []
    for method in sorted(means, key=lambda method: _sorting(means[method], metric.higher)):
        star = " *" if p_values.get(method, 1.0) < SIGNIFICANT else ""
        delta = _delta(results, values, method)
        others = [other for other in results["metrics"] if other != name]
        rows.append(
            {
                "method": _label(results, method),
                name: means[method].text(),
                "difference": "-" if method == REFERENCE else gains[method].text(sign=True) + star,
                "rank": f"{ranks[method]:.1f}",
                **{other: _number(values.loc[method, other].mean()) for other in others},
                **({"Δm, tasks": _percent(delta.get("tasks"))} if _has_tasks(results) else {}),
                **({"Δm, metrics": _percent(delta.get("metrics"))} if _has_tasks(results) else {}),
            }
        )
    columns = ["left", *["right"] * (len(rows[0]) - 1)]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True, colalign=columns)


def overall(every: Sequence[Results]) -> str:
    """Return the page over all problems: a row a method, a column a problem, the difference to equal weights in %."""
    lines = ["# Comparison of weightings", "", summary(every), ""]
    lines += [
        "The gain over equal weights in percent of their value, positive where better, of the metric that decides in "
        "each problem, on its test data; `*` marks p < 0.05 after Holm's correction within the problem. The mean rank "
        "is over the problems, of the methods that were run in all of them.",
        "",
    ]
    blocks = _blocks(every)
    if min(blocks.shape) > 2:
        p_value, pairs = statistics.friedman(blocks)
        apart = [method for method in pairs.index if method != REFERENCE and pairs.loc[method, REFERENCE] < SIGNIFICANT]
        told = f"apart from equal weights: {statistics.names(apart)}" if apart else "no method apart from equal weights"
        lines += [
            f"Friedman's test that all methods are alike has p = {p_value:.2g}; Nemenyi's test at 0.05 tells {told}.",
            "",
            "![Mean ranks, with bars over methods that are not told apart](ranks.png)",
            "",
        ]
    lines += [f"- [{results['problem']}]({slug(results['problem'])}/{PAGE})" for results in every]
    return "\n".join(lines) + "\n"


def summary(every: Sequence[Results]) -> str:
    """Return the table over all problems."""
    gains = {results["problem"]: _gains(results) for results in every}
    mean_ranks = _blocks(every).mean(axis=1)
    methods = list(dict.fromkeys(method for of in gains.values() for method in of))
    methods.sort(key=lambda method: mean_ranks.get(method, math.inf))
    rows = [
        {
            "method": f"`{method}`",
            **{problem: of.get(method, "-") for problem, of in gains.items()},
            "mean rank": f"{mean_ranks[method]:.1f}" if method in mean_ranks else "-",
        }
        for method in methods
    ]
    columns = ["left", *["right"] * (len(rows[0]) - 1)]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True, colalign=columns)


def write(results: Results, folder: Path) -> None:
    """Write the page of a problem and its pictures."""
    (folder / PAGE).write_text(page(results))
    _plot_differences(results).savefig(folder / "differences.png", dpi=90)
    _plot_curves(results).savefig(folder / "curves.png", dpi=90)


def write_overall(folder: Path) -> str:
    """Write the page over all problems of a folder, and the picture of the ranks; return the table."""
    every = read(folder)
    if not every:
        return ""
    (folder / OVERALL).write_text(overall(every))
    blocks = _blocks(every)
    if min(blocks.shape) > 2:
        _plot_ranks(blocks).savefig(folder / "ranks.png", dpi=90)
    return summary(every)


def read(folder: Path) -> list[Results]:
    """Return the results of all problems below a folder, without those in which no run of equal weights is finished."""
    every = [json.loads(path.read_text()) for path in folder.glob(f"*/{RESULTS}")]
    order = {name: index for index, name in enumerate(PROBLEMS)}
    every.sort(key=lambda results: (order.get(results["problem"], len(order)), results["problem"]))
    return [results for results in every if REFERENCE in results["methods"]]


def slug(problem: str) -> str:
    """Return the name of a problem's folder."""
    return "".join(character if character.isalnum() or character in ".-_" else "-" for character in problem)


def metrics(results: Results) -> dict[str, Metric]:
    """Return the metrics, the one that decides first."""
    return {name: Metric(**of) for name, of in results["metrics"].items()}


def _deciding(results: Results) -> tuple[str, Metric]:
    return next(iter(metrics(results).items()))


def _has_tasks(results: Results) -> bool:
    return any(metric.task for metric in metrics(results).values())


def _delta(results: Results, values: pd.DataFrame, method: str) -> dict[str, float]:
    alone = {
        task: _means(run["metrics"]["test"] for run in results["alone"] if run["task"] == task)
        for task in {run["task"] for run in results["alone"]}
    }
    return statistics.delta_m(metrics(results), _without_nan(values.loc[method].mean()), alone)


def _means(of: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    return _without_nan(pd.DataFrame(of, dtype=float).mean())


def _without_nan(values: pd.Series) -> dict[str, float | None]:
    return {str(name): None if math.isnan(value) else value for name, value in values.items()}


def _gains(results: Results) -> dict[str, str]:
    """The difference of each method to equal weights, in percent, positive where better."""
    name, metric = _deciding(results)
    values = statistics.frame(results["runs"], "test")[name]
    base = abs(values.loc[REFERENCE].mean())
    p_values = statistics.significance(values)
    gains = {}
    for method, gain in statistics.estimates(statistics.differences(values)).items():
        percent = 100 * (gain.mean if metric.higher else -gain.mean) / base
        star = " *" if p_values.get(method, 1.0) < SIGNIFICANT else ""
        gains[method] = "-" if math.isnan(percent) or method == REFERENCE else f"{round(percent, 1) + 0:+}{star}"
    return gains


def _blocks(every: Sequence[Results]) -> pd.DataFrame:
    """Ranks of the methods that all problems have: a row a method, a column a problem."""
    columns = {}
    for results in every:
        name, metric = _deciding(results)
        means = statistics.frame(results["runs"], "test")[name].groupby("method").mean()
        columns[results["problem"]] = means if metric.higher else -means
    common = pd.DataFrame(columns).loc[[m for m in every[0]["methods"] if all(m in r["methods"] for r in every)]]
    return statistics.ranks(common, higher=True)


def _time_note(results: Results) -> str:
    frame = pd.DataFrame([{"method": run["method"], "seconds": run["seconds"]} for run in results["runs"]])
    seconds = frame.groupby("method")["seconds"].median()
    ratios = (seconds / seconds[REFERENCE]).drop(REFERENCE)
    others = "" if ratios.empty else f"; the others took {ratios.min():.2f} to {ratios.max():.2f} times that"
    return (
        f"A run of equal weights took {seconds[REFERENCE]:.1f} s{others}. They shared a machine: overhead is what "
        "`python -m benchmarks.overhead` measures."
    )


def _label(results: Results, method: str) -> str:
    """The method, and what it was tuned to."""
    tuned = results["tuned"][method]
    return f"`{method}`" if tuned["trials"] == 0 else f"`{tuned['method']}`, {tuned['learning_rate']:.2g}"


def _tuning_note(results: Results) -> str:
    if results["tuning"] is None:
        rate = next(iter(results["tuned"].values()))["learning_rate"]
        return f"Untuned: every method has its default hyperparameters and the learning rate {rate:g}."
    tuning = results["tuning"]
    return (
        f"Each method was tuned by {tuning['trials']} trials: the learning rate (beside its name), and one "
        "hyperparameter where it has one to tune, chosen on the validation data with "
        f"{tuning['seeds']} seed(s) that are not among these."
    )


def _delta_note(results: Results) -> str:
    if not _has_tasks(results):
        return "No metric is of one task, so there is no Δm."
    return (
        "Δm is against each task trained alone for as many steps, with the learning rate of equal weights: over tasks "
        "as Maninis et al. (CVPR 2019) and LibMTL have it, higher is better; over metrics as Nash-MTL and FAMO do, "
        "lower is better."
    )


def _seeds(results: Results) -> str:
    return ", ".join(str(seed) for seed in results["seeds"])


def _sorting(of: Estimate, higher: bool) -> float:
    return math.inf if math.isnan(of.mean) else -of.mean if higher else of.mean


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}%"


def _plot_differences(results: Results) -> Figure:
    """Draw the paired differences to equal weights, with their intervals."""
    name, metric = _deciding(results)
    gains = statistics.estimates(statistics.differences(statistics.frame(results["runs"], "test")[name]))
    shown = {method: gain for method, gain in gains.items() if method != REFERENCE and not math.isnan(gain.mean)}
    order = sorted(shown, key=lambda method: _sorting(shown[method], metric.higher), reverse=True)
    figure = Figure(figsize=(6.4, 1.3 + 0.26 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    widths = [0 if math.isnan(shown[method].half_width) else shown[method].half_width for method in order]
    axes.errorbar([shown[method].mean for method in order], order, xerr=widths, fmt="o", capsize=2, markersize=4)
    axes.set(xlabel=f"{name} less that of equal weights, mean and 95% t interval", title=results["problem"])
    if not metric.higher:
        axes.invert_xaxis()  # the better, the further to the right
    axes.grid(alpha=0.3)
    return figure


def _plot_curves(results: Results) -> Figure:
    """Draw the losses and weights of the tasks over the steps, with the first seed."""
    curves = {method: results["curves"][method] for method in results["curves"]}
    figure = Figure(figsize=(3.2 * max(len(curves), 1), 5), layout="constrained")
    panels = figure.subplots(2, max(len(curves), 1), sharex=True, sharey="row", squeeze=False)
    for column, (method, of) in enumerate(curves.items()):
        for row, kind in enumerate(("losses", "weights")):
            for task, values in of[kind].items():
                numbers = [math.nan if value is None else value for value in values]
                panels[row][column].plot(of["steps"], numbers, label=task, linewidth=1)
            panels[row][column].grid(alpha=0.3)
        panels[0][column].set_title(method)
    panels[0][0].set(ylabel="loss", yscale="log" if _all_positive(curves) else "linear")
    panels[1][0].set_ylabel("weight")
    panels[1][0].legend(fontsize="small")
    figure.supxlabel(f"step, seed {results['seeds'][0]}")
    return figure


def _all_positive(curves: Mapping[str, Any]) -> bool:
    losses = (value for of in curves.values() for values in of["losses"].values() for value in values)
    return all(value is None or value > 0 for value in losses)


def _plot_ranks(blocks: pd.DataFrame) -> Figure:
    """Draw the critical-difference diagram of Demsar (JMLR 2006)."""
    figure = Figure(figsize=(8, 1.5 + 0.2 * len(blocks)), layout="constrained")
    _, pairs = statistics.friedman(blocks)
    scikit_posthocs.critical_difference_diagram(blocks.mean(axis=1), pairs, ax=figure.subplots())
    return figure
