"""The weightings against what the authors' code, or LibMTL's, gives for twelve steps of three tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from art_optim import (
    FAMO,
    SLAW,
    AnalyticalUncertainty,
    CoVWeighting,
    DynamicWeightAverage,
    GeometricLoss,
    ImpartialLoss,
    ImprovableGap,
    ScaleInvariant,
    SmoothTchebycheff,
    UncertaintyWeighting,
)

from .cases import run

REFERENCE = json.loads(Path(__file__).with_name("reference_vectors.json").read_text())
LOSSES = torch.tensor(REFERENCE["losses"])

WEIGHTINGS = {
    "si_log": ScaleInvariant(),
    "dwa_T2_step_is_epoch": DynamicWeightAverage(),
    "uw_so_T1": AnalyticalUncertainty(),
    "uw_so_T10": AnalyticalUncertainty(temperature=10.0),
    "gls": GeometricLoss(),
    "stch_mu1_warm4": SmoothTchebycheff(),
    "stch_mu0.1_warm4": SmoothTchebycheff(mu=0.1),
    "famo_gamma0.01": FAMO(weight_decay=0.01),
    "famo_gamma0.001": FAMO(),
    "famo_gamma0": FAMO(weight_decay=0.0),
    "slaw": SLAW(),
    "cov_weighting_full": CoVWeighting(),
    "igb_v1": ImprovableGap(warmup=0, period=4),
}

# The run learned a parameter by SGD at 0.1: its name in our state, and what it is of the run's parameter.
LEARNED = {
    "uw_libmtl_init-0.5": (UncertaintyWeighting(initial_log_variance=-0.5), "log_variance", lambda s: s),
    "uw_nashmtl_init0": (UncertaintyWeighting(), "log_variance", lambda s: s),
    "uw_kendall_notebook": (ImpartialLoss(), "log_scale", lambda s: -s),
    "uw_liebel_koerner": (UncertaintyWeighting("revised"), "log_variance", lambda c: 2 * c.log()),
    "imtl_l_init0": (ImpartialLoss(), "log_scale", lambda s: s),
}


def expected(name, key):
    return torch.tensor(REFERENCE["runs"][name][key])


def test_every_run_is_compared():
    assert REFERENCE["runs"].keys() == WEIGHTINGS.keys() | LEARNED.keys()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_weights_are_those_of_the_reference(name):
    weights, _ = run(WEIGHTINGS[name], LOSSES, torch.ones_like(LOSSES, dtype=torch.bool))
    torch.testing.assert_close(weights, expected(name, "w"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name.startswith("famo")])
def test_famo_learns_the_logits_of_the_reference(name):
    for step, logits in enumerate(expected(name, "logits"), start=1):
        _, state = run(WEIGHTINGS[name], LOSSES[:step], torch.ones_like(LOSSES[:step], dtype=torch.bool))
        torch.testing.assert_close(state["logits"], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
def test_weights_and_gradients_of_what_is_learned_are_those_of_the_reference(name):
    weighting, key, ours = LEARNED[name]
    parameters, present = expected(name, "param"), torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(weighting.init(3)[key], ours(parameters[0]))
    for step, losses in enumerate(LOSSES):
        parameter = parameters[step].clone().requires_grad_()
        value = ours(parameter)
        (slope,) = torch.autograd.grad(value.sum(), parameter)
        state = weighting.init(3)
        state[key].copy_(value.detach())
        weights = weighting(losses, present, state)
        torch.testing.assert_close(weights, expected(name, "w")[step], rtol=1e-5, atol=0)
        if step + 1 < len(LOSSES):  # Adam's first moment is a tenth of the first gradient, and so is a step of SGD
            after = parameters[step] - state["exp_avg"] * slope
            torch.testing.assert_close(after, parameters[step + 1], rtol=1e-5, atol=1e-7)
