"""The command line of the comparison, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from benchmarks.compare import __main__ as command
from benchmarks.compare import report, tuning

from . import problems

STEPS = 4
ALL = ["equal", "art", "fixed-at:art", "uncertainty", "torchjd.UW"]


@pytest.fixture
def main(tmp_path):
    def main(*arguments):
        given = ["--steps", str(STEPS), "--jobs", "1", "--output", str(tmp_path / "out"), *arguments]
        return command.main(given)

    return main


def results(tmp_path, problem="own:TwoCurves"):
    text = (tmp_path / "out" / report.slug(problem) / "results.json").read_text()
    return json.loads(text, parse_constant=pytest.fail)


def test_it_leaves_pages_results_and_pictures(main, tmp_path, capsys):
    given = ["own:TwoCurves", "own:OfA", "synthetic:num_tasks=2"]
    assert main("--problem", *given, "--methods", *ALL[1:], "--seeds", "0", "2", "5", "--tune", "none") == 0
    printed = capsys.readouterr().out
    for problem in given:
        found = results(tmp_path, problem)
        assert found["problem"] == problem
        assert found["command"].startswith("python -m benchmarks.compare --steps 4")
        assert {*found["versions"]} == {"python", "torch", "torchjd", "art_optim"}
        assert found["machine"]["threads a run"] == 1
        assert found["tuning"] is None
        assert [(run["method"], run["seed"]) for run in found["runs"]] == [(m, s) for m in ALL for s in (0, 2, 5)]
        for run in found["runs"]:
            assert run["problem"] == problem
            assert {*run["metrics"]} == {"validation", "test"}
            assert [*run["metrics"]["test"]] == [*found["metrics"]]
        folder = tmp_path / "out" / report.slug(problem)
        page = (folder / "page.md").read_text()
        assert report.table(found) in page
        assert report.table(found) in printed
        assert "Untuned: every method has its default hyperparameters and the learning rate" in page
        for picture in ("differences.png", "curves.png"):
            with Image.open(folder / picture) as image:
                assert min(image.size) > 100
    overall = (tmp_path / "out/README.md").read_text()
    every = report.read(tmp_path / "out")
    assert {of["problem"] for of in every} == {*given}
    assert report.overall(every) == overall
    assert report.summary(every) in printed
    assert "Friedman" in overall
    assert (tmp_path / "out/ranks.png").exists()


def test_the_table_by_hand(main, tmp_path):
    main("--problem", "own:TwoCurves", "--methods", "art", "--seeds", "0", "1", "--tune", "none")
    found = results(tmp_path)
    errors = {("equal", 0): 0.5, ("equal", 1): 0.7, ("art", 0): 0.4, ("art", 1): 0.62}
    for run in found["runs"]:
        error = errors[run["method"], run["seed"]]
        run["metrics"]["test"] = {"error": error, "sine error": 2 * error, "parabola error": 0.0}
    for run in found["alone"]:
        run["metrics"]["test"] = {"error": 9.0, "sine error": 1.0, "parabola error": 1.0}
    lines = report.table(found).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if not line.startswith("|:")]
    assert cells == [
        ["method", "error", "difference", "rank", "sine error", "parabola error", "Δm, tasks", "Δm, metrics"],
        ["`art`", "0.5 ± 1.4", "-0.09 ± 0.13", "1.0", "1.02", "0", "+49.0%", "-49.0%"],
        ["`equal`", "0.6 ± 1.3", "-", "2.0", "1.2", "0", "+40.0%", "-40.0%"],
    ]


def test_tuning_is_on_validation_with_seeds_of_its_own(main, tmp_path):
    assert main("--problem", "own:TwoCurves", "--methods", "stch", "--seeds", "0", "1") == 0
    found = results(tmp_path)
    assert found["tuning"] == {"trials": tuning.TRIALS, "seeds": 1}
    files = [path.name for path in (tmp_path / "out/own-TwoCurves/runs").glob("*seed-1000*")]
    assert len(files) == 2 * tuning.TRIALS
    page = (tmp_path / "out/own-TwoCurves/page.md").read_text()
    assert "Each method was tuned by 9 trials" in page
    tuned = found["tuned"]["stch"]
    assert f"`{tuned['method']}`, {tuned['learning_rate']:.2g}" in page
    assert {run["learning_rate"] for run in found["runs"] if run["method"] == "stch"} == {tuned["learning_rate"]}


def test_two_runs_of_the_same_command_give_the_same_table(main, tmp_path):
    given = ["--problem", "own:TwoCurves", "--methods", *ALL[1:], "--seeds", "0", "1", "--tune", "none"]
    tables = []
    for output in ("one", "two"):
        main(*given, "--output", str(tmp_path / output))
        tables.append(report.table(json.loads((tmp_path / output / "own-TwoCurves/results.json").read_text())))
    assert tables[0] == tables[1]


def test_a_failed_run_is_reported_and_the_others_are_compared(main, tmp_path, capsys):
    assert main("--problem", "synthetic-one-task", "--methods", "art", "torchjd.UW", "--seeds", "0", "1") == 1
    found = results(tmp_path, "synthetic-one-task")
    assert found["methods"] == ["equal", "art"]
    assert [(of["method"], of["seed"]) for of in found["failed"]] == [("torchjd.UW", 0), ("torchjd.UW", 1)]
    assert "synthetic-one-task: torchjd.UW, seed 1, failed: ValueError: a task is absent" in capsys.readouterr().out
    assert "- `torchjd.UW`, seed 0, failed: ValueError" in (tmp_path / "out/synthetic-one-task/page.md").read_text()


def test_an_interrupt_says_how_to_go_on(main, steps, capsys):
    steps.last = 2
    assert main("--problem", "own:TwoCurves", "--methods", "equal", "--tune", "none") == 130
    assert "the same command goes on" in capsys.readouterr().out
    steps.last = None
    assert main("--problem", "own:TwoCurves", "--methods", "equal", "--tune", "none", "--seeds", "0") == 0


def test_a_comparison_that_is_killed_five_times_gives_the_same_table(tmp_path):
    (tmp_path / "my_problem.py").write_text(problems.template())
    given = ["--problem", "my_problem:TwoCurves", "--methods", "art", "fixed-at:art", "--seeds", "0", "1", "2"]
    arguments = [sys.executable, "-m", "benchmarks.compare", *given, "--tune", "none", "--steps", "150", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(problems.ROOT), "OMP_NUM_THREADS": "1"}

    def start(output):
        command = [*arguments, "--output", output]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    assert start("straight").wait(120) == 0
    folder = tmp_path / "killed/my_problem-TwoCurves/runs"
    for finished in range(5):
        process = start("killed")
        while process.poll() is None and len([*folder.glob("*.json")]) <= 2 * finished:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed").wait(120) == 0
    tables = [
        report.table(json.loads((tmp_path / output / "my_problem-TwoCurves/results.json").read_text()))
        for output in ("straight", "killed")
    ]
    assert tables[0] == tables[1]


def test_quick_is_a_default_that_gives_way():
    quick = command._parse(["--quick", "--problem", "vae"]).comparisons[0]
    assert [*quick.parsed] == command.QUICK["methods"]
    assert (quick.seeds, quick.steps, quick.tuning_seeds) == ([0, 1, 2], quick.problem.steps // 5, 0)
    other = command._parse(["--methods", "art", "--quick", "--seeds", "5", "--tune", "grid"]).comparisons[0]
    assert [*other.parsed] == ["equal", "art"]
    assert (other.seeds, other.tuning_seeds) == ([5], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "nothing"], "method 'nothing' is not known; choose from art, "),
        (["--methods", "fixed"], "weighting 'fixed' has no weights; write them as in fixed:rain=0.2,haze=0.8"),
        (["--methods", "fixed-at:fixed:a=1"], "method 'fixed-at:fixed:a=1' averages fixed weights"),
        (["--methods", "fixed-at:fixed-at:art"], "averages fixed weights; name a method whose weights move"),
        (["--methods", "art@0"], "method 'art@0' has the interval '0'; write a positive number, as in art@8"),
        (["--methods", "authors@3"], "is a plain loop, which weighs in every step; leave out @3"),
        (["--methods", "art:tau=1"], "has no hyperparameter 'tau'; art takes "),
        (["--problem", "nothing"], "problem 'nothing' is not known; choose one of restoration, "),
        (["--problem", "nothing:Mine"], "No module named 'nothing'; give module:Class"),
        (["--problem", "json:JSONDecoder"], "is no class of problems; derive it from benchmarks.problems.Problem"),
        (["--problem", "synthetic:tasks=3"], "unexpected keyword argument 'tasks'"),
        (["--problem", "synthetic:num_tasks=1"], "num_tasks is 1; a problem of several tasks has at least 2"),
        (["--steps", "0"], "argument --steps: '0' is refused; give a whole number, at least 1"),
        (["--jobs", "0"], "argument --jobs: '0' is refused; give a whole number, at least 1"),
        (["--seeds", "1", "-2"], "give whole numbers from 0 to 999"),
        (["--seeds", "1000"], "give whole numbers from 0 to 999"),
    ],
)
def test_what_cannot_be_compared_is_refused(main, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main("--problem", "synthetic", *arguments)
    assert message in " ".join(re.sub(r"\s+", " ", capsys.readouterr().err).split())
    assert not (tmp_path / "out").exists()
