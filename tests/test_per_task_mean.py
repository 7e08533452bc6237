"""The means of a batch by task, where each sample has one task, and where it has a label for some."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss, smooth_l1_loss

from art_optim import TaskReweightedOptimizer, per_task_mean

from .conftest import TASKS
from .test_optimizer import identical, parameters_of

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


# --- A label matrix ----------------------------------------------------------------------------------------------

matrices = st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(0, 2**30 - 1), st.integers(0, 2**31))


def matrix_of(drawn, dtype=torch.float32):
    """Losses [B, K], and a mask [B, K] of any labels."""
    samples, tasks, bits, seed = drawn
    mask = torch.tensor([bool(bits >> i & 1) for i in range(samples * tasks)], dtype=torch.bool)
    losses = torch.rand(samples, tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return losses.to(dtype), mask.reshape(samples, tasks)


@settings(deadline=None)
@given(
    drawn=matrices,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    missing=st.sampled_from([0.5, math.nan, math.inf, -math.inf]),
    how=st.sampled_from(["mask", "nan"]),
)
def test_the_mean_of_a_column_is_that_over_its_labels(drawn, dtype, missing, how):
    losses, mask = matrix_of(drawn, dtype)
    if how == "nan":
        missing = math.nan
    given = torch.where(mask, losses, missing).requires_grad_()
    result = per_task_mean(given, mask=mask) if how == "mask" else per_task_mean(given)
    assert result.values.dtype == result.counts.dtype == torch.promote_types(dtype, torch.float32)
    assert result.counts.tolist() == mask.sum(0).tolist()
    assert result.present.tolist() == mask.any(0).tolist()
    for task in range(losses.shape[1]):
        own = losses[mask[:, task], task].to(result.values.dtype)
        torch.testing.assert_close(result.values[task], own.mean() if len(own) else own.new_zeros(()))
    result.values.sum().backward()
    assert given.grad.dtype == dtype
    number = mask.sum(0).clamp(min=1)
    torch.testing.assert_close(given.grad, torch.where(mask, 1 / number, 0.0).to(dtype))
    assert not given.grad[~mask].any()


@settings(deadline=None)
@given(drawn=matrices)
def test_the_two_forms_agree_where_each_sample_has_one_label(drawn):
    losses, mask = matrix_of(drawn)
    samples, tasks = mask.nonzero(as_tuple=True)
    matrix, mixed = per_task_mean(losses, mask=mask), per_task_mean(losses[samples, tasks], tasks, losses.shape[1])
    torch.testing.assert_close(matrix.values, mixed.values)
    assert torch.equal(matrix.counts, mixed.counts)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def labels_of(step):
    """[8, 3] labels in {0, 1}, of which some are missing; those of one task are, in every third step."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 2, (8, 3), generator=generator).double()
    missing = torch.rand(8, 3, generator=generator) < 0.4
    missing[:, 1] |= step % 3 == 2
    return torch.randn(8, 5, generator=generator, dtype=torch.float64), labels.masked_fill(missing, math.nan)


@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, l1_loss, mse_loss, smooth_l1_loss])
@pytest.mark.parametrize("weighting", ["art", "uncertainty", "gradnorm"])
def test_missing_labels_reach_neither_total_nor_parameters(weighting, loss):
    """Where they are filled before the loss; the run is that of named losses, each a mean over the labels there are."""
    by_matrix, by_name = network(), network()
    optimizers = [
        TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), TASKS, weighting)
        for model in (by_matrix, by_name)
    ]
    for step in range(6):
        x, labels = labels_of(step)
        mask = ~labels.isnan()
        losses = loss(by_matrix(x), labels.nan_to_num(), reduction="none")
        optimizers[0].zero_grad()
        total = optimizers[0].step(per_task_mean(losses, mask=mask))
        output = by_name(x)
        named = {
            name: loss(output[mask[:, task], task], labels[mask[:, task], task])
            for task, name in enumerate(TASKS)
            if mask[:, task].any()
        }
        optimizers[1].zero_grad()
        torch.testing.assert_close(total, optimizers[1].step(named))
    torch.testing.assert_close(parameters_of(by_matrix), parameters_of(by_name))
    assert all(parameter.isfinite().all() for parameter in by_matrix.parameters())


