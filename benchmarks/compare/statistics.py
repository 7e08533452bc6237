"""What scores of several seeds say: means, intervals, paired differences, ranks.

Scores are a frame with a row a method and seed, and a column a metric and task.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import t

from benchmarks.cache import Run

AVERAGE = "average"
REFERENCE = "equal"


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Lay out the scores of the runs."""
    rows = {
        (run["method"], run["config"]["seed"]): {
            (metric, task): value for task, of in run["scores"].items() for metric, value in of.items()
        }
        for run in runs
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["method", "seed"])


def psnr(frame: pd.DataFrame) -> pd.DataFrame:
    """The PSNR of each task, and of the tasks on average."""
    return frame["psnr"].assign(**{AVERAGE: frame["psnr"].mean(axis=1)})


def differences(values: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each run the run of equal weighting that has the same seed."""
    return values - values.loc[REFERENCE].reindex(values.index, level="seed")


def mean(values: pd.DataFrame) -> pd.DataFrame:
    """Average over the seeds: a row a method."""
    return values.groupby("method", sort=False).mean()


def half_width(values: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Half the width of the t interval of the mean over the seeds, ``t s / sqrt(n)``; NaN for one seed."""
    seeds = values.groupby("method", sort=False)
    quantile = t.ppf((1 + confidence) / 2, seeds.size() - 1)
    return seeds.sem().mul(quantile, axis=0)


def mean_rank(frame: pd.DataFrame) -> pd.Series:
    """Rank the methods by each metric, the PSNR and the SSIM of each task, and average the ranks.

    For each seed and metric the best of the methods has rank 1, and methods that are level share the mean of their
    ranks; these are averaged over the metrics, and then over the seeds. The mean rank of a method depends on the
    methods that it is compared with.
    """
    ranks = frame.groupby("seed").rank(ascending=False, na_option="bottom")
    return ranks.mean(axis=1).groupby("method", sort=False).mean()
