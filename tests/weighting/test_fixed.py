"""Constant weights, and other hyperparameters with one number a task: by name or in order."""

from __future__ import annotations

import copy
import io
import pickle
from types import MappingProxyType

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from art_optim import FAMO, FixedWeighting, TaskReweightedOptimizer
from art_optim.weighting import create

NUMBERS = {"rain": 0.25, "haze": 3.0, "noise": 0.0}
MAKERS = {"weights": FixedWeighting, "min_losses": lambda numbers: FAMO(min_losses=numbers)}
each = pytest.mark.parametrize("name", MAKERS)


def optimizer_of(weighting, tasks=None, **options):
    x = torch.nn.Parameter(torch.ones(3))
    return TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.01), tasks, weighting, **options), x


@each
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("declared", [True, False])
@settings(deadline=None, max_examples=10)
@given(order=st.permutations(list(NUMBERS)), given_order=st.permutations(list(NUMBERS)))
def test_a_mapping_is_a_sequence_in_the_order_of_the_tasks(name, interval, declared, order, given_order):
    numbers = MappingProxyType({task: NUMBERS[task] for task in given_order})
    weights = []
    for per_task in (numbers, [NUMBERS[task] for task in order]):
        optimizer, x = optimizer_of(MAKERS[name](per_task), order if declared else None, interval=interval)
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.step({task: (x * (i + 4)).sum() for i, task in enumerate(order)})
        weights.append(optimizer.weights)
    assert weights[0] == weights[1]


@each
def test_a_mapping_is_part_of_a_value(name):
    weighting, other = MAKERS[name](NUMBERS), MAKERS[name](dict(reversed(NUMBERS.items())))
    assert weighting == other
    assert hash(weighting) == hash(other)
    assert repr(weighting) == repr(other)
    assert pickle.loads(pickle.dumps(weighting)) == copy.deepcopy(weighting) == weighting
    assert weighting != MAKERS[name]({**NUMBERS, "haze": 2.0})
    numbers = dict(NUMBERS)
    weighting = MAKERS[name](numbers)
    numbers["haze"] = 7.0
    assert weighting == other


@each
@pytest.mark.parametrize("declared", [True, False])
def test_save_load_and_continue_by_name(name, declared):
    tasks = list(NUMBERS)
    first, x = optimizer_of(MAKERS[name](NUMBERS), tasks)
    first.step({task: (4 * x).sum() for task in tasks})
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second, y = optimizer_of(MAKERS[name](NUMBERS), tasks if declared else None)
    second.load_state_dict(torch.load(saved, weights_only=True))
    second.step({task: (4 * y).sum() for task in tasks})
    assert second.tasks == tuple(tasks)
    for key, tensor in second.task_state.tensors.items():
        assert tensor.shape == first.task_state.tensors[key].shape
    if name == "weights":
        assert second.weights == NUMBERS


@each
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["rain", "haze"], r"has unknown tasks \['noise'\]; the tasks are \['rain', 'haze'\]"),
        (["rain", "haze", "noise", "snow"], r"has no number for \['snow'\]"),
        (["rain", "haze", "fog"], r"has no number for \['fog'\] and has unknown tasks \['noise'\]"),
    ],
)
def test_a_mapping_of_other_tasks_is_refused_before_anything_changes(name, tasks, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        optimizer_of(MAKERS[name](NUMBERS), tasks)
    optimizer, x = optimizer_of(MAKERS[name](NUMBERS))
    with pytest.raises(ValueError, match=f"{name} {message}"):
        optimizer.step({task: x.sum() for task in tasks})
    assert optimizer.tasks == ()
    assert x.grad is None
    optimizer.step({task: x.sum() for task in NUMBERS})
    assert optimizer.tasks == tuple(NUMBERS)


@each
def test_a_sequence_of_another_length_is_refused_before_anything_changes(name):
    message = f"{name} has 3 numbers for 2 tasks; give one a task, and declare all tasks with tasks="
    with pytest.raises(ValueError, match=message):
        optimizer_of(MAKERS[name]([1, 2, 3]), ["a", "b"])
    optimizer, x = optimizer_of(MAKERS[name]([1, 2, 3]))
    with pytest.raises(ValueError, match=message):
        optimizer.step({"a": x.sum(), "b": x.sum()})
    assert optimizer.tasks == ()
    assert x.grad is None


@each
def test_a_mapping_wants_the_names_first(name):
    with pytest.raises(ValueError, match=rf"{name} is a mapping from task name to number; call for_tasks\(tasks\)"):
        MAKERS[name](NUMBERS).init(3)


@each
@pytest.mark.parametrize("numbers", ["abc", {0.5, 1.0}, {1: 0.5}, None])
def test_what_is_not_one_number_a_task_is_refused(name, numbers):
    with pytest.raises(TypeError, match=f"{name} is .*; give one number a task: a mapping from task name to number"):
        MAKERS[name](numbers)


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf"), 1e39])
def test_fixed_weights_are_finite_and_not_negative(bad):
    with pytest.raises(ValueError, match=r"weights\[1\] is .*; it must be in \[0, "):
        FixedWeighting([1.0, bad])
    with pytest.raises(ValueError, match=r"weights\['b'\] is .*; it must be in \[0, "):
        FixedWeighting({"a": 1.0, "b": bad})


def test_fixed_weights_are_what_was_given():
    weighting, present = FixedWeighting([0.25, 3]), torch.tensor([True, True])
    weights = weighting(torch.tensor([5.0, 0.1]), present, weighting.init(2))
    assert weights.tolist() == [0.25, 3.0]


def test_the_name_alone_of_a_weighting_that_needs_more_says_what_to_write():
    message = r"weighting 'fixed' needs weights; give FixedWeighting\(weights=\.\.\.\) instead"
    with pytest.raises(ValueError, match=message):
        create("fixed")
    with pytest.raises(ValueError, match=message):
        optimizer_of("fixed")
