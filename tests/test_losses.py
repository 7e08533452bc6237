from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.overrides import TorchFunctionMode

from art_optim import TaskLosses, per_task_mean

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


batches = st.lists(st.tuples(st.floats(0, 10, width=32), st.integers(0, 4)), max_size=20)


@settings(deadline=None)
@given(batch=batches)
def test_per_task_mean_is_the_mean_of_each_task(batch):
    losses = torch.tensor([value for value, _ in batch], dtype=torch.float32)
    task_ids = torch.tensor([task for _, task in batch], dtype=torch.int64)
    result = per_task_mean(losses, task_ids, num_tasks=5)
    for task in range(5):
        own = losses[task_ids == task]
        assert result.counts[task] == len(own)
        assert result.present[task] == (len(own) > 0)
        torch.testing.assert_close(result.values[task], own.mean() if len(own) else torch.zeros(()))


def test_per_task_mean_has_the_gradients_of_the_masked_means():
    """A network trained on the mixed batch is the network trained on a dict of one mean a task."""
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x, target = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    task_ids = torch.tensor([0, 2, 2, 0, 2, 2, 0, 2, 4, 4, 0, 2])  # 1 and 3 are absent
    weights = torch.tensor([0.5, 0.1, 0.2, 0.7, 0.3], dtype=torch.float64)

    def gradients(make):
        model.zero_grad()
        make((model(x).squeeze(1) - target).abs()).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    mixed = gradients(lambda losses: (per_task_mean(losses, task_ids, 5).values * weights).sum())
    masked = gradients(lambda losses: sum(weights[task] * losses[task_ids == task].mean() for task in (0, 2, 4)))
    torch.testing.assert_close(mixed, masked, rtol=1e-12, atol=1e-14)


def test_per_task_mean_confines_a_nan_to_its_task():
    result = per_task_mean(torch.tensor([0.5, float("nan"), 0.1]), torch.tensor([0, 1, 0]), 3)
    assert result.values[[0, 2]].tolist() == pytest.approx([0.3, 0.0])
    assert result.values[1].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_per_task_mean_averages_low_precision_in_float32(dtype):
    losses = torch.full((3000,), 0.1, dtype=dtype, requires_grad=True)
    result = per_task_mean(losses, torch.zeros(3000, dtype=torch.int32), 1)
    assert result.values.dtype == torch.float32
    torch.testing.assert_close(result.values[0], losses[0].detach().float(), rtol=1e-5, atol=0)
    result.values.sum().backward()
    assert losses.grad.dtype == dtype


def test_per_task_mean_never_reads_back():
    losses = torch.rand(6, device="meta", requires_grad=True)
    result = per_task_mean(losses, torch.zeros(6, dtype=torch.int64, device="meta"), 3)
    result.values.backward(torch.ones(3, device="meta"))
    assert losses.grad.shape == (6,)


@pytest.mark.parametrize(
    ("losses", "task_ids", "error", "message"),
    [
        (torch.rand(4, 2), torch.zeros(4, dtype=torch.int64), ValueError, "one floating-point number a sample"),
        (torch.ones(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), ValueError, "losses is torch.int64"),
        (torch.rand(4), torch.zeros(3, dtype=torch.int64), ValueError, "beside 4 losses"),
        (torch.rand(4), torch.zeros(4), ValueError, "task_ids is torch.float32"),
        (torch.rand(4), torch.zeros(4, dtype=torch.int64, device="meta"), ValueError, "move them to one device"),
        ([0.1, 0.2], torch.tensor([0, 1]), TypeError, "losses is a list and task_ids a Tensor; give tensors"),
        (torch.rand(2), [0, 1], TypeError, "losses is a Tensor and task_ids a list; give tensors"),
        (torch.rand(2), torch.tensor([0, 3]), IndexError, "index out of range"),
    ],
)
def test_per_task_mean_refuses_what_does_not_fit(losses, task_ids, error, message):
    with pytest.raises(error, match=message):
        per_task_mean(losses, task_ids, 3)
