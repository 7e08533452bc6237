"""A study runs the commands of the suite; here a small program stands for them."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.restoration import studying
from benchmarks.restoration.studying import Method, folder, study

PROGRAM = """#!/bin/sh
shift 2
echo "$@" >> {calls}
case "$*" in *broken*) echo "no such data"; exit 2;; *slow*) trap 'exit 130' TERM; while :; do sleep 0.05; done;; esac
if [ "$1" = train ]; then
    while [ "$1" != --output ]; do shift; done
    echo '{{"finished": true}}' > "$2/run.json"
else
    echo '{{}}' > "$2/scores.json"
fi
"""


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Path:
    """The lines of arguments that the program has been given."""
    program, calls = tmp_path / "python", tmp_path / "calls"
    program.write_text(PROGRAM.format(calls=calls))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return calls


def test_every_run_is_trained_and_then_evaluated_once(tmp_path, calls):
    done: list[Path] = []
    arguments = ["srresnet"], ["equal", "art@8"], [0, 1], tmp_path / "study", ["--steps", "20"], 2
    folders = study(*arguments, done.append)
    assert folders == [
        folder(tmp_path / "study", "srresnet", method, seed) for seed in (0, 1) for method in ("equal", "art@8")
    ]
    assert sorted(done) == sorted(folders)
    lines = calls.read_text().splitlines()
    assert len(lines) == 8
    for method, seed, run in zip(("equal --interval 1", "art --interval 8") * 2, (0, 0, 1, 1), folders, strict=True):
        train = f"train --model srresnet --weighting {method} --seed {seed} --output {run} --steps 20"
        assert lines.index(train) < lines.index(f"evaluate {run}")

    done.clear()
    assert study(*arguments, done.append) == folders
    assert len(calls.read_text().splitlines()) == 8
    assert sorted(done) == sorted(folders)

    (folders[0] / "scores.json").unlink()
    study(*arguments)
    assert calls.read_text().splitlines()[8:] == [f"evaluate {folders[0]}"]


def test_average_weights_are_taken_from_finished_runs_of_the_same_seed_and_network(tmp_path, calls):
    study(["srresnet", "airnet"], ["fixed-at:art", "art"], [0, 1], tmp_path / "study", [], 2)
    lines = [line for line in calls.read_text().splitlines() if line.startswith("train")]
    assert ["fixed-at" in line.split(" --output")[0] for line in lines] == [False] * 4 + [True] * 4
    for line in lines[4:]:
        words = line.split()
        model, weighting, seed = words[2], words[4], words[8]
        assert weighting == f"fixed-at:{folder(tmp_path / 'study', model, 'art', int(seed))}"


@pytest.mark.parametrize("method", ["art@", "art@0", "art@x", "fixed-at:dwa"])
def test_a_method_that_cannot_be_run_is_refused_before_anything_starts(method, tmp_path, calls):
    with pytest.raises(ValueError, match=method):
        study(["srresnet"], ["art", method], [0], tmp_path, [], 1)
    assert not calls.exists()


def test_a_failure_ends_the_study_and_names_the_run(tmp_path, calls):
    with pytest.raises(RuntimeError, match=r"srresnet-equal-seed-0 failed; its log\.txt"):
        study(["srresnet"], ["equal", "art"], [0], tmp_path, ["broken"], 1)
    assert len(calls.read_text().splitlines()) == 1
    assert (tmp_path / "srresnet-equal-seed-0" / studying.LOG).read_text() == "no such data\n"


def test_an_interrupt_reaches_the_runs_and_starts_no_more(tmp_path, calls, monkeypatch):
    def interrupt(self: object) -> None:
        while not calls.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupt)
    others = {*threading.enumerate()}  # such as joblib's
    with pytest.raises(KeyboardInterrupt):
        study(["srresnet"], ["equal", "art"], [0], tmp_path, ["slow"], 1)
    assert len(calls.read_text().splitlines()) == 1
    assert {*threading.enumerate()} <= others


def test_a_method_is_a_weighting_with_its_interval():
    assert Method.parse("art:decay=0.9@8") == Method("art:decay=0.9", 8)
    assert Method.parse("equal") == Method("equal")
    assert Method.parse("fixed-at:art@8") == Method("", averaged="art@8")
