"""Every dial does what it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.problems.synthetic import Synthetic


class Silent(nn.Module):
    """Predicts 0."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs, self.weight = outputs, nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        return self.weight * inputs.new_ones(len(inputs), self.outputs)


class Teacher(Silent):
    """Predicts the labels."""

    def __init__(self, problem: Synthetic) -> None:
        super().__init__(problem.num_tasks)
        self.problem = problem

    def forward(self, inputs):
        return self.problem.labels(inputs) + self.weight


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.floats(1, 1e4))
def test_scales(num_tasks, ratio):
    problem = Synthetic(num_tasks=num_tasks, scale_ratio=ratio)
    scaled, plain = (of.losses(Silent(num_tasks), 0, 0) for of in (problem, Synthetic(num_tasks=num_tasks)))
    found = torch.stack([scaled[task] / plain[task] for task in problem.tasks]).sqrt()
    assert found[0].item() == pytest.approx(1)
    assert (found[0] / found[-1]).item() == pytest.approx(ratio, rel=1e-3)
    ratios = found[:-1] / found[1:]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-3, atol=1e-4)


def test_noise_is_in_the_labels_of_the_last_task_alone_and_not_in_held_out_data():
    problem = Synthetic(noise=0.5)
    losses = [problem.losses(Teacher(problem), 0, step) for step in range(200)]
    assert all(of[task] == 0 for of in losses for task in problem.tasks[:-1])
    error = torch.stack([of[problem.tasks[-1]] for of in losses]).mean()
    labels = problem.labels(torch.randn(4096, 16, generator=torch.Generator().manual_seed(9)))[:, -1]
    assert error.item() == pytest.approx(0.25 * labels.var().item(), rel=0.1)
    assert problem.evaluate(Teacher(problem), "test")["relative error"] == 0


@pytest.mark.parametrize("dials", [{}, {"conflict": 0.9}, {"num_tasks": 9}])
def test_what_is_held_out_is_neither_trained_on_nor_part_of_the_functions(dials):
    problem = Synthetic(**dials)
    seen = []
    network = nn.Sequential(nn.Flatten(), problem.network())
    network[0].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    for seed in (*range(10), 1000):
        for step in range(20):
            problem.losses(network, seed, step)
    trained = torch.cat(seen)
    held_out = {split: problem._held_out(split)[0] for split in ("validation", "test")}
    weights = problem.inner.flatten(0, 1)
    directions = {"weights": weights, "trained": trained, **held_out}
    names = [*directions]
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            cosines = nn.functional.normalize(directions[first]) @ nn.functional.normalize(directions[second]).T
            assert cosines.abs().max() < 0.999, (first, second)


def test_predicting_nothing_has_an_error_of_one():
    scores = Synthetic(noise=1.0, scale_ratio=10.0).evaluate(Silent(4), "validation")
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


@pytest.mark.parametrize("conflict", [0.2, 0.5, 0.9])
def test_no_function_of_the_input_fits_tasks_in_conflict(conflict):
    problem = Synthetic(conflict=conflict)

    class Mean(Teacher):
        def forward(self, inputs):
            return super().forward(inputs).mean(1, keepdim=True)

    error = problem.evaluate(Mean(problem), "test")["relative error"]
    assert error > 0.7
    assert problem.network()[-1].out_features == 1
    assert Synthetic().network()[-1].out_features == 4


def test_conflict_turns_the_labels_of_even_and_odd_tasks_against_each_other():
    labels = Synthetic(conflict=1.0).labels(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(labels[:, 0], -labels[:, 1])
    torch.testing.assert_close(labels[:, 0], labels[:, 2])


def test_a_rare_task_is_as_rare_as_it_says():
    problem = Synthetic(rare=0.1)
    steps = [problem.losses(Silent(4), 3, step) for step in range(600)]
    assert all({*problem.tasks[:-1]} <= {*of} for of in steps)
    assert sum(problem.tasks[-1] in of for of in steps) / 600 == pytest.approx(0.1, abs=0.04)


def test_batches_of_one_task_are_of_each_alike():
    problem = Synthetic(one_task=True, num_tasks=3)
    steps = [problem.losses(Silent(3), 3, step) for step in range(600)]
    assert {len(of) for of in steps} == {1}
    for task in problem.tasks:
        assert sum(task in of for of in steps) / 600 == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize(
    "given", [{"num_tasks": 1}, {"conflict": -0.1}, {"rare": 0.0}, {"rare": 1.5}, {"noise": -1.0}, {"scale_ratio": 0.5}]
)
def test_what_makes_no_sense_is_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=name):
        Synthetic(**given)
