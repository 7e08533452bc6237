"""What a few seeds say of a number: its mean and the 95% t interval, written with as many digits as that has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import t


@dataclass(frozen=True)
class Estimate:
    """The mean over the seeds, and half the width of its 95% t interval (NaN for one seed)."""

    mean: float
    half_width: float
    seeds: tuple[int, ...]

    @property
    def digits(self) -> int:
        """How many decimals the interval leaves: those of two significant digits of its half width; 2 without one."""
        if not math.isfinite(self.half_width) or self.half_width == 0:
            return 2
        return min(max(1 - math.floor(math.log10(self.half_width)), 0), 3)

    def rounded(self, sign: bool = False) -> str:
        """Write the mean alone, to the interval's precision."""
        return "-" if math.isnan(self.mean) else f"{self.mean:{'+' if sign else ''}.{self.digits}f}"

    def text(self, sign: bool = False) -> str:
        """Write the mean and the interval.

        Example:
            >>> Estimate(24.7312, 0.1234, (0, 1, 2)).text(), Estimate(0.5, math.nan, (0,)).text(sign=True)
            ('24.73 ± 0.12', '+0.50 (one seed)')
        """
        if math.isnan(self.mean):
            return "-"
        interval = "(one seed)" if math.isnan(self.half_width) else f"± {self.half_width:.{self.digits}f}"
        return f"{self.rounded(sign)} {interval}"

    def record(self) -> dict[str, Any]:
        """Return it for JSON, with None for NaN."""
        mean, half_width = (None if math.isnan(value) else value for value in (self.mean, self.half_width))
        return {"mean": mean, "half_width": half_width, "seeds": list(self.seeds)}


def estimate(values: pd.Series) -> Estimate:
    """Estimate the mean of values whose index is the seed; seeds without a value are left out."""
    values = values.dropna()
    if values.empty:
        return Estimate(math.nan, math.nan, ())
    half_width = t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), float(half_width), tuple(sorted(values.index)))
