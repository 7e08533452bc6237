"""Learning rate schedulers, built on the wrapper or on the inner optimizer."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import types
import warnings

import pytest
import torch
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.swa_utils import SWALR

from art_optim import EqualWeighting, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of, wrap

SCHEDULERS = {
    lr_scheduler.LambdaLR: lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    lr_scheduler.MultiplicativeLR: lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    lr_scheduler.StepLR: lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.5),
    lr_scheduler.MultiStepLR: lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 5, 7], gamma=0.5),
    lr_scheduler.ConstantLR: lambda o: lr_scheduler.ConstantLR(o, factor=0.25, total_iters=5),
    lr_scheduler.LinearLR: lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=7),
    lr_scheduler.ExponentialLR: lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    lr_scheduler.PolynomialLR: lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=2.0),
    lr_scheduler.CosineAnnealingLR: lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6),
    lr_scheduler.CosineAnnealingWarmRestarts: lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    lr_scheduler.CyclicLR: lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.05, step_size_up=3),
    lr_scheduler.OneCycleLR: lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=10),
    lr_scheduler.ReduceLROnPlateau: lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    lr_scheduler.SequentialLR: lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=5), lr_scheduler.ExponentialLR(o, 0.8)], [5]
    ),
    lr_scheduler.ChainedScheduler: lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.25, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    SWALR: lambda o: SWALR(o, swa_lr=0.005, anneal_epochs=5),
}
MOMENTUM = {lr_scheduler.CyclicLR, lr_scheduler.OneCycleLR}
BUILT_ON = ("wrapper", "inner", "inner before it is wrapped")

each_scheduler = pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)
each_way_to_build = pytest.mark.parametrize("built_on", BUILT_ON)


def one_group(model, lr):
    return SGD(model.parameters(), lr=lr(0.1), momentum=0.9)


def two_groups(model, lr):
    groups = [{"params": model.trunk.parameters()}, {"params": model.heads.parameters(), "lr": lr(0.003)}]
    return AdamW(groups, lr=lr(0.01))


def build(kind, inner, lr, built_on):
    model = MultiTask()
    optimizer = inner(model, lr)
    scheduler = None
    if built_on in (None, "inner before it is wrapped"):
        scheduler = SCHEDULERS[kind](optimizer)
    if built_on is not None:
        optimizer = TaskReweightedOptimizer(optimizer, TASKS, EqualWeighting())
    return model, optimizer, scheduler or SCHEDULERS[kind](optimizer.inner if built_on == "inner" else optimizer)


def advance(scheduler):
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


def rates(optimizer):
    shown = ("lr", "momentum", "betas")
    return copy.deepcopy([{name: group[name] for name in shown if name in group} for group in optimizer.param_groups])


def train(model, optimizer, scheduler, steps):
    """What each step used and what it led to."""
    seen = []
    for step in steps:
        used = rates(optimizer)
        optimizer.zero_grad()
        if isinstance(optimizer, TaskReweightedOptimizer):
            optimizer.step(model.losses(step))
        else:
            sum(model.losses(step).values()).backward()
            optimizer.step()
        advance(scheduler)
        seen.append((used, copy.deepcopy(scheduler.get_last_lr()), parameters_of(model)))
    return seen


@functools.cache
def run(kind, inner, lr, built_on, reload):
    """Ten steps, reloaded after the fourth; a run that is reloaded in place has gone on to the seventh by then."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts = build(kind, inner, lr, built_on)
        seen = train(*parts, range(4))
        if reload is not None:
            file = io.BytesIO()
            torch.save([part.state_dict() for part in parts], file)
            file.seek(0)  # in torch 2.6 the state of SWALR has a function, which weights_only=True refuses
            if reload == "in place":
                train(*parts, range(4, 7))
            else:
                parts = build(kind, inner, lr, built_on)
            for part, state in zip(parts, torch.load(file, weights_only=False), strict=True):
                part.load_state_dict(state)
        seen += train(*parts, range(4, 10))
    return seen, [(warning.category, str(warning.message)) for warning in caught]


