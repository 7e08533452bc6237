"""Losses and gradients with a NaN or an infinity."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from art_optim import EqualWeighting, FixedWeighting, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_closures import SharpnessAware
from .test_optimizer import identical, parameters_of, train, wrap

BAD = {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}


def poisoned(model, step, factor):
    losses = model.losses(step)
    return {**losses, "haze": losses["haze"] * factor}


def one_phase(model, optimizer, losses):
    optimizer.step(losses())


def two_phases(model, optimizer, losses):
    optimizer.backward(losses())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()


def combined(model, optimizer, losses):
    optimizer.combine(losses()).backward()
    optimizer.step()


def accumulated(model, optimizer, losses):
    optimizer.backward(losses())
    optimizer.step(model.losses(100))


def closure(model, optimizer, losses):
    optimizer.step(losses)


def closure_that_goes_backward(model, optimizer, losses):
    def evaluate():
        total = optimizer.combine(losses())
        optimizer.zero_grad()
        total.backward()
        return total

    optimizer.step(evaluate)


WAYS = [one_phase, two_phases, combined, accumulated, closure, closure_that_goes_backward]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("way", WAYS)
def test_a_skipped_step_leaves_parameters_and_inner_state(model, way, bad):
    optimizer = wrap(model, nonfinite="skip")
    train(model, optimizer, range(2))
    before = copy.deepcopy((parameters_of(model), optimizer.inner.state_dict()))
    hooks = []
    optimizer.register_step_post_hook(lambda *args: hooks.append(1))
    optimizer.zero_grad()
    way(model, optimizer, lambda: poisoned(model, 2, BAD[bad]))
    assert identical((parameters_of(model), optimizer.inner.state_dict()), before)
    assert optimizer.skipped == 1
    assert hooks == []
    optimizer.zero_grad()
    way(model, optimizer, lambda: model.losses(3))
    assert not identical(parameters_of(model), before[0])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert optimizer.skipped == 1
    assert hooks == [1]


@pytest.mark.parametrize("way", WAYS)
def test_where_all_is_finite_skip_is_propagate(way):
    def run(nonfinite):
        model = MultiTask()
        optimizer = wrap(model, nonfinite=nonfinite)
        for step in range(4):
            optimizer.zero_grad()
            way(model, optimizer, lambda step=step: model.losses(step))
        return parameters_of(model), optimizer.task_state.state_dict()

    assert identical(run("skip"), run("propagate"))


@pytest.mark.parametrize("way", WAYS)
def test_propagate_is_what_the_plain_loop_does(model, way):
    optimizer = wrap(model)
    way(model, optimizer, lambda: poisoned(model, 0, float("nan")))
    assert model.trunk[0].weight.isnan().all()
    assert optimizer.skipped == 0


def test_a_weight_of_zero_is_no_protection_but_skipping_is(model):
    """0 * NaN is NaN."""
    for nonfinite, spoiled in (("propagate", True), ("skip", False)):
        model = MultiTask()
        optimizer = wrap(model, weighting=FixedWeighting([1, 0, 1]), nonfinite=nonfinite)
        optimizer.step(poisoned(model, 0, float("nan")))
        assert model.trunk[0].weight.isnan().any() == spoiled


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_the_task_state_does_not_take_it_in_either_way(model, nonfinite):
    optimizer, expected = wrap(model, nonfinite=nonfinite), wrap(MultiTask())
    expected.combine({**model.losses(0), "haze": None})
    optimizer.step(poisoned(model, 0, float("nan")))
    assert identical(optimizer.task_state.tensors, expected.task_state.tensors)


def test_a_gradient_may_be_bad_where_no_loss_is(model):
    optimizer = wrap(model, nonfinite="skip")
    zero = nn.Parameter(torch.zeros(()))
    optimizer.add_param_group({"params": [zero]})
    losses = model.losses(0)
    assert (losses["rain"] + zero.sqrt()).isfinite()
    optimizer.step({**losses, "rain": losses["rain"] + zero.sqrt()})
    assert optimizer.skipped == 1
    assert zero == 0


def test_an_empty_parameter_has_a_norm(model):
    """As a rank has whose share of a small parameter is empty."""
    optimizer = wrap(model, nonfinite="skip")
    empty = nn.Parameter(torch.zeros(0))
    optimizer.add_param_group({"params": [empty]})
    losses = model.losses(0)
    optimizer.step({**losses, "rain": losses["rain"] + empty.sum()})
    assert empty.grad is not None
    assert optimizer.skipped == 0


def test_sparse_gradients_and_none_at_all():
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = TaskReweightedOptimizer(torch.optim.SparseAdam(table.parameters()), ["a"], nonfinite="skip")
    start = table.weight.detach().clone()
    optimizer.step()
    optimizer.step({"a": (table(torch.tensor([1, 1])) * float("inf")).mean()})
    assert optimizer.skipped == 1
    assert torch.equal(table.weight, start)
    optimizer.zero_grad()
    optimizer.step({"a": table(torch.tensor([1, 1])).square().mean()})
    assert optimizer.skipped == 1
    assert not torch.equal(table.weight, start)


def test_a_scaler_skips_by_itself_and_is_not_disturbed():
    """The scale falls as it does without us; with a fused inner, which is called to skip by itself, too."""

    def run(nonfinite, fused):
        model = MultiTask()
        inner = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        optimizer = TaskReweightedOptimizer(inner, TASKS, EqualWeighting(), nonfinite=nonfinite)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for step in range(6):
            optimizer.zero_grad()
            optimizer.step(poisoned(model, step, float("nan") if step == 2 else 1.0), scaler=scaler)
            scaler.update()
        return parameters_of(model), scaler.get_scale()

    for fused in (False, True):
        assert identical(run("skip", fused), run("propagate", fused))
        assert run("skip", fused)[1] == 2.0**9


def test_the_first_evaluation_of_a_line_search_can_be_skipped_and_no_later_one():
    def run(bad):
        model = MultiTask()
        optimizer = TaskReweightedOptimizer(torch.optim.LBFGS(model.parameters(), max_iter=4), TASKS, nonfinite="skip")
        evaluations = []

        def closure():
            evaluations.append(1)
            optimizer.zero_grad()
            return poisoned(model, 0, float("nan") if len(evaluations) == bad else 1.0)

        optimizer.step(closure)
        return optimizer.skipped, identical(parameters_of(model), parameters_of(MultiTask()))

    assert run(bad=1) == (1, True)
    assert run(bad=3) == (0, False)


def test_a_step_that_has_begun_is_not_left_half_done(model):
    """Parameters that the inner optimizer has perturbed come back, if as NaN."""
    optimizer = TaskReweightedOptimizer(SharpnessAware(model.parameters(), lr=0.1), TASKS, nonfinite="skip")
    optimizer.step(model.losses(0), lambda: poisoned(model, 0, float("nan")))
    assert optimizer.skipped == 0
    assert model.trunk[0].weight.isnan().all()
    other = MultiTask()
    optimizer = TaskReweightedOptimizer(SharpnessAware(other.parameters(), lr=0.1), TASKS, nonfinite="skip")
    optimizer.step(poisoned(other, 0, float("nan")), lambda: other.losses(0))
    assert optimizer.skipped == 1
    assert identical(parameters_of(other), parameters_of(MultiTask()))


class TwoCalls(torch.optim.SGD):
    """SAM as most packages have it: ``step`` with a closure, or its parts called one by one."""

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["start"] = parameter.clone()
            parameter.add_(parameter.grad, alpha=0.05)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter].pop("start"))
        super().step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure):
        self.first_step(zero_grad=True)
        with torch.enable_grad():
            loss = closure()
        self.second_step()
        return loss

    fused_backward = set_closure = perturb_weights = third_step = ascent_step = first_step

    last_step = 6

    def get_step(self):
        return 7


@pytest.mark.parametrize(
    "name",
    ["first_step", "second_step", "third_step", "ascent_step", "fused_backward", "set_closure", "perturb_weights"],
)
def test_a_method_of_the_inner_optimizer_that_moves_parameters_unseen_is_refused(model, name):
    """Other methods may be called, and all of them with ``nonfinite="propagate"``."""
    optimizer = TaskReweightedOptimizer(TwoCalls(model.parameters(), lr=0.1), TASKS, nonfinite="skip")
    before = copy.deepcopy(parameters_of(model))
    optimizer.backward(poisoned(model, 0, float("nan")))
    with pytest.raises(AttributeError, match=rf"{name} of TwoCalls .* call step\(losses, closure\)"):
        getattr(optimizer, name)(zero_grad=True)
    assert identical(parameters_of(model), before)
    assert optimizer.skipped == 0
    assert (optimizer.last_step, optimizer.get_step()) == (6, 7)
    with pytest.raises(AttributeError, match="fourth_step"):
        optimizer.fourth_step()
    optimizer = TaskReweightedOptimizer(optimizer.inner, TASKS)
    assert getattr(optimizer, name) == getattr(optimizer.inner, name)


def test_two_calls_are_those_of_the_inner_optimizer():
    model, plain_model = MultiTask(), MultiTask()
    plain = TwoCalls(plain_model.parameters(), lr=0.1)
    optimizer = TaskReweightedOptimizer(TwoCalls(model.parameters(), lr=0.1), TASKS, EqualWeighting(normalize="sum"))
    for step in range(3):
        optimizer.backward(model.losses(step))
        optimizer.first_step(zero_grad=True)
        optimizer.backward(model.losses(step))
        optimizer.second_step(zero_grad=True)
        for half in (plain.first_step, plain.second_step):
            torch.stack([*plain_model.losses(step).values()]).sum().backward()
            half(zero_grad=True)
    assert identical(parameters_of(model), parameters_of(plain_model))
    assert identical(optimizer.inner.state_dict(), plain.state_dict())


def test_the_two_calls_as_one_step_are_skipped_and_weighed_once(model):
    optimizer = TaskReweightedOptimizer(TwoCalls(model.parameters(), lr=0.1), TASKS, nonfinite="skip")
    before = copy.deepcopy(parameters_of(model))
    optimizer.step(poisoned(model, 0, float("nan")), lambda: model.losses(0))
    assert identical(parameters_of(model), before)
    assert optimizer.skipped == 1
    optimizer.zero_grad()
    optimizer.step(model.losses(0), lambda: model.losses(0))
    assert not identical(parameters_of(model), before)
    assert optimizer.skipped == 1


class MovesData(torch.optim.SGD):
    """SAM as some write it: what moves ``.data`` leaves no trace in the version of a parameter."""

    def step(self, closure):
        (group,) = self.param_groups
        start = [parameter.data.clone() for parameter in group["params"]]
        for parameter in group["params"]:
            parameter.data.add_(parameter.grad, alpha=0.05)
        loss = closure()
        for parameter, data in zip(group["params"], start, strict=True):
            parameter.data = data
        super().step()
        return loss


def test_a_step_that_moves_data_is_not_left_half_done(model):
    optimizer = TaskReweightedOptimizer(MovesData(model.parameters(), lr=0.1), TASKS, nonfinite="skip")
    optimizer.step(model.losses(0), lambda: poisoned(model, 0, float("nan")))
    assert optimizer.skipped == 0
    assert model.trunk[0].weight.isnan().all()


def test_a_closure_or_a_hook_that_clamps_parameters_does_not_hide_a_nan(model):
    optimizer = wrap(model, nonfinite="skip")

    @torch.no_grad()
    def clamp(*_):
        for parameter in model.parameters():
            parameter.clamp_(-1, 1)

    def closure():
        clamp()
        optimizer.zero_grad()
        return poisoned(model, 0, float("nan"))

    optimizer.step(closure)
    assert optimizer.skipped == 1
    optimizer.register_step_pre_hook(clamp)
    optimizer.step(lambda: poisoned(model, 0, float("nan")))
    assert optimizer.skipped == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_large_gradients_of_low_precision_are_finite(dtype):
    weight = nn.Parameter(torch.zeros(100_000, dtype=dtype))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([weight], lr=0.1), ["a"], EqualWeighting(), nonfinite="skip")
    optimizer.step({"a": (weight * 1000).float().sum()})
    assert optimizer.skipped == 0
    assert (weight != 0).all()


def test_the_count_is_saved_copied_and_reset(model):
    optimizer = wrap(model, nonfinite="skip")
    optimizer.step(poisoned(model, 0, float("nan")))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.skipped == 1
        copied.step(poisoned(model, 0, float("nan")))
        assert copied.nonfinite == "skip"
    other = wrap(MultiTask(), nonfinite="skip")
    other.load_state_dict(optimizer.state_dict())
    assert other.skipped == 1
    with pytest.warns(UserWarning, match="starts afresh"):
        other.load_state_dict(optimizer.inner.state_dict())
    assert other.skipped == 0


def test_a_policy_that_does_not_exist_is_refused(model):
    with pytest.raises(ValueError, match="nonfinite is 'ignore'; choose one of propagate, skip"):
        wrap(model, nonfinite="ignore")
