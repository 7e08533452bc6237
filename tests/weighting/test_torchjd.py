"""The weightings beside the scalarizers of TorchJD: the gradients of one are the weights of the other."""

from __future__ import annotations

import pytest
import torch

from art_optim import (
    FAMO,
    DynamicWeightAverage,
    GeometricLoss,
    ImpartialLoss,
    SmoothTchebycheff,
    UncertaintyWeighting,
)

from .cases import run

scalarization = pytest.importorskip("torchjd.scalarization")

NUM_TASKS, STEPS = 5, 40

needs_dwa_and_famo = pytest.mark.skipif(not hasattr(scalarization, "FAMO"), reason="DWA and FAMO need torchjd>=0.15")


def losses() -> torch.Tensor:
    """[T, K], falling at different speeds from different heights, with noise."""
    generator = torch.Generator().manual_seed(5)
    start, speed = torch.logspace(-2, 1, NUM_TASKS), torch.linspace(0.1, 0.01, NUM_TASKS)
    noise = 0.2 * torch.randn(STEPS, NUM_TASKS, generator=generator)
    return start * (noise - speed * torch.arange(STEPS)[:, None]).exp()


def gradient(scalarizer, values):
    values = values.clone().requires_grad_()
    scalarizer(values).backward()
    return values.grad


def assert_weights(weighting, expected):
    weights, _ = run(weighting, losses(), torch.ones(STEPS, NUM_TASKS, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.stack(expected), rtol=1e-5, atol=1e-7)


def test_geometric_loss_is_the_geometric_mean():
    assert_weights(GeometricLoss(), [gradient(scalarization.GeometricMean(), values) for values in losses()])


@needs_dwa_and_famo
@pytest.mark.parametrize("period", [1, 3, 7])
def test_dynamic_weight_average(period):
    scalarizer, expected = scalarization.DWA(temperature=0.5), []
    for step, values in enumerate(losses(), start=1):
        expected.append(gradient(scalarizer, values))
        if step % period == 0:
            scalarizer.step()
    assert_weights(DynamicWeightAverage(temperature=0.5, period=period), expected)


@pytest.mark.parametrize(
    ("weighting", "scalarizer"), [(UncertaintyWeighting(), scalarization.UW), (ImpartialLoss(), scalarization.IMTLL)]
)
def test_what_is_learned_with_adam(weighting, scalarizer):
    scalarizer, expected = scalarizer(NUM_TASKS), []
    adam = torch.optim.Adam(scalarizer.parameters(), lr=weighting.lr)
    for values in losses():
        adam.zero_grad()
        expected.append(gradient(scalarizer, values))
        adam.step()
    assert_weights(weighting, expected)


@needs_dwa_and_famo
@pytest.mark.parametrize("bounds", [0.0, (-1.0, -0.5, 0.0, 0.0, 0.01)])
def test_famo_judged_by_the_next_step(bounds):
    scalarizer, expected = scalarization.FAMO(NUM_TASKS, torch.tensor(bounds).expand(NUM_TASKS).clone()), []
    for step, values in enumerate(losses()):
        if step > 0:
            scalarizer.update(values)
        expected.append(gradient(scalarizer, values))
    assert_weights(FAMO(min_losses=bounds), expected)


def test_smooth_tchebycheff_of_relative_logarithms():
    ones, (first, second, *rest) = torch.ones(NUM_TASKS), losses()
    scalarizer = scalarization.STCH(mu=0.3, weights=ones)
    nadir = (first + second) / 2
    expected = [gradient(lambda values: NUM_TASKS * scalarizer((values / nadir).log()), values) for values in rest]
    assert_weights(SmoothTchebycheff(mu=0.3, warmup=0, period=2), [1 / first, 1 / second, *expected])