def test_a_missing_label_must_be_filled_before_its_loss_is_computed():
    """Else the derivative of its loss is NaN, and zero times NaN is NaN, though the total is finite."""
    model = network()
    x, labels = labels_of(0)
    result = per_task_mean(mse_loss(model(x), labels, reduction="none"))
    assert result.values.isfinite().all()
    result.values.sum().backward()
    assert model[0].weight.grad.isnan().any()


def test_a_mask_leaves_a_nan_of_the_network_to_its_task():
    losses = torch.tensor([[0.5, math.nan, 0.1], [0.1, 0.2, 0.3]])
    values = per_task_mean(losses, mask=torch.ones(2, 3, dtype=torch.bool)).values
    assert values.isnan().tolist() == [False, True, False]


def test_a_matrix_without_labels_trains_nothing():
    model = network()
    start = parameters_of(model)
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), TASKS)
    losses = mse_loss(model(torch.ones(4, 5).double()), torch.zeros(4, 3).double(), reduction="none")
    assert optimizer.step(per_task_mean(losses, mask=torch.zeros(4, 3, dtype=torch.bool))) == 0
    assert identical(start, parameters_of(model))


@pytest.mark.parametrize("masked", [True, False])
def test_the_means_of_a_matrix_never_read_back(masked):
    losses = torch.rand(6, 3, device="meta", requires_grad=True)
    mask = torch.ones(6, 3, dtype=torch.bool, device="meta") if masked else None
    per_task_mean(losses, mask=mask).values.backward(torch.ones(3, device="meta"))
    assert losses.grad.shape == (6, 3)


@pytest.mark.parametrize("masked", [True, False])
def test_the_means_of_a_matrix_compile_as_one_graph(masked):
    losses, mask = matrix_of((6, 3, 0b101101101111010101, 1))
    losses = losses.where(mask, math.nan)

    def means(losses, mask):
        result = per_task_mean(losses, mask=mask)
        return result.values, result.counts

    arguments = (losses, mask if masked else None)
    compiled = torch.compile(means, fullgraph=True, backend="eager")(*arguments)
    assert identical(compiled, means(*arguments))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.rand(4),), {}, ValueError, r"shape \(4,\); without task_ids and num_tasks, .* give these two where"),
        ((torch.rand(4, 3, 2),), {}, ValueError, r"shape \(4, 3, 2\); .* e\.g\. with \.flatten\(2\)\.mean\(2\)"),
        ((torch.ones(4, 3, dtype=torch.int64),), {}, ValueError, "losses is torch.int64 of shape"),
        ((torch.rand(4, 3),), {"mask": torch.ones(4, 3)}, ValueError, r"mask is torch.float32 .* e\.g\. mask\.bool"),
        ((torch.rand(4, 3),), {"mask": torch.ones(4, 1) > 0}, ValueError, r"of shape \(4, 1\) .* give one bool a loss"),
        ((torch.rand(4, 3),), {"mask": torch.ones(4, 3, device="meta") > 0}, ValueError, "move them to one device"),
        (([[0.1]],), {}, TypeError, "losses is a list and mask a NoneType; give tensors"),
        ((torch.rand(1, 1),), {"mask": [[True]]}, TypeError, "losses is a Tensor and mask a list; give tensors"),
        ((torch.rand(2), torch.tensor([0, 1])), {}, TypeError, "num_tasks is None; give the number of tasks"),
        ((torch.rand(2),), {"num_tasks": 2}, TypeError, "losses is a Tensor and task_ids a NoneType; give tensors"),
        (
            (torch.rand(2), torch.tensor([0, 1]), 2),
            {"mask": torch.ones(2) > 0},
            ValueError,
            "mask is given with task_ids or num_tasks; give either",
        ),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        per_task_mean(*arguments, **options)
