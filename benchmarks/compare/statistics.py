"""What several seeds say: paired differences and their significance, ranks, Delta m.

Values are a frame with a row a method and seed, and a column a metric.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import scikit_posthocs
from scipy.stats import friedmanchisquare, ttest_1samp
from statsmodels.stats.multitest import multipletests

from benchmarks.estimates import Estimate, estimate
from benchmarks.problems import Metric

REFERENCE = "equal"
DIGITS = 6  # metrics that agree to so many significant digits rank level


def frame(runs: Iterable[Mapping[str, Any]], split: str) -> pd.DataFrame:
    """Lay out the metrics of the runs on a split."""
    rows = {(run["method"], run["seed"]): run["metrics"][split] for run in runs}
    values = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    return values.set_axis(pd.MultiIndex.from_tuples(values.index, names=["method", "seed"]), axis=0)


def differences(values: pd.Series) -> pd.Series:
    """Subtract from each run the run of equal weighting that has the same seed."""
    return values - values.loc[REFERENCE].reindex(values.index, level="seed")


def estimates(values: pd.Series) -> dict[str, Estimate]:
    """Estimate the mean over the seeds of each method."""
    return {str(method): estimate(of.droplevel("method")) for method, of in values.groupby("method", sort=False)}


def significance(values: pd.Series) -> dict[str, float]:
    """Return the p-value of each method's paired difference to equal weighting, after Holm's correction.

    It is that of the paired t test, NaN where fewer than two seeds have both or all differences are 0.
    """
    paired = differences(values).drop(REFERENCE, level="method").groupby("method", sort=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of differences that hardly vary
        found = {str(method): _p_value(of.dropna()) for method, of in paired}
    tested = [method for method, p in found.items() if not math.isnan(p)]
    if tested:
        found |= dict(zip(tested, multipletests([found[method] for method in tested], method="holm")[1], strict=True))
    return found


def _p_value(differences: pd.Series) -> float:
    return float(ttest_1samp(differences, 0).pvalue) if len(differences) > 1 else math.nan


def ranks(values: pd.DataFrame, higher: bool) -> pd.DataFrame:
    """Rank methods in each column; 1 is the best, level ones share the mean of their ranks, None is the worst."""
    rounded = values.map(lambda value: float(f"{value:.{DIGITS}g}") if math.isfinite(value) else math.nan)
    return rounded.rank(ascending=not higher, na_option="bottom")


def mean_ranks(values: pd.Series, higher: bool) -> dict[str, float]:
    """Return the mean rank of each method over the seeds."""
    return {str(method): rank for method, rank in ranks(values.unstack("seed"), higher).mean(axis=1).items()}


def delta_m(
    metrics: Mapping[str, Metric], of: Mapping[str, float | None], alone: Mapping[str, Mapping[str, float | None]]
) -> dict[str, float]:
    r"""Return Delta m in percent, how far the metrics of tasks are above those of the tasks trained alone.

    With :math:`\Delta_{ij} = \pm (M_{ij} - S_{ij}) / |S_{ij}|` for metric :math:`j` of task :math:`i`, positive where
    multi-task training is better:

    - ``"tasks"``: the mean over the tasks of the means over their metrics (Maninis et al., CVPR 2019; LibMTL);
    - ``"metrics"``: minus the mean over all metrics, so that lower is better (Navon et al., ICML 2022; FAMO).

    Empty where no metric is of a task, or a value is missing.
    """
    by_task: dict[str, list[float]] = {}
    for name, metric in metrics.items():
        if metric.task is None:
            continue
        value, single = of[name], alone.get(metric.task, {}).get(name)
        if value is None or not single:
            return {}
        gain = (value - single) / abs(single)
        by_task.setdefault(metric.task, []).append(100 * (gain if metric.higher else -gain))
    if not by_task:
        return {}
    flat = [gain for gains in by_task.values() for gain in gains]
    return {
        "tasks": sum(sum(gains) / len(gains) for gains in by_task.values()) / len(by_task),
        "metrics": -sum(flat) / len(flat),
    }


def friedman(blocks: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Return the p-value of Friedman's test that all methods are alike, and those of Nemenyi's of each pair.

    Args:
        blocks: Ranks: a row a method, a column a block (such as a problem).
    """
    p_value = float(friedmanchisquare(*blocks.to_numpy()).pvalue)
    return p_value, scikit_posthocs.posthoc_nemenyi_friedman(blocks.T)


def names(sequence: Sequence[str]) -> str:
    """Write names as code."""
    return ", ".join(f"`{name}`" for name in sequence)
