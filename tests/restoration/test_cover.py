"""The cover: every network in every setting, killed and resumed, in few steps; and what it says when one fails.

Left to the command, outside these tests: 20 steps, and all combinations.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from itertools import combinations, product

import numpy as np
import pytest
import torch

from benchmarks.restoration import bitwise, covering
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.commands import cover as command
from benchmarks.restoration.pairwise import every, pairwise

STEPS = 5
QUICK = {"model": "srresnet", "setting": "rain-haze-snow", "schedule": "mixed", "weighting": "art"}
OTHER = {**QUICK, "model": "global-srresnet"}
BAD = {**QUICK, "weighting": "nix"}


@pytest.mark.parametrize(
    "factors",
    [
        covering.FACTORS,
        {"a": "12", "b": "12", "c": "12", "d": "12", "e": "12"},
        {"a": "123", "b": "1", "c": "12345", "d": "12", "e": "1234"},
    ],
    ids=["the suite's", "of two", "uneven"],
)
def test_every_pair_of_values_is_in_a_combination(factors):
    chosen = pairwise(factors)
    assert all(each.keys() == factors.keys() for each in chosen)
    for one, other in combinations(factors, 2):
        assert {(each[one], each[other]) for each in chosen} == set(product(factors[one], factors[other]))
    assert len(chosen) < len(every(factors)) / 2


def test_the_suite_is_covered_by_as_few_combinations_as_can_be():
    assert len(pairwise(covering.FACTORS)) == len(covering.FACTORS["model"]) * len(covering.FACTORS["setting"])
    assert len(every(covering.FACTORS)) == 144


def test_all_networks_and_settings_train_resume_evaluate_restore_and_report(tmp_path, capsys):
    status = main(["cover", "--steps", str(STEPS), "--output", str(tmp_path)])
    told = capsys.readouterr()
    assert status == 0, told.err
    found = json.loads((tmp_path / covering.RESULTS).read_text())["combinations"]
    assert sorted(found) == sorted(map(covering.name, pairwise(covering.FACTORS)))
    assert all(result["kill_at"] <= result["killed_after"] < STEPS for result in found.values())
    assert "all 36 combinations passed" in told.out
    assert "| airnet " in (tmp_path / command.TABLE).read_text()
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())["runs"]) == len(found)


def test_a_failure_is_told_and_tried_again_and_what_passed_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "pairwise", lambda factors: [QUICK, BAD])
    given = ["cover", "--steps", str(STEPS), "--jobs", "1", "--output", str(tmp_path)]
    checkpoint = tmp_path / "runs" / covering.name(QUICK) / "checkpoint.pt"
    times = []
    for _ in range(2):
        assert main(given) == 1
        error = capsys.readouterr().err
        assert f"{covering.name(BAD)}: a command ended with status 2: train: weighting 'nix' is not known" in error
        assert covering.name(QUICK) not in error
        times.append(checkpoint.stat().st_mtime_ns)
    assert times[0] == times[1]


def test_a_resumed_run_that_differs_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(covering, "differing", lambda one, other: ["checkpoint.pt/step"])
    (result,) = covering.cover([QUICK], tmp_path, steps=STEPS).values()
    assert result["failure"] == "the resumed run differs in checkpoint.pt/step"
    monkeypatch.undo()
    (result,) = covering.cover([QUICK], tmp_path, steps=STEPS).values()
    assert result["failure"] is None


def test_an_interrupt_leaves_no_processes_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "pairwise", lambda factors: [QUICK, OTHER])
    saved = covering._saved
    others = {*multiprocessing.active_children()}  # such as joblib's, which wait for more work

    def interrupt(run):
        if saved(run):
            assert len({*multiprocessing.active_children()} - others) == 2
            os.kill(os.getpid(), signal.SIGTERM)
        return saved(run)

    monkeypatch.setattr(covering, "_saved", interrupt)
    given = ["cover", "--steps", str(STEPS), "--output", str(tmp_path)]
    assert main(given) == 130
    assert {*multiprocessing.active_children()} <= others
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(covering, "_saved", saved)
    assert main(given) == 0


@pytest.mark.parametrize(
    ("options", "file", "message"),
    [
        (["--steps", "1"], covering.RESULTS, "steps are 1; a run must have 2"),
        (["--jobs", "0"], covering.RESULTS, "jobs are 0; there must be 1"),
        (["--steps", "8"], covering.RESULTS, "another cover: steps is 5 there and 8 here"),
        (["--steps", "5"], "notes", "other files"),
    ],
)
def test_what_cannot_be_covered_is_refused_before_anything_starts(tmp_path, capsys, options, file, message):
    (tmp_path / file).write_text(json.dumps({"steps": STEPS, "seed": 0, "combinations": {}}))
    assert main(["cover", *options, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("one", "other", "places"),
    [
        ({"a": torch.ones(2), "b": [1, {"c": None}]}, {"a": torch.ones(2), "b": [1, {"c": None}]}, []),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), []),
        ({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.float64)}, ["a"]),
        ({"a": torch.ones(2)}, {"a": torch.ones(2, 1)}, ["a"]),
        ({"a": {"b": torch.ones(1)}}, {"a": {"b": torch.ones(1).nextafter(torch.zeros(1))}}, ["a/b"]),
        ({"a": np.zeros(2)}, {"a": -np.zeros(2)}, ["a"]),
        ({"a": 1, "b": 2}, {"a": 1}, ["b"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": torch.tensor(1, dtype=torch.bfloat16)}, {"a": torch.tensor(2, dtype=torch.bfloat16)}, ["a"]),
    ],
)
def test_differences_are_found_in_any_bit(one, other, places):
    assert bitwise.differences(one, other) == places
