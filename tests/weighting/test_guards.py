"""What the weightings refuse, and how they weigh a loss that their formula has no weight for."""

from __future__ import annotations

import math
import re

import pytest
import torch

from art_optim import (
    FAMO,
    SLAW,
    AnalyticalUncertainty,
    Art,
    CoVWeighting,
    DynamicWeightAverage,
    FixedWeighting,
    GeometricLoss,
    ImpartialLoss,
    ImprovableGap,
    RandomWeighting,
    ReLoBRaLo,
    ScaleInvariant,
    SmoothTchebycheff,
    SoftAdapt,
    UncertaintyWeighting,
)

from .cases import run

BAD = [0.0, 1e-20, -1.0, 1e20, math.nan, math.inf, -math.inf]
ROOT = math.sqrt(0.5 * 0.25)


def last_weights(weighting, *steps):
    losses = torch.tensor(steps)
    return run(weighting, losses, torch.ones_like(losses, dtype=torch.bool))[0][-1].tolist()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (ScaleInvariant(), [2, 3, 4]),
        (GeometricLoss(), [ROOT / 2 / 0.5, ROOT / 2 * 3, ROOT / 2 / 0.25]),
        (AnalyticalUncertainty(temperature=2 / math.log(2)), [2 / 9, 1 / 3, 4 / 9]),
        (FAMO(), [2 / 9, 1 / 3, 4 / 9]),
        (ImprovableGap(), [2, 3, 4]),
        (SmoothTchebycheff(), [2, 3, 4]),
    ],
)
def test_a_loss_without_a_weight_has_the_mean_of_the_others(weighting, bad, expected):
    assert last_weights(weighting, (0.5, bad, 0.25)) == pytest.approx(expected)
    whole = {ScaleInvariant: 1, GeometricLoss: 1, ImprovableGap: 1, SmoothTchebycheff: 1}.get(type(weighting), 1 / 3)
    assert last_weights(weighting, (bad, bad, bad)) == pytest.approx([whole] * 3)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (SmoothTchebycheff(warmup=0), [4 / 3 / 0.5, 2 / 3 / 0.25]),  # the softmax of log 1 and log 1/2, times 2
        (ImprovableGap(warmup=0), [1.2449187 / 0.5, 0.7550813 / 0.25]),  # of 1 and 1/2
    ],
)
def test_past_the_warmup_as_well(weighting, bad, expected):
    first, last = expected
    weights = last_weights(weighting, (0.5, 0.1, 0.5), (0.5, bad, 0.25))
    assert weights == pytest.approx([first, (first + last) / 2, last])


@pytest.mark.parametrize("bad", [0.0, 1e-20, 1e20, math.nan, math.inf])
def test_softadapt_gives_it_the_weight_1(bad):
    weights = last_weights(SoftAdapt(), (0.5, 0.1, 0.5), (0.5, bad, 0.25))
    assert weights == pytest.approx([1.2449187, 1, 0.7550813])  # the softmax of 1 and 1/2, times 2


def test_slaw_gives_it_the_weight_1():
    weights = last_weights(SLAW(), (0.5, 0.1, 0.5), (0.25, math.nan, 0.375))
    assert weights == pytest.approx([2 / 3, 1, 4 / 3])
    weights = last_weights(SLAW(), (0.5, math.nan, 0.5), (0.25, 0.1, 0.375))  # a first loss
    assert weights == pytest.approx([2 / 3, 1, 4 / 3])


@pytest.mark.parametrize("constant", [0.0, 0.5, 1e6])
def test_slaw_gives_a_loss_without_spread_the_weight_1(constant):
    """From the start, or once the spread of its past has decayed."""
    steps = [(constant, loss, 2 * loss) for loss in (0.1, 0.2, 0.15, 0.3)]
    assert last_weights(SLAW(), *steps) == pytest.approx([1, 4 / 3, 2 / 3])
    assert last_weights(SLAW(decay=0.5), (0.3, 0.1, 0.2), *steps * 20) == pytest.approx([1, 4 / 3, 2 / 3], rel=1e-4)


def test_slaw_divides_by_a_small_spread():
    weights = last_weights(SLAW(), (0.5, 0.5), (0.4999, 0.499))  # 5e-5 and 5e-4
    assert weights == pytest.approx([20 / 11, 2 / 11], rel=1e-3)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "weighting",
    [
        CoVWeighting(),
        FAMO(),
        ImpartialLoss(),
        ImprovableGap(period=3),
        SmoothTchebycheff(warmup=0, period=6),
        UncertaintyWeighting(),
        UncertaintyWeighting("classification"),
        UncertaintyWeighting("revised"),
    ],
)
def test_a_loss_that_is_not_positive_leaves_the_state_as_if_the_task_had_been_absent(weighting, bad):
    losses = 0.1 + torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    present = torch.ones(6, 3, dtype=torch.bool)
    losses[3, 1], present[3, 1] = bad, False
    _, absent = run(weighting, losses, present)
    _, state = run(weighting, losses, torch.ones_like(present))
    for name, tensor in absent.items():
        assert torch.equal(state[name], tensor)


def test_a_loss_at_its_bound_stays_out_of_famo_and_one_below_zero_may_be_above_it():
    assert last_weights(FAMO(min_losses=0.25), (0.5, 0.25, 0.75)) == pytest.approx([4 / 9, 1 / 3, 2 / 9])
    assert last_weights(FAMO(min_losses=(-1.0, -3.0)), (-0.5, -2.0)) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "weighting", [CoVWeighting(), DynamicWeightAverage(), ImpartialLoss(), RandomWeighting(), UncertaintyWeighting()]
)
def test_where_earlier_steps_decide_the_weight_this_loss_does_not(weighting, bad):
    before = [(0.5, 0.1, 0.5), (0.3, 0.2, 0.5), (0.2, 0.1, 0.4)]
    assert last_weights(weighting, *before, (0.5, bad, 0.25)) == last_weights(weighting, *before, (0.5, 0.3, 0.25))