def test_no_scheduler_is_forgotten():
    """All that torch has."""

    def subclasses(kind):
        return {kind}.union(*map(subclasses, kind.__subclasses__()))

    found = {kind for kind in subclasses(lr_scheduler.LRScheduler) if kind.__module__.startswith("torch.optim.")}
    assert set(SCHEDULERS) == {kind for kind in found if kind.__name__.strip("_") != "LRScheduler"}


@each_scheduler
def test_each_schedule_moves_what_it_schedules(kind):
    """What the next test compares is not constant."""
    seen, _ = run(kind, two_groups, float, None, None)
    for group in range(2):
        assert len({used[group]["lr"] for used, _, _ in seen}) > 1
        assert (len({used[group]["betas"] for used, _, _ in seen}) > 1) == (kind in MOMENTUM)


@each_scheduler
@each_way_to_build
@pytest.mark.parametrize("reload", [None, "in place", "built anew"])
@pytest.mark.parametrize("inner", [one_group, two_groups])
@pytest.mark.parametrize("lr", [float, torch.tensor], ids=["float", "tensor"])
def test_rates_parameters_and_warnings_are_those_of_the_unwrapped_optimizer(kind, built_on, reload, inner, lr):
    seen, warned = run(kind, inner, lr, built_on, reload)
    expected, expected_warned = run(kind, inner, lr, None, reload)
    assert warned == expected_warned
    for ours, theirs in zip(seen, expected, strict=True):
        assert identical(ours, theirs)


def test_step_is_an_ordinary_method(model):
    """Schedulers take ``step.__func__`` and bind it again."""
    optimizer = wrap(model)
    assert inspect.ismethod(optimizer.step)
    assert optimizer.step.__func__ is TaskReweightedOptimizer.step
    before = parameters_of(model)
    optimizer.step.__func__.__get__(optimizer, type(optimizer))(model.losses(0))
    assert not identical(parameters_of(model), before)


STEPS = {
    "step": lambda optimizer, model: optimizer.step(model.losses(0)),
    "backward": lambda optimizer, model: (optimizer.backward(model.losses(0)), optimizer.step()),
    "combine": lambda optimizer, model: (optimizer.combine(model.losses(0)).backward(), optimizer.step()),
    "closure": lambda optimizer, model: optimizer.step(lambda: model.losses(0)),
    "scaler": lambda optimizer, model: optimizer.step(model.losses(0), scaler=torch.amp.GradScaler("cpu")),
}


@each_way_to_build
@pytest.mark.parametrize("how", STEPS)
def test_no_warning_of_a_wrong_order_where_it_is_right(built_on, how):
    """A warning is an error here."""
    model, optimizer, scheduler = build(lr_scheduler.StepLR, one_group, float, built_on)
    for _ in range(2):
        STEPS[how](optimizer, model)
        scheduler.step()


@each_way_to_build
def test_the_warning_of_a_wrong_order_where_it_is_wrong(built_on):
    """Also if it is ``backward`` that came first."""
    model, optimizer, scheduler = build(lr_scheduler.StepLR, one_group, float, built_on)
    optimizer.backward(model.losses(0))
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


def test_schedulers_on_the_wrapper_and_on_the_inner_at_once():
    model, optimizer, on_inner = build(lr_scheduler.StepLR, one_group, float, "inner")
    on_wrapper = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    for step in range(4):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**step * 0.5 ** (step // 3))
        optimizer.step(model.losses(step))
        on_inner.step()
        on_wrapper.step()


def test_the_step_of_the_inner_is_looked_up_on_every_call(model):
    """What is patched onto the inner after it was wrapped is what runs."""
    optimizer = wrap(model)
    optimizer.step(model.losses(0))
    calls = []
    original = optimizer.inner.step

    def watched(self, *args, **kwargs):
        calls.append(self)
        return original(*args, **kwargs)

    optimizer.inner.step = types.MethodType(watched, optimizer.inner)
    for how in STEPS.values():
        how(optimizer, model)
    assert calls == [optimizer.inner] * len(STEPS)
