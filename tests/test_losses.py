from __future__ import annotations

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from art_optim import TaskLosses, TaskReweightedOptimizer
from art_optim.weighting import available, create

from .conftest import MultiTask
from .test_optimizer import identical, parameters_of
from .weighting.cases import REQUIRED

TASKS = ("rain", "haze", "noise")


def loss(value: float, **kwargs) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True, **kwargs)


def test_a_mapping_becomes_a_vector_in_the_order_of_the_tasks():
    losses = TaskLosses.from_mapping({"noise": loss(0.1), "rain": loss(0.3), "haze": loss(0.2)}, TASKS)
    assert losses.values.tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert losses.present is None
    assert losses.counts is None
    assert losses.tasks == TASKS


@pytest.mark.parametrize("absent", [{}, {"haze": None}])
def test_a_missing_name_or_none_is_an_absent_task(absent):
    rain, noise = loss(0.3), loss(0.1)
    losses = TaskLosses.from_mapping({"noise": noise, "rain": rain, **absent}, TASKS)
    assert losses.values.tolist() == pytest.approx([0.3, 0.0, 0.1])
    assert losses.present.tolist() == [True, False, True]
    losses.values.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert (rain.grad, noise.grad) == (1.0, 3.0)


def test_losses_of_different_dtypes_are_promoted_and_keep_their_gradients():
    half, single, double = loss(0.5, dtype=torch.bfloat16), loss(0.25), loss(0.1, dtype=torch.float64)
    values = TaskLosses.from_mapping({"rain": half, "haze": single, "noise": double}, TASKS).values
    assert values.dtype == torch.float64
    values.backward(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert (half.grad, single.grad, double.grad) == (1.0, 2.0, 3.0)
    assert (half.grad.dtype, single.grad.dtype, double.grad.dtype) == (torch.bfloat16, torch.float32, torch.float64)


def test_a_loss_of_one_element_is_a_scalar():
    one = torch.tensor([0.3], requires_grad=True)
    assert TaskLosses.from_mapping({"rain": one}, ("rain",)).values.shape == (1,)


def test_a_sharded_loss_is_taken_whole():
    class Sharded(torch.Tensor):
        def full_tensor(self):
            return self.as_subclass(torch.Tensor) + 1

    sharded = torch.tensor(0.5).as_subclass(Sharded)
    assert TaskLosses.from_mapping({"rain": sharded}, ("rain",)).values.tolist() == [1.5]


def test_an_absent_task_needs_no_copy_between_host_and_device():
    class Copies(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            copying = (torch.tensor, torch.as_tensor, torch.Tensor.to, torch.Tensor.item, torch.Tensor.tolist)
            assert function not in copying
            return function(*args, **(kwargs or {}))

    given = loss(0.3)
    with Copies():
        TaskLosses.from_mapping({"rain": given}, TASKS)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ({"rain": torch.rand(16)}, ValueError, r"loss of task 'rain' has shape \(16,\); a task loss must be a scalar"),
        ({"rain": torch.rand(0)}, ValueError, r"loss of task 'rain' has shape \(0,\)"),
        ({"rain": 0.3}, TypeError, "loss of task 'rain' is a float; a task loss must be a tensor"),
        ({"rain": torch.tensor(3)}, ValueError, "loss of task 'rain' is torch.int64; .* floating point"),
        ({"rain": loss(0.3), "fog": loss(0.1)}, ValueError, r"losses has \['fog'\], the tasks are .*declare"),
        ({"fog": None, "rain": loss(0.3)}, ValueError, r"losses has \['fog'\]"),
        ({}, ValueError, "no loss for any of the tasks"),
        ({"rain": None}, ValueError, "no loss for any of the tasks"),
        (
            {"rain": loss(0.3), "haze": loss(0.1, device="meta")},
            ValueError,
            "loss of task 'haze' is on meta and that of 'rain' on cpu",
        ),
    ],
)
def test_bad_losses_are_refused_in_clear_words(losses, error, message):
    with pytest.raises(error, match=message):
        TaskLosses.from_mapping(losses, TASKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(()), torch.ones(())), "TaskLosses wants a floating-point vector"),
        ((torch.ones(2, dtype=torch.int64), torch.ones(2)), "TaskLosses wants a floating-point vector"),
        ((torch.rand(2), torch.ones(3)), "give one count a task"),
        ((torch.rand(2), torch.ones(2, device="meta")), "give one count a task on the same device"),
        ((torch.rand(2), torch.ones(2), ("rain",)), "tasks has 1 names for 2 values"),
    ],
)
def test_task_losses_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskLosses(*arguments)


def test_task_losses_are_tensors():
    with pytest.raises(TypeError, match="values is a list and counts a Tensor; give tensors"):
        TaskLosses([0.1, 0.2], torch.ones(2))
    with pytest.raises(TypeError, match="values is a Tensor and counts a list; give tensors"):
        TaskLosses(torch.ones(2), [1, 1])


@pytest.mark.parametrize("other", [torch.float32, None])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_loss_that_is_no_floating_point_number_is_refused_beside_any_others(dtype, other):
    losses = {task: torch.ones((), dtype=dtype if task == "haze" else other or dtype) for task in TASKS}
    with pytest.raises(ValueError, match=f"loss of task '{'haze' if other else 'rain'}' is {dtype}"):
        TaskLosses.from_mapping(losses, TASKS)


@pytest.mark.parametrize("name", ["art", "gradnorm"])
@pytest.mark.parametrize("interval", [1, 3])
def test_named_losses_that_are_stacked_before_the_step_are_those_of_the_mapping(name, interval):
    """To the state, too, which tells the tasks whose gradients have been measured."""
    found = []
    for stack in (lambda losses: losses, lambda losses: TaskLosses.from_mapping(losses, TASKS)):
        model = MultiTask()
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = TaskReweightedOptimizer(inner, TASKS, name, interval=interval)
        for step in range(5):
            losses = model.losses(step)
            optimizer.zero_grad()
            optimizer.step(stack({TASKS[step % 3]: losses[TASKS[step % 3]]}))
        found.append((parameters_of(model), optimizer.weights, optimizer.task_state.state_dict()))
    assert identical(*found)


def trained_with(absent, name, way, interval):
    """What four steps leave behind, in which the task in the middle is absent but for the first, and has this loss."""
    model = MultiTask()
    weighting = create(name, **{key: value[:3] for key, value in REQUIRED.get(name, {}).items()})
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = TaskReweightedOptimizer(inner, TASKS, weighting, interval=interval)
    optimizer.step(model.losses(0))
    totals = []
    for step in range(1, 4):
        rain, haze, noise = model.losses(step).values()
        losses = TaskLosses(torch.stack([rain, haze + absent, noise]), torch.tensor([2, 0, 1]))
        optimizer.zero_grad()
        if way == "combine":
            totals.append(optimizer.combine(losses))
            totals[-1].backward()
        else:
            totals.append(getattr(optimizer, way)(losses))
        if way != "step":
            optimizer.step()
    with torch.no_grad():
        totals.append(optimizer.combine(losses))
    state = optimizer.task_state.state_dict()
    return torch.stack(totals).detach(), parameters_of(model), optimizer.weights, optimizer.losses, state


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("way", ["step", "backward", "combine"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", available())
def test_the_value_of_an_absent_task_is_never_read(name, value, way, interval):
    """Not in the total, nor the gradient, the weights or the state."""
    found = trained_with(value, name, way, interval)
    assert found[0].isfinite().all()
    assert identical(found, trained_with(0.0, name, way, interval))
