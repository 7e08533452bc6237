"""The toy problem: its formulas against numbers worked out by hand, its criterion, what the script leaves behind."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from rich.console import Console

from art_optim.weighting import available
from benchmarks import toy

ABOVE = math.tanh(1)  # of x2 = 2; the parabolas count for nothing there, and below 0 the wells
SHORT = ["--steps", "20", "--jobs", "1", "--methods", "equal", "art-shifted"]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0, 0), (0.0, 0.0)),
        ((7, -8), (-20 * math.tanh(4), (14**2 / 10 - 20) * math.tanh(4))),
        ((-7, -18), ((14**2 / 10 + 1 - 20) * math.tanh(9), (1 - 20) * math.tanh(9))),
        ((-7, 2), (ABOVE * (math.log(math.tanh(2)) + 6), ABOVE * (math.log(7 - math.tanh(2)) + 6))),
        ((3, 2), (ABOVE * (math.log(5 - math.tanh(2)) + 6), ABOVE * (math.log(2 - math.tanh(2)) + 6))),
    ],
)
def test_objectives_by_hand(point, expected):
    torch.testing.assert_close(toy.objectives(torch.tensor(point, dtype=torch.float32)), torch.tensor(expected))


def test_the_bottom_of_a_well_is_cut_off():
    bottom = torch.tensor([7 - 2 * math.tanh(2), 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        toy.objectives(bottom)[1], torch.tensor(ABOVE * (math.log(5e-6) + 6), dtype=torch.float64)
    )


def test_gradients_are_finite_and_move_every_start():
    starts = torch.tensor(toy.STARTS, requires_grad=True)
    for objective in toy.objectives(starts).unbind(-1):
        (gradient,) = torch.autograd.grad(objective.sum(), starts, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).any(-1).all()


def test_the_bounds_are_below_every_loss():
    axis = torch.linspace(-12, 12, 400)
    losses = toy.objectives(torch.cartesian_prod(axis, axis)) * torch.tensor(toy.SCALES)
    assert (losses > torch.tensor(toy.BOUNDS)).all()
    assert (losses.amin(0) < 0).all()


@pytest.mark.parametrize(
    ("point", "reached"),
    [
        ((0, -8.3552), True),
        ((7.04, -8.44), True),
        ((-7.04, -8.21), True),
        ((7.06, -8.3552), False),
        ((0, -8.2), False),
        ((0, -8.51), False),
        ((math.nan, -8.3552), False),
    ],
)
def test_on_front(point, reached):
    assert toy.on_front(torch.tensor(point)) == reached


def test_gradients_are_opposed_in_the_middle_of_the_front():
    middle = torch.tensor([0, toy.FRONT], requires_grad=True)
    first, second = (torch.autograd.grad(f, middle, retain_graph=True)[0] for f in toy.objectives(middle))
    torch.testing.assert_close(first, -second, atol=1e-4, rtol=0)


def test_every_weighting_is_there_but_the_one_that_needs_weights():
    assert {*available()} - {"fixed"} <= {name.removesuffix("-shifted") for name in toy.METHODS}
    for name in {*toy.METHODS} - {*toy.OUT_OF_PLACE}:
        assert name.endswith("-shifted") == ("positive losses" in toy.weighting(name).needs)


@pytest.mark.parametrize("name", [name for name in toy.METHODS if name.removesuffix("-shifted") in available()])
def test_every_method_descends(name):
    points = toy.descend(name, (0.0, -1.0), steps=40)
    values = toy.objectives(points)
    assert points.isfinite().all()
    assert (values[-1] < values[0]).all()


@pytest.mark.parametrize(
    ("start", "steps_to_reach"), [((3.0, -8.36), 0), ((3.0, -8.5101), 5), ((3.0, 3.0), None), ((7.06, -8.36), 10)]
)
def test_when_a_run_arrives(monkeypatch, start, steps_to_reach):
    """With a method that walks in steps of a thousandth towards (0, -8.36)."""
    monkeypatch.setattr(toy, "descend", walk)
    run = toy.examine("equal", start, steps=20)
    assert run["steps_to_reach"] == steps_to_reach
    assert run["reached"] == (steps_to_reach is not None)


def walk(method, start, steps):
    start, target = torch.tensor(start), torch.tensor([0, -8.36])
    way = (target - start).sign() * torch.arange(steps + 1)[:, None] / 1000
    return start + way.clamp(min=-(start - target).abs(), max=(start - target).abs())


def test_it_leaves_a_table_results_and_a_picture(tmp_path, capsys):
    assert toy.main([*SHORT, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"].startswith("python -m benchmarks.toy --steps 20")
    for name, shifted in (("equal", False), ("art-shifted", True)):
        runs = results["runs"][name]
        assert [tuple(run["start"]) for run in runs] == [*toy.STARTS]
        assert all(run["shifted"] == shifted and run["steps"] == 20 and not run["reached"] for run in runs)
        assert all(run["end"] != run["start"] for run in runs)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[3].strip() for line in table.splitlines()[2:4]] == ["0 of 5", "0 of 5"]
    assert "run on losses less their lower bounds" in table
    with Image.open(tmp_path / "toy.png") as picture:
        assert min(picture.size) > 200


def count(monkeypatch, most=1000):
    """Count the descents, and interrupt the one after this many."""
    done = []
    descend = toy.descend

    def descend_or_interrupt(*arguments):
        if len(done) == most:
            raise KeyboardInterrupt
        done.append(arguments)
        return descend(*arguments)

    monkeypatch.setattr(toy, "descend", descend_or_interrupt)
    return done


def test_an_interrupted_comparison_goes_on(tmp_path, monkeypatch, capsys):
    command = [*SHORT, "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        count(patch, most=7)
        assert toy.main(command) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()

    done = count(monkeypatch)
    assert toy.main(command) == 0
    assert len(done) == 3
    assert toy.main(command) == 0
    assert len(done) == 3
    assert toy.main([*command, "--steps", "21"]) == 0  # other runs than those
    assert len(done) == 13


def test_processes_find_what_one_process_finds(tmp_path):
    one, two = (toy.compare(["equal"], 5, jobs, tmp_path / str(jobs), Console()) for jobs in (1, 2))
    ends = [[(run["start"], run["end"], run["path"]) for run in runs["equal"]] for runs in (one, two)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("option", ["steps", "jobs"])
def test_nothing_to_do_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        toy.main([f"--{option}", "0"])
    assert f"--{option}: '0' is refused; give a whole number, at least 1" in capsys.readouterr().err
