"""Mixed precision: the wrapper under a ``GradScaler``."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from art_optim import EqualWeighting, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of, wrap

OVERFLOW = 4


def sgd(model, fused=False):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)


def overflowing(model):
    """Let the gradients of one step overflow: set ``factor["of"]`` to infinity for it."""
    factor = {"of": 1.0}
    model.trunk[0].weight.register_hook(lambda gradient: gradient * factor["of"])
    return factor


class Unwrapped:
    """The plain loop in the words of the wrapper."""

    def __init__(self, inner):
        self.inner = inner

    def backward(self, losses, scaler):
        scaler.scale(torch.stack([*losses.values()]).sum()).backward()

    def step(self, losses, scaler):
        self.backward(losses, scaler)
        scaler.step(self.inner)


def run(wrapped, fused, phases):
    model = MultiTask()
    factor, inner = overflowing(model), sgd(model, fused)
    optimizer = TaskReweightedOptimizer(inner, TASKS, EqualWeighting()) if wrapped else Unwrapped(inner)
    identity = optimizer if wrapped else inner
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    history = []
    for step in range(10):
        factor["of"] = float("inf") if step == OVERFLOW else 1.0
        identity.zero_grad()
        if phases == 1:
            optimizer.step(model.losses(step), scaler=scaler)
        else:
            optimizer.backward(model.losses(step), scaler=scaler)
            scaler.unscale_(identity)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(identity)
        scaler.update()
        history.append((parameters_of(model), scaler.get_scale()))
    return history, inner.state_dict()


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_run_is_the_unwrapped_one_through_an_overflow(fused, phases):
    """Parameters, momenta and scales of every step."""
    ours, plain = run(True, fused, phases), run(False, fused, phases)
    assert identical(ours, plain)
    (before, scale), (after, smaller) = ours[0][OVERFLOW - 1 : OVERFLOW + 1]
    assert identical(before, after)
    assert smaller == scale / 2
    assert not identical(ours[0][-1][0], after)


def test_scaling_attributes_are_those_of_the_inner(model):
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, fused=True), TASKS)
    assert optimizer._step_supports_amp_scaling
    assert not hasattr(optimizer, "grad_scale")
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    assert optimizer.inner.grad_scale == 2.0
    del optimizer.grad_scale, optimizer.found_inf
    assert not hasattr(optimizer.inner, "grad_scale")


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_scales_gradients_and_no_weights(fused):
    """Exact with a power of two, through an overflow, in one phase and in two."""

    def run(scale, phases):
        model, overflow = MultiTask(), 1.0
        model.trunk[0].weight.register_hook(lambda gradient: gradient * overflow)
        optimizer = TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, fused=fused), TASKS)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        for step in range(8):
            overflow = float("inf") if step == 4 else 1.0
            optimizer.zero_grad()
            if phases == 0:
                optimizer.backward(model.losses(step))
                if step != 4:
                    optimizer.step()
            elif phases == 1:
                optimizer.step(model.losses(step), scaler=scaler)
            else:
                optimizer.backward(model.losses(step), scaler=scaler)
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
            if phases:
                scaler.update()
        return parameters_of(model), optimizer.weights

    assert identical(run(2.0**10, phases=1), run(1.0, phases=0))
    assert identical(run(2.0**10, phases=2), run(1.0, phases=0))


def test_a_scaled_step_returns_the_plain_total_and_fires_the_hooks_of_the_wrapper(model):
    optimizer, overflow, seen = wrap(model), 1.0, []
    model.trunk[0].weight.register_hook(lambda gradient: gradient * overflow)
    optimizer.register_step_post_hook(lambda caller, args, kwargs: seen.append(caller))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = model.losses(0)
    total = optimizer.step(losses, scaler=scaler)
    scaler.update()
    torch.testing.assert_close(total, sum(optimizer.weights[task] * loss for task, loss in losses.items()).detach())
    assert seen == [optimizer]
    overflow = float("inf")
    optimizer.zero_grad()
    optimizer.step(model.losses(1), scaler=scaler)
    assert seen == [optimizer]  # no step, no hook


def test_a_scaler_needs_losses_and_no_closure(model):
    optimizer = wrap(model)
    with pytest.raises(ValueError, match="scaler is given with a closure"):
        optimizer.step(model.losses(0), lambda: None, scaler=torch.amp.GradScaler("cpu"))
    assert all(weight.isnan() for weight in optimizer.weights.values())
    with pytest.raises(ValueError, match="scaler is given without losses; call step"):
        optimizer.step(scaler=torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("leftover", [False, True], ids=["fresh", "leftover gradients"])
def test_losses_are_not_for_the_step_of_the_scaler(model, leftover, fused, by_keyword):
    """Refused with the name of the right call, before anything changes."""
    optimizer = TaskReweightedOptimizer(sgd(model, fused), TASKS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with pytest.raises(AssertionError, match="did not use scaler"):
        scaler.step(optimizer, model.losses(0))  # torch's own words, as long as nothing has been scaled
    scaler.scale(torch.ones(()))
    if leftover:
        optimizer.step(model.losses(0), scaler=scaler)
        scaler.update()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = parameters_of(model), optimizer.task_state.state_dict()
    args, kwargs = ((), {"losses": model.losses(1)}) if by_keyword else ((model.losses(1),), {})
    with pytest.raises(TypeError, match=r"call optimizer.step\(losses, scaler=scaler\)"):
        scaler.step(optimizer, *args, **kwargs)
    assert identical((parameters_of(model), optimizer.task_state.state_dict()), before)
    assert identical([p.grad for p in model.parameters()], gradients)
    assert not hasattr(optimizer.inner, "grad_scale")
    optimizer.zero_grad()
    optimizer.step(model.losses(1), scaler=scaler)
    scaler.update()
    assert not identical(parameters_of(model), before[0])


class LoggingScaler(torch.amp.GradScaler):
    def step(self, optimizer, *args, **kwargs):
        return super().step(optimizer, *args, **kwargs)


class Between:
    """An optimizer around the wrapper that passes everything on."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        return getattr(self.optimizer, name)


