"""Two optimizers that share the losses of one weighting: on parts of one network, and of a GAN."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_optim import TaskReweightedOptimizer
from examples import two_optimizers as example

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of

NUM_PARAMETERS = len(list(MultiTask().parameters()))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, NUM_PARAMETERS - 1), min_size=1, max_size=NUM_PARAMETERS - 1))
def test_two_optimizers_on_parts_of_a_network_are_one_on_all_of_it(part):
    split, whole = MultiTask(), MultiTask()
    parameters = list(split.parameters())
    mine, others = ([p for i, p in enumerate(parameters) if (i in part) == kind] for kind in (True, False))
    wrapper, second = TaskReweightedOptimizer(sgd(mine), TASKS), sgd(others)
    expected = TaskReweightedOptimizer(sgd(whole.parameters()), TASKS)
    for step in range(3):
        for optimizer in (wrapper, second, expected):
            optimizer.zero_grad()
        wrapper.backward(split.losses(step))
        wrapper.step()
        second.step()
        expected.step(whole.losses(step))
    assert identical(parameters_of(split), parameters_of(whole))
    assert identical(wrapper.task_state.state_dict(), expected.task_state.state_dict())


def spoil(parameter):
    parameter.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize("name", ["trunk.2.weight", "trunk.2.bias"])
def test_the_norm_of_all_gradients_decides_for_both(name):
    """Whichever of them owns the parameter whose gradient is not finite."""
    parts = example.build(steps=4)
    example.train(parts, range(2))
    names = ("network", "optimizer", "second")
    before = copy.deepcopy({key: parts[key].state_dict() for key in names})
    spoil(parts["network"].get_parameter(name))
    example.train(parts, range(2, 3))
    after = {key: parts[key].state_dict() for key in names}
    for states in (before, after):  # the losses are finite, and have been weighed
        states["optimizer"]["param_groups"][0].pop("task_reweighting")
        for key in ("optimizer", "second"):  # the schedules go on
            states[key]["param_groups"][0].pop("lr")
    assert identical(after, before)


def test_skip_looks_at_the_gradients_of_the_wrapped_optimizer_alone(model):
    optimizer = TaskReweightedOptimizer(sgd(model.heads.parameters()), TASKS, nonfinite="skip")
    spoil(model.trunk[0].weight)
    optimizer.step(model.losses(0))
    assert model.trunk[0].weight.grad.isnan().all()
    assert optimizer.skipped == 0


def test_the_example_resumes_exactly():
    straight, first, resumed = (example.build(steps=6) for _ in range(3))
    example.train(straight, range(6))
    example.train(first, range(3))
    for name, part in first.items():
        resumed[name].load_state_dict(part.state_dict())
    example.train(resumed, range(3, 6))
    assert all(identical(part.state_dict(), resumed[name].state_dict()) for name, part in straight.items())


def test_a_frozen_discriminator_takes_no_part_in_the_jacobian_of_the_generator():
    aggregator = pytest.importorskip("torchjd.aggregation").UPGrad()
    from art_optim.gradients.aggregation import JacobianAggregation  # which needs torchjd

    generator, discriminator = nn.Linear(4, 3), nn.Linear(3, 1)
    tasks = ["adversarial", "pixel"]
    optimizer = TaskReweightedOptimizer(sgd(generator.parameters()), tasks, JacobianAggregation(aggregator))
    x, target = torch.randn(8, 4), torch.randn(8, 3)
    discriminator.requires_grad_(False)
    fake = generator(x)
    losses = torch.stack([10 * nn.functional.softplus(-discriminator(fake)).mean(), (fake - target).square().mean()])
    rows = [torch.autograd.grad(loss, generator.parameters(), retain_graph=True) for loss in losses]
    jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])
    optimizer.backward(dict(zip(tasks, losses, strict=True)))
    torch.testing.assert_close(torch.stack([*optimizer.weights.values()]), aggregator.weighting(jacobian))
    assert all(parameter.grad is None for parameter in discriminator.parameters())