def test_weights_of_relobralo_sum_to_the_number_of_present_tasks():
    losses = torch.rand(50, 5) + 0.01
    present = torch.rand(50, 5) < 0.5
    weights, _ = run(ReLoBRaLo(alpha=0.7, beta=0.5), losses, present)
    torch.testing.assert_close(weights.sum(1), present.sum(1).float())


AT_LEAST = "it must be finite and at least"
WHOLE = "it must be a whole number, at least"


@pytest.mark.parametrize(
    ("weighting", "hyperparameters", "message"),
    [
        (RandomWeighting, {"distribution": "uniform"}, "distribution is 'uniform'; choose one of normal, dirichlet"),
        (RandomWeighting, {"seed": -1}, f"seed is -1; {WHOLE} 0"),
        (RandomWeighting, {"seed": 2**63}, f"seed is 9223372036854775808; {WHOLE} 0"),
        (RandomWeighting, {"seed": 0.5}, f"seed is 0.5; {WHOLE} 0"),
        (UncertaintyWeighting, {"form": "poisson"}, "form is 'poisson'; choose one of regression, classification, rev"),
        (UncertaintyWeighting, {"initial_log_variance": 81}, "initial_log_variance is 81.0; it must be in [-80, 80]"),
        (UncertaintyWeighting, {"lr": -1}, f"lr is -1.0; {AT_LEAST} 0"),
        (AnalyticalUncertainty, {"temperature": 0}, f"temperature is 0.0; {AT_LEAST} 1e-06"),
        (AnalyticalUncertainty, {"temperature": math.nan}, f"temperature is nan; {AT_LEAST} 1e-06"),
        (DynamicWeightAverage, {"temperature": math.inf}, f"temperature is inf; {AT_LEAST} 1e-06"),
        (DynamicWeightAverage, {"period": 0}, f"period is 0; {WHOLE} 1"),
        (DynamicWeightAverage, {"period": 2.0}, f"period is 2.0; {WHOLE} 1"),
        (ImpartialLoss, {"lr": math.inf}, f"lr is inf; {AT_LEAST} 0"),
        (SmoothTchebycheff, {"mu": 0}, f"mu is 0.0; {AT_LEAST} 1e-06"),
        (SmoothTchebycheff, {"warmup": -1}, f"warmup is -1; {WHOLE} 0"),
        (SmoothTchebycheff, {"period": 0}, f"period is 0; {WHOLE} 1"),
        (ImprovableGap, {"warmup": -1}, f"warmup is -1; {WHOLE} 0"),
        (ImprovableGap, {"period": 0}, f"period is 0; {WHOLE} 1"),
        (FAMO, {"lr": -0.1}, f"lr is -0.1; {AT_LEAST} 0"),
        (FAMO, {"weight_decay": -0.1}, f"weight_decay is -0.1; {AT_LEAST} 0"),
        (FAMO, {"min_losses": math.inf}, "min_losses is inf; it must be finite"),
        (FAMO, {"min_losses": (0.0, math.nan)}, "min_losses[1] is nan; it must be finite"),
        (SLAW, {"decay": 1.5}, "decay is 1.5; it must be in [0, 1]"),
        (SoftAdapt, {"beta": math.inf}, "beta is inf; it must be finite"),
        (ReLoBRaLo, {"alpha": -0.1}, "alpha is -0.1; it must be in [0, 1]"),
        (ReLoBRaLo, {"beta": 1.1}, "beta is 1.1; it must be in [0, 1]"),
        (ReLoBRaLo, {"temperature": 0}, f"temperature is 0.0; {AT_LEAST} 1e-06"),
        (ReLoBRaLo, {"seed": -1}, f"seed is -1; {WHOLE} 0"),
    ],
)
def test_a_hyperparameter_outside_its_range_is_refused(weighting, hyperparameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        weighting(**hyperparameters)


def test_whole_and_real_numbers_are_one_in_a_checkpoint():
    assert repr(SoftAdapt(beta=2)) == repr(SoftAdapt(beta=2.0))
    assert repr(FAMO(min_losses=[0, 1])) == repr(FAMO(min_losses=(0.0, 1.0)))
    assert repr(UncertaintyWeighting(initial_log_variance=0)) == repr(UncertaintyWeighting())


@pytest.mark.parametrize("value", [None, "x", "3", [1.0]])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: Art(temperature=value), "temperature"),
        (lambda value: Art(decay=value), "decay"),
        (lambda value: SoftAdapt(beta=value), "beta"),
        (lambda value: FixedWeighting([1.0, value]), "weights[1]"),
        (lambda value: FixedWeighting({"rain": value}), "weights['rain']"),
    ],
)
def test_a_hyperparameter_that_is_no_number_is_refused_by_its_name(make, name, value):
    with pytest.raises(TypeError, match=re.escape(f"{name} is {value!r}; give a number")):
        make(value)


def test_a_gradient_whose_square_overflows_leaves_the_moments_of_adam_finite():
    weighting = UncertaintyWeighting(initial_log_variance=-80.0)
    state = weighting.init(2)
    weighting(torch.tensor([1.0, 1e-30]), None, state)
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert state["step"].tolist() == [1, 0]
    assert state["log_variance"][0] > -80
