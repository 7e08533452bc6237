"""The exact solutions solve the equations that the networks are held to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.problems.pinn import Burgers, Helmholtz

PROBLEMS = pytest.mark.parametrize("problem", [Helmholtz(), Burgers()], ids=["helmholtz", "burgers"])


class Exact(nn.Module):
    def __init__(self, problem):
        super().__init__()
        self.problem, self.scale = problem, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, points):
        return self.scale * self.problem.solution(points)


def points(problem, seed=0):
    return {task: of.double() for task, of in problem.points(torch.Generator().manual_seed(seed)).items()}


@PROBLEMS
def test_the_solution_has_no_residual_and_meets_the_conditions(problem):
    drawn = points(problem)
    inside = drawn.pop("residual")
    residual = problem.residual(Exact(problem), inside.requires_grad_())
    assert residual.shape == inside.shape[:1]
    assert residual.abs().max() < 1e-9
    for of in drawn.values():
        torch.testing.assert_close(problem.condition(of), problem.solution(of), rtol=0, atol=1e-6)


@PROBLEMS
def test_the_solution_has_no_error_and_another_has_one(problem):
    class Wrong(Exact):
        def forward(self, points):
            return 1.1 * super().forward(points.double())

    assert problem.evaluate(Wrong(problem), "test")["relative L2"] == pytest.approx(0.1, rel=1e-5)


@PROBLEMS
def test_a_term_that_is_left_out_is_a_residual(problem):
    inside = points(problem)["residual"].requires_grad_()

    class Shifted(Exact):
        def forward(self, points):
            return super().forward(points) + 0.1 * points[:, 0] ** 2

    assert problem.residual(Shifted(problem), inside).abs().max() > 0.01


@PROBLEMS
def test_points_are_where_they_belong(problem):
    drawn = points(problem, seed=4)
    assert {*drawn} == {*problem.tasks}
    lower = torch.tensor(problem.lower, dtype=torch.float64)
    for of in drawn.values():
        assert (of >= lower).all()
        assert (of <= 1).all()
    sides = (drawn["boundary"] == lower) | (drawn["boundary"] == 1)
    assert sides[:, 1].any()
    assert (sides.any(1) if isinstance(problem, Helmholtz) else sides[:, 1]).all()
    if "initial" in drawn:
        assert (drawn["initial"][:, 0] == 0).all()


@PROBLEMS
def test_no_point_is_held_out_twice(problem):
    validation, test = ({tuple(point) for point in problem.grid(split).tolist()} for split in ("validation", "test"))
    assert not validation & test
    assert len(validation) + len(test) == 201**2


def test_the_front_of_burgers_is_steep_and_odd():
    solution = Burgers().solution
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    late = solution(torch.stack([torch.full_like(x, 0.99), x], 1))
    torch.testing.assert_close(late, -late.flip(0), rtol=0, atol=1e-12)
    assert late.diff().abs().max() > 0.35  # of a grid of 1 / 200
    slope = solution(torch.tensor([[0.5105, 1e-6], [0.5105, -1e-6]], dtype=torch.float64)).diff() / -2e-6
    assert slope.item() == pytest.approx(-152.0, abs=1.0)  # the steepest, Basdevant et al., 1986
