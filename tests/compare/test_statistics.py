"""What is said of several seeds, by hand."""

from __future__ import annotations

import math
import random

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from benchmarks.compare import statistics
from benchmarks.compare.tuning import FIRST_SEED, TRIALS, best, candidates, trials
from benchmarks.problems import Metric, create


def values(**of):
    """The values of a metric: by method, one a seed."""
    columns = {(method, seed): value for method, each in of.items() for seed, value in enumerate(each)}
    return pd.Series(columns, dtype=float).rename_axis(["method", "seed"])


def test_interval_by_hand():
    found = statistics.estimates(values(equal=[20, 21, 22], art=[20, 21], famo=[20, math.nan]))
    assert found["equal"].half_width == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees of freedom, s = 1
    assert found["art"].half_width == pytest.approx(12.706205 / 2)  # s = 1 / sqrt(2)
    assert math.isnan(found["famo"].half_width)
    assert found["famo"].seeds == (0,)


def test_differences_are_paired_by_seed():
    given = values(art=[21, 25, 30], equal=[20, 24, 29]).sample(frac=1, random_state=0)
    differences = statistics.differences(given)
    assert (differences.loc["art"] == 1).all()
    assert (differences.loc["equal"] == 0).all()


def test_significance_is_holms_over_the_methods():
    of = {"equal": [1.0, 2.0, 3.0, 4.0], "a": [1.5, 2.6, 3.4, 4.5], "b": [1.2, 1.9, 3.3, 4.1], "same": [1, 2, 3, 4]}
    raw = {name: ttest_rel(of[name], of["equal"]).pvalue for name in "ab"}
    assert raw["a"] < raw["b"]
    found = statistics.significance(values(**of))
    assert found["a"] == pytest.approx(2 * raw["a"])  # of two that are tested: equal values have no test
    assert found["b"] == pytest.approx(max(2 * raw["a"], raw["b"]))
    assert math.isnan(found["same"])
    assert math.isnan(statistics.significance(values(equal=[1], a=[2]))["a"])


def test_ranks_level_what_agrees_up_to_rounding_and_put_last_what_failed():
    given = values(a=[0.1 + 0.2, 1.0], b=[0.3, 2.0], c=[0.1, math.nan], d=[0.4, 0.5])
    assert statistics.mean_ranks(given, higher=True) == {"a": 2.25, "b": 1.75, "c": 4.0, "d": 2.0}
    assert statistics.mean_ranks(given, higher=False) == {"a": 2.25, "b": 2.75, "c": 2.5, "d": 2.5}


def test_both_conventions_of_delta_m():
    metrics = {
        "all": Metric(higher=True),
        "iou": Metric(higher=True, task="segmentation"),
        "accuracy": Metric(higher=True, task="segmentation"),
        "error": Metric(higher=False, task="depth"),
    }
    alone = {"segmentation": {"iou": 0.5, "accuracy": 0.8}, "depth": {"error": 0.2}}
    of = {"all": 1.0, "iou": 0.55, "accuracy": 0.84, "error": 0.21}
    found = statistics.delta_m(metrics, of, alone)  # +10%, +5% and -5%
    assert found["tasks"] == pytest.approx((7.5 - 5) / 2)
    assert found["metrics"] == pytest.approx(-(10 + 5 - 5) / 3)
    assert statistics.delta_m({"all": Metric(True)}, {"all": 1.0}, {}) == {}
    assert statistics.delta_m(metrics, of | {"error": None}, alone) == {}
    assert statistics.delta_m(metrics, of, {}) == {}


def test_friedman_and_nemenyi_tell_the_best_from_the_worst():
    draw = random.Random(0)
    columns = {problem: {m: index + draw.random() for index, m in enumerate("abcde")} for problem in range(12)}
    p_value, pairs = statistics.friedman(statistics.ranks(pd.DataFrame(columns), higher=False))
    assert p_value < 1e-3
    assert pairs.loc["a", "e"] < 0.05 < pairs.loc["a", "b"]


def test_every_method_has_as_many_trials():
    problem = create("synthetic")
    for method in ("equal", "art", "art:temperature=1", "upgrad", "torchjd.UW", "uncertainty@3"):
        tried = candidates(method, problem)
        assert len(tried) == len({*tried}) == TRIALS
        rates = sorted({of.learning_rate for of in tried})
        assert rates[0] * 25 == pytest.approx(rates[-1], rel=1e-3)
        assert any(rate == pytest.approx(problem.learning_rate, rel=1e-3) for rate in rates)
    assert {of.method for of in candidates("uncertainty@3", problem)} == {
        "uncertainty:lr=0.0025@3",
        "uncertainty@3",
        "uncertainty:lr=0.25@3",
    }


def test_tuning_takes_the_best_on_validation_and_never_what_failed():
    problem = create("synthetic")
    tried = trials("synthetic", "art", problem, seeds=2, steps=5, device="cpu")
    assert {run.seed for runs in tried.values() for run in runs} == {FIRST_SEED, FIRST_SEED + 1}
    chosen, diverged, failed, *_ = tried

    def record(of):
        if of == failed:
            return {"error": "ValueError"}
        error = {chosen: 0.2, diverged: None}.get(of, 0.3)
        return {"metrics": {"validation": {"relative error": error}, "test": {"relative error": 0.0}}}

    assert best(problem, tried, {run: record(of) for of, runs in tried.items() for run in runs}) == chosen
