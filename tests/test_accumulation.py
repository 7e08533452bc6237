"""Gradients accumulated over several batches."""

from __future__ import annotations

import pytest
import torch

from art_optim import Art, FixedWeighting, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of, wrap

N = 4


def accumulated(how, steps=3, accumulation_steps=N, scaler=None):
    model = MultiTask()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = TaskReweightedOptimizer(inner, TASKS, accumulation_steps=accumulation_steps)
    totals = []
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for batch in range(step * N, step * N + N):
            last = batch == step * N + N - 1
            total += how(optimizer, model.losses(batch), last, scaler)
        totals.append(total)
    return parameters_of(model), optimizer.task_state.state_dict(), totals


def backward_then_step(optimizer, losses, last, scaler):
    total = optimizer.backward(losses, scaler=scaler)
    if last and scaler is None:
        optimizer.step()
    elif last:
        scaler.step(optimizer)
        scaler.update()
    return total


def step_with_the_last(optimizer, losses, last, scaler):
    return optimizer.step(losses, scaler=scaler) if last else optimizer.backward(losses, scaler=scaler)


def combine(optimizer, losses, last, scaler):
    total = optimizer.combine(losses)
    total.backward()
    if last:
        optimizer.step()
    return total.detach()


def expected(steps=3):
    """The gradient of the mean over the batches of the weighted sums, written out."""
    model, weighting = MultiTask(), Art()
    plain, state = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), weighting.init(3)
    totals = []
    for step in range(steps):
        plain.zero_grad()
        total = 0.0
        for batch in range(step * N, step * N + N):
            losses = torch.stack([*model.losses(batch).values()])
            total = total + (weighting(losses.detach(), torch.ones(3, dtype=torch.bool), state) * losses).sum() / N
        total.backward()
        plain.step()
        totals.append(total.detach())
    return parameters_of(model), state, totals


@pytest.mark.parametrize("how", [backward_then_step, step_with_the_last, combine])
def test_the_step_is_that_of_the_mean_over_the_batches(how):
    """The losses are weighed as they are, each batch moves the state once, and the totals add up to the mean."""
    parameters, state, totals = accumulated(how)
    expected_parameters, expected_state, expected_totals = expected()
    torch.testing.assert_close(parameters, expected_parameters)
    torch.testing.assert_close(state["state"], expected_state)
    torch.testing.assert_close(totals, expected_totals)


def test_it_goes_together_with_a_scaler():
    """A power of two, so exactly; the scale and the number of batches are both on the weights."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert identical(accumulated(backward_then_step, scaler=scaler), accumulated(backward_then_step))


def test_the_weights_are_the_derivatives_of_the_total(model):
    optimizer = wrap(model, weighting=FixedWeighting([1, 2, 3]), accumulation_steps=N)
    losses = model.losses(0)
    total = optimizer.combine(losses)
    derivatives = torch.autograd.grad(total, [*losses.values()], retain_graph=True)
    assert identical([*optimizer.weights.values()], [*derivatives])
    assert torch.equal(torch.stack(derivatives), torch.tensor([0.25, 0.5, 0.75]))


def test_validation_has_no_batches_to_divide_by(model):
    optimizer = wrap(model, weighting=FixedWeighting([1, 2, 3]), accumulation_steps=N)
    with torch.no_grad():
        total = optimizer.combine(model.losses(0))
    assert torch.equal(total, wrap(model, weighting=FixedWeighting([1, 2, 3])).combine(model.losses(0)).detach())


@pytest.mark.parametrize(("given", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), ("4", TypeError)])
def test_what_is_no_number_of_batches_is_refused(model, given, error):
    with pytest.raises(error, match="give the number of batches"):
        wrap(model, accumulation_steps=given)