@pytest.mark.parametrize("scaler_type", [torch.amp.GradScaler, LoggingScaler, ShardedGradScaler])
@pytest.mark.parametrize("between", [lambda optimizer: optimizer, Between], ids=["direct", "between"])
def test_losses_are_refused_whatever_the_scaler_and_whatever_is_between(model, scaler_type, between):
    optimizer = wrap(model)
    scaler = scaler_type("cpu")
    scaler.scale(torch.ones(()))
    before = parameters_of(model)
    with pytest.raises(TypeError, match=r"call optimizer.step\(losses, scaler=scaler\)"):
        scaler.step(between(optimizer), model.losses(0))
    assert identical(parameters_of(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())


class Recorder:
    """Stands for an optimizer, does not step, and records what it is asked for."""

    def __init__(self, optimizer):
        self.__dict__.update(optimizer=optimizer, record=[])

    def __getattr__(self, name):
        self.record.append(name)
        if name == "step":
            return lambda *args, **kwargs: self.record.append((args, kwargs))
        return getattr(self.optimizer, name)

    def __setattr__(self, name, value):
        self.record.append((name, value))


def test_a_scaler_asks_the_same_of_an_optimizer_whether_or_not_it_passes_losses_on(model):
    """So an optimizer that does not unscale cannot refuse the first of these by what it is asked for.

    ``scaler.step(optimizer, losses)`` looks like a ``scaler.step(optimizer)`` that skips its step and, later, a step
    without the scaler, ``optimizer.step(losses)``. Only the gradients differ, for which the host would have to wait.
    """
    losses = model.losses(0)

    def asked(gradient, steps):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        recorder, scaler = Recorder(sgd(model)), torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        steps(recorder, scaler)
        return recorder.record

    def apart(optimizer, scaler):
        scaler.step(optimizer)
        optimizer.step(losses)

    together = asked(1.0, lambda optimizer, scaler: scaler.step(optimizer, losses))
    assert together == asked(float("inf"), apart)
    assert together == ["_step_supports_amp_scaling", "param_groups", "step", ((losses,), {})]


def test_a_scaler_that_is_off_passes_the_losses_on(model):
    optimizer = wrap(model)
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer, model.losses(0))
    assert set(optimizer.weights) == set(TASKS)


def test_the_scaler_knows_the_wrapper_alone(model):
    """Gradients are divided once, and no parameter of ``step`` makes the scaler pass itself."""
    optimizer = TaskReweightedOptimizer(sgd(model), TASKS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer.backward(model.losses(0), scaler=scaler)
    scaled = model.trunk[0].weight.grad.clone()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert torch.equal(model.trunk[0].weight.grad * 2.0**10, scaled)
    assert "grad_scaler" not in inspect.signature(optimizer.step).parameters
