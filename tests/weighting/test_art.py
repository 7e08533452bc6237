"""Art by hand, its continuity, and what it remembers."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from art_optim import Art, TaskReweightedOptimizer

from .cases import run


def drive(weighting, steps, tasks):
    """Pass losses of given values through ``optimizer.step``: [T, K] weights, and the state before each step."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([parameter], lr=0.0), tasks=tasks, weighting=weighting)
    weights, states = [], []
    for losses in steps:
        states.append({name: tensor.clone() for name, tensor in optimizer.task_state.tensors.items()})
        optimizer.step({task: parameter + loss for task, loss in zip(tasks, losses, strict=True) if loss is not None})
        weights.append(torch.stack([optimizer.weights[task] for task in tasks]))
    return torch.stack(weights).double(), states


def priorities(history, losses):
    """The priorities s r of one step after a history of equal length a task, read off temperature 1 weights."""
    weights, states = drive(Art(temperature=1.0), [*history, losses], [str(task) for task in range(len(losses))])
    # the last task stays at one loss and so has priority 1, which gives the scale
    return (weights[-1].log() - weights[-1, -1].log() + 1).tolist(), states


@pytest.mark.parametrize(
    ("before", "loss", "expected"),
    [
        (0.2, 0.1, 0.5 * math.log(0.2) / math.log(0.1)),  # the authors' quotient up to 1/e
        (0.2, 0.3, 1.5 * math.log(0.2) / math.log(0.3)),
        (0.2, math.exp(-1), 5 / math.e * -math.log(0.2)),  # at 1/e both agree
        (0.2, 0.5, 2.5 * (1 + math.log(2.5))),  # 1 + log(L / M) beyond, whatever M is
        (0.5, 1.0, 2 * (1 + math.log(2))),
        (0.5, 1.5, 3 * (1 + math.log(3))),
        (2.0, 0.5, 0.0),  # 1 + log(1/4) is negative
        (1.2, 0.9, 0.75 * (1 + math.log(0.75))),
        (2.0, 0.3, 0.0),
        (2.0, 1.5, 0.75 * (1 + math.log(0.75))),
        (20.0, 22.0, 1.1 * (1 + math.log(1.1))),  # depends on the ratio alone: the same at 20 as at 2
        (2.0, 2.2, 1.1 * (1 + math.log(1.1))),
        (0.1, 0.999, 10.0),  # 9.99 * 3.3, clamped
        (1e-30, 1e-30, 1.0),
        (0.5, 1e-18, 0.0),
        (0.5, 1e-19, 1.0),  # neutral
        (0.5, 1e19, 1.0),
        (0.5, 0.0, 1.0),
        (0.4, 0.0, 1.0),
        (0.4, -0.2, 1.0),
        (0.5, -0.2, 1.0),
    ],
)
def test_the_priority_is_the_documented_one(before, loss, expected):
    (priority, _), _ = priorities([(before, 0.3)], (loss, 0.3))
    assert priority == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("loss", [0.0, -0.2, math.nan, math.inf])
def test_an_unusable_loss_leaves_the_state_alone(loss):
    _, states = drive(Art(), [(0.5, 0.3), (loss, 0.4), (0.5, 0.3)], ["a", "b"])
    for name in ("smoothed", "minimum"):
        assert states[1][name][0] == states[2][name][0] == 0.5
    weights, states = drive(Art(), [(loss, 0.3), (0.5, 0.3)], ["a", "b"])
    assert states[1]["smoothed"].tolist() == pytest.approx([math.nan, 0.3], nan_ok=True)
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("losses", [(0.9, 0.05, 3.0), (7.3, 7.3, 5.1), (1e-30, 1.0, 1e30)])
def test_the_first_weights_are_uniform(losses):
    weights, _ = drive(Art(temperature=1.0), [losses], ["a", "b", "c"])
    assert len(set(weights[0].tolist())) == 1


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"temperature": 1e-39}, "temperature is 1e-39"),
        ({"max_priority": 0}, "max_priority is 0"),
        ({"max_priority": math.inf}, "max_priority is inf"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"max_priority": math.nan}, "max_priority is nan"),
        ({"normalize": "max"}, "normalize is 'max'; choose one of published, mean, sum"),
    ],
)
def test_a_hyperparameter_outside_its_range_is_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        Art(**hyperparameters)


EXPONENT = st.floats(-6, 6, width=32)


@settings(deadline=None, max_examples=300)
@given(minimum=EXPONENT, loss=EXPONENT)
def test_the_priority_has_no_jump(minimum, loss):
    """Where 0 < s r < 10, its slopes in log L and log M are at most 20: s r, plus s times that of r."""
    step = 1e-3
    points = [[minimum, loss - step], [minimum, loss + step], [minimum - step, loss - step]]
    points = torch.tensor(points, dtype=torch.float64).exp().float()
    losses = torch.stack([points.T, torch.full_like(points.T, 0.3)], -1)  # [steps, points, tasks]
    logits = torch.stack([run(Art(temperature=1.0), each, [None, None])[0][-1].log() for each in losses.unbind(1)])
    priority = logits[:, 0] - logits[:, 1] + 1  # the second task's is 1
    assert (priority[1:] - priority[0]).abs().max() <= 50 * step


@pytest.mark.parametrize("loss", [1e-30, 0.01, math.exp(-1), 0.7, 1.0, 3.0, 1e30])
def test_a_task_at_its_minimum_has_exactly_its_rate(loss):
    losses = torch.tensor([[loss, 0.3], [loss, 0.3]])
    weights, _ = run(Art(), losses, [None, None])
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_the_minimum_never_forgets_a_lucky_batch():
    """The figure of the docstring: one loss of 1e-6 among losses of 0.1."""
    losses = torch.full((4901, 2), 0.1)
    losses[0, 0] = 1e-6
    weights, _ = run(Art(), losses, [None] * len(losses))
    assert weights[-1].tolist() == pytest.approx([0.841, 0.159], abs=5e-4)
