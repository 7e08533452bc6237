"""What holds for every weighting."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from art_optim import (
    ImpartialLoss,
    TaskReweightedOptimizer,
    UncertaintyWeighting,
)

from ..test_optimizer import same
from .cases import EVERY, NUM_TASKS, run, select, start

every = pytest.mark.parametrize("weighting", EVERY, ids=repr)
STEPS = 8


@st.composite
def histories(draw, weighting):
    """Losses [T, K] over orders of magnitude and on both sides of 1, and who is present: at least one.

    The bare formula of Art is one of losses in (0, 1) alone.
    """
    largest = 2 if getattr(weighting, "guarded", True) else -0.0625
    exponents = draw(arrays("float32", (STEPS, NUM_TASKS), elements=st.floats(-4, largest, width=32)))
    present = torch.from_numpy(draw(arrays("bool", (STEPS, NUM_TASKS))))
    present[:, draw(st.integers(0, NUM_TASKS - 1))] = True
    return torch.pow(10.0, torch.from_numpy(exponents)), present


def history() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    losses = torch.rand(STEPS, NUM_TASKS, generator=generator).mul(0.8).add(0.01)
    present = torch.rand(STEPS, NUM_TASKS, generator=generator) > 0.3
    present[:, 2] = True
    return losses, present


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)


@every
@settings(deadline=None, max_examples=30)
@given(data=st.data(), order=st.permutations(range(NUM_TASKS)))
def test_permuting_the_tasks_permutes_the_weights(weighting, data, order):
    losses, present = data.draw(histories(weighting))
    weights, _ = run(weighting, losses, present)
    permuted, _ = run(select(weighting, order), losses[:, order], present[:, order], start(weighting, order))
    torch.testing.assert_close(permuted, weights[:, order], rtol=1e-4, atol=1e-7)


@every
@settings(deadline=None, max_examples=30)
@given(data=st.data(), absent=st.integers(0, NUM_TASKS - 1))
def test_an_absent_task_is_no_such_task(weighting, data, absent):
    losses, present = data.draw(histories(weighting))
    present[:, absent] = False
    rest = [task for task in range(NUM_TASKS) if task != absent]
    weights, state = run(weighting, losses, present)
    without, state_without = run(select(weighting, rest), losses[:, rest], present[:, rest], start(weighting, rest))
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights[:, rest], without, rtol=1e-5, atol=1e-8)
    for name, tensor in state.items():
        if tensor.shape[-1:] == (NUM_TASKS,):
            torch.testing.assert_close(tensor[..., rest], state_without[name], rtol=1e-6, atol=0, equal_nan=True)
            assert same(tensor[..., absent], weighting.init(NUM_TASKS)[name][..., absent])


@every
@pytest.mark.parametrize("placeholder", [0.0, -1.0, float("nan"), float("inf")])
def test_the_loss_in_the_place_of_an_absent_task_means_nothing(weighting, placeholder):
    losses, present = history()
    weights, state = run(weighting, losses, present)
    other_weights, other_state = run(weighting, losses.masked_fill(~present, placeholder), present)
    assert torch.equal(weights, other_weights)
    assert equal(state, other_state)


@every
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_weights_are_finite_not_negative_and_sum_as_normalize_says(weighting, data):
    losses, present = data.draw(histories(weighting))
    published, _ = run(weighting, losses, present)
    assert published.dtype == torch.float32
    assert published.isfinite().all()
    assert (published >= 0).all()
    mean, _ = run(replace(weighting, normalize="mean"), losses, present)
    total, _ = run(replace(weighting, normalize="sum"), losses, present)
    some = (published > 0).any(1)
    torch.testing.assert_close(mean.sum(1)[some], torch.ones(int(some.sum())))
    torch.testing.assert_close(total.sum(1)[some], present.sum(1).float()[some])


GUARDED = [weighting for weighting in EVERY if getattr(weighting, "guarded", True)]  # not Art's bare formula
guarded = pytest.mark.parametrize("weighting", GUARDED, ids=repr)

ENDS = [0.0, 1e-45, 1e-38, 1e-20, 1e-18, 1e-10, 1e10, 1e18, 1e20, torch.finfo(torch.float32).max, float("inf")]
ANY_FLOAT = st.one_of(st.floats(width=32), st.sampled_from([*ENDS, *(-end for end in ENDS)]))
OUTLIER = st.one_of(st.floats(-17, -6), st.floats(6, 17)).map(lambda exponent: 10**exponent)


def ordinary(steps, seed):
    return 0.3 + 0.4 * torch.rand(steps, NUM_TASKS, generator=torch.Generator().manual_seed(seed))


@guarded
@settings(deadline=None, max_examples=50)
@given(at=st.integers(0, 9), some=st.lists(ANY_FLOAT, min_size=NUM_TASKS, max_size=NUM_TASKS), data=st.data())
def test_no_loss_of_float32_breaks_weights_or_state(weighting, at, some, data):
    """NaN is only where it says that a task has had no loss yet."""
    losses = ordinary(15, seed=0)
    which = torch.tensor(data.draw(st.lists(st.booleans(), min_size=NUM_TASKS, max_size=NUM_TASKS)))
    losses[at] = torch.where(which, torch.tensor(some, dtype=torch.float32), losses[at])
    state = weighting.init(NUM_TASKS)
    initial = copy.deepcopy(state)
    for step in losses:
        weights = weighting(step, None, state)
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        for name, tensor in state.items():
            assert (tensor.isfinite() | (tensor.isnan() & initial[name].isnan())).all()
    assert all(tensor.isfinite().all() for tensor in state.values())


FORGETTING = [weighting for weighting in EVERY if "outlier" not in (type(weighting).__doc__ or "")]


@pytest.mark.parametrize("weighting", FORGETTING, ids=repr)
@settings(deadline=None, max_examples=30)
@given(at=st.integers(0, 9), outlier=OUTLIER, task=st.integers(0, NUM_TASKS - 1))
def test_an_outlier_is_forgotten_where_the_docstring_does_not_say_how_long_it_acts(weighting, at, outlier, task):
    losses = ordinary(at + 51, seed=1)
    without, _ = run(weighting, losses, [None] * len(losses))
    losses[at, task] = outlier
    weights, _ = run(weighting, losses, [None] * len(losses))
    ratio = (weights[-1] + 1e-6) / (without[-1] + 1e-6)
    assert ratio.min() > 0.5
    assert ratio.max() < 2


@pytest.mark.parametrize("weighting", [UncertaintyWeighting(), ImpartialLoss()], ids=repr)
@settings(deadline=None, max_examples=30)
@given(at=st.integers(0, 9), outlier=OUTLIER)
def test_an_outlier_moves_what_adam_learns_by_little(weighting, at, outlier):
    """The bound of the docstrings: about 40 steps of the learning rate."""
    losses = ordinary(at + 51, seed=2)
    _, without = run(weighting, losses, [None] * len(losses))
    losses[at, 0] = outlier
    _, state = run(weighting, losses, [None] * len(losses))
    for name in {"log_variance", "log_scale"} & state.keys():
        assert (state[name] - without[name]).abs().max() < 40 * weighting.lr


@guarded
@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_a_constant_loss_does_not_take_the_weight_of_the_others(weighting, constant):
    losses = ordinary(300, seed=3)
    losses[:, 0] = constant
    weights, _ = run(replace(weighting, normalize="sum"), losses, [None] * len(losses))
    assert weights[-100:, 1:].mean() > 0.5


@every
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_that_nobody_is_absent_needs_no_mask(weighting, data):
    losses, _ = data.draw(histories(weighting))
    state, masked = weighting.init(NUM_TASKS), weighting.init(NUM_TASKS)
    everybody = torch.ones(NUM_TASKS, dtype=torch.bool)
    for normalize in ("published", "mean", "sum"):
        scaled = replace(weighting, normalize=normalize)
        for step in losses:
            assert same(scaled(step, None, state), scaled(step, everybody, masked))
    assert equal(state, masked)


@every
def test_the_weights_are_no_part_of_the_state(weighting):
    """A gradient may be a view of them, which clipping scales in place."""
    state = weighting.init(NUM_TASKS)
    weights = weighting(torch.rand(NUM_TASKS), None, state)
    assert weights.untyped_storage().data_ptr() not in {t.untyped_storage().data_ptr() for t in state.values()}


@every
def test_no_task_at_all_has_weight_zero_and_moves_nothing(weighting):
    for normalize in ("published", "mean", "sum"):
        state = weighting.init(NUM_TASKS)
        before = copy.deepcopy(state)
        nobody = torch.zeros(NUM_TASKS, dtype=torch.bool)
        weights = replace(weighting, normalize=normalize)(torch.rand(NUM_TASKS), nobody, state)
        assert torch.equal(weights, torch.zeros(NUM_TASKS))
        assert equal(before, state)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e19, -3e38])
@pytest.mark.parametrize("step", [0, 4])
def test_a_loss_that_is_not_finite_leaves_the_state_as_if_the_task_had_been_absent(weighting, bad, step):
    losses, present = history()
    present[step] = True
    losses[step, 1] = bad
    weights, state = run(weighting, losses, present)
    present[step, 1] = False
    weights_absent, state_absent = run(weighting, losses, present)
    assert weights.isfinite().all()
    assert torch.equal(weights[step + 1 :], weights_absent[step + 1 :])
    assert equal(state, state_absent)


@every
def test_a_step_of_nothing_but_losses_that_are_not_finite_moves_nothing(weighting):
    _, state = run(weighting, *history())
    before = copy.deepcopy(state)
    weighting(torch.tensor([float("nan"), float("inf"), 0.3, 0.3]), torch.tensor([True, True, False, False]), state)
    assert equal(before, state)


@every
def test_the_state_keeps_its_shapes_and_places(weighting):
    state = weighting.init(NUM_TASKS)
    places = {name: tensor.data_ptr() for name, tensor in state.items()}
    for losses, present in zip(*history(), strict=True):
        weighting(losses, present, state)
    assert places == {name: tensor.data_ptr() for name, tensor in state.items()}
    fresh = weighting.init(NUM_TASKS)
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == {n: (t.shape, t.dtype) for n, t in fresh.items()}


@every
def test_the_weights_are_no_part_of_a_graph_and_the_state_of_none(weighting):
    state = weighting.init(NUM_TASKS)
    for losses, present in zip(*history(), strict=True):
        assert not weighting(losses.clone().requires_grad_(), present, state).requires_grad
    assert not any(tensor.requires_grad for tensor in state.values())


@every
def test_a_scale_that_does_not_exist_is_refused(weighting):
    with pytest.raises(ValueError, match="normalize is 'max'; choose one of published, mean, sum"):
        replace(weighting, normalize="max")


@every
def test_weighing_is_float32_under_another_default_dtype(weighting):
    torch.set_default_dtype(torch.float64)
    try:
        weights, state = run(
            weighting, *(tensor.float() if tensor.is_floating_point() else tensor for tensor in history())
        )
    finally:
        torch.set_default_dtype(torch.float32)
    assert weights.dtype == torch.float32
    assert not any(tensor.dtype == torch.float64 for tensor in state.values())


@every
def test_weighing_compiles_as_one_graph(weighting):
    torch.compiler.reset()  # the number of compilations of one function is limited
    compiled = torch.compile(lambda *arguments: weighting(*arguments), backend="eager", fullgraph=True)
    state, compiled_state = weighting.init(NUM_TASKS), weighting.init(NUM_TASKS)
    for losses, present in zip(*history(), strict=True):
        assert torch.equal(weighting(losses, present, state), compiled(losses, present, compiled_state))
    assert equal(state, compiled_state)


@every
def test_a_weighting_is_a_value(weighting):
    assert pickle.loads(pickle.dumps(weighting)) == weighting
    assert hash(copy.deepcopy(weighting)) == hash(weighting)
    assert replace(weighting, normalize="sum") != weighting
    assert "normalize='published'" in repr(weighting)


TASKS = ["a", "b", "c", "d"]


def optimizer_of(weighting, device="cpu"):
    parameter = torch.nn.Parameter(torch.linspace(0.2, 0.8, NUM_TASKS, device=device))
    return TaskReweightedOptimizer(torch.optim.Adam([parameter], lr=0.05), tasks=TASKS, weighting=weighting)


def train(optimizer, steps):
    (parameter,) = optimizer.param_groups[0]["params"]
    factors, present = history()
    trace = []
    for step in steps:
        losses = (parameter - factors[step].to(parameter.device)).square() + 0.01 * parameter.sum().exp()
        optimizer.zero_grad()
        optimizer.step({task: loss for task, loss, here in zip(TASKS, losses, present[step], strict=True) if here})
        trace.append((parameter.detach().clone(), dict(optimizer.weights)))
    return trace


@every
def test_save_load_and_continue_is_bit_exact(weighting):
    whole = optimizer_of(weighting)
    straight = train(whole, range(STEPS))

    first = optimizer_of(weighting)
    train(first, range(5))
    checkpoint = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "model": first.param_groups[0]["params"][0].detach()}, checkpoint)
    checkpoint.seek(0)
    loaded = torch.load(checkpoint, weights_only=True)

    second = optimizer_of(weighting)
    second.param_groups[0]["params"][0].data.copy_(loaded["model"])
    second.load_state_dict(loaded["optimizer"])
    for (parameter, weights), (expected, expected_weights) in zip(
        train(second, range(5, 8)), straight[5:], strict=True
    ):
        assert torch.equal(parameter, expected)
        assert equal(weights, expected_weights)
    assert equal(second.task_state.tensors, whole.task_state.tensors)


@every
def test_the_whole_step_runs_without_values(weighting):
    """On ``meta`` nothing can be read back, so nothing is: the step does not wait for the device."""
    optimizer = optimizer_of(weighting, "meta")
    train(optimizer, range(STEPS))
    assert all(weight.is_meta for weight in optimizer.weights.values())
    assert all(tensor.is_meta for tensor in optimizer.task_state.tensors.values())
