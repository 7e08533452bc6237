"""The variants of Art: the rows of Table 1 by hand, and the authors' code against their own numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from art_optim import Art, ArtAblation

from .test_art import drive

REFERENCE = json.loads(Path(__file__).with_name("art_vectors.json").read_text())


@pytest.mark.parametrize("name", REFERENCE["runs"])
def test_reference_is_the_authors_code(name):
    run = REFERENCE["runs"][name]
    absent = [(step, 1) for step in (3, 4, 8)] if "absent" in name else []
    steps = [
        [None if (step, task) in absent else loss for task, loss in enumerate(losses)]
        for step, losses in enumerate(REFERENCE["losses"])
    ]
    weights, states = drive(Art.reference(0.1 if "T0.1" in name else 3.0), steps, REFERENCE["tasks"])

    expected = torch.tensor(run["w"], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    logits = torch.tensor([[-math.inf if x is None else x for x in row] for row in run["logits"]], dtype=torch.float64)
    log_weights = logits.log_softmax(1)
    representable = log_weights > -80  # float32 ends at exp(-87)
    torch.testing.assert_close(weights.log()[representable], log_weights[representable], rtol=1e-5, atol=1e-5)
    assert (weights[~representable] < 1e-34).all()
    for key, ours in (("ema_before", "smoothed"), ("lmin_before", "minimum")):
        torch.testing.assert_close(
            torch.stack([state[ours] for state in states]), torch.tensor(run[key]), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("edge", REFERENCE["first_step"])
def test_reference_is_the_authors_code_outside_the_unit_interval(edge):
    case = REFERENCE["first_step"][edge]
    weights, _ = drive(Art.reference(3.0), [case["losses"]], ["a", "b", "c"])
    expected = torch.tensor([math.nan if w is None else w for w in case["w"]], dtype=torch.float64)
    torch.testing.assert_close(weights[0], expected, rtol=1e-5, atol=1e-30, equal_nan=True)


# Two steps of losses (0.5, 0.2) then (0.4, 0.3) at decay 0.9: before the second step E = M = L of the first.
# Then a third step, (0.45, 0.25): E = 0.9 E + 0.1 L = (0.49, 0.21), M = (0.4, 0.2).
HAND = {
    ("none", "none"): ([1, 1], [1, 1]),
    ("raw", "none"): ([0.4 / 0.5, 0.3 / 0.2], [0.45 / 0.4, 0.25 / 0.3]),
    ("smoothed", "none"): ([0.4 / 0.5, 0.3 / 0.2], [0.45 / 0.49, 0.25 / 0.21]),
    ("none", "ratio"): ([0.4 / 0.5, 0.3 / 0.2], [0.45 / 0.4, 0.25 / 0.2]),
    ("none", "log_ratio"): (
        [1 + math.log(0.4 / 0.5), 1 + math.log(0.3 / 0.2)],
        [1 + math.log(0.45 / 0.4), 1 + math.log(0.25 / 0.2)],
    ),
    ("none", "log_quotient"): (
        [math.log(0.5) / math.log(0.4), math.log(0.2) / math.log(0.3)],
        [math.log(0.4) / math.log(0.45), math.log(0.2) / math.log(0.25)],
    ),
    ("smoothed", "log_quotient"): (
        [0.4 / 0.5 * math.log(0.5) / math.log(0.4), 0.3 / 0.2 * math.log(0.2) / math.log(0.3)],
        [0.45 / 0.49 * math.log(0.4) / math.log(0.45), 0.25 / 0.21 * math.log(0.2) / math.log(0.25)],
    ),
}


@pytest.mark.parametrize(("rate", "correction"), HAND)
def test_every_row_of_table_1_is_a_configuration(rate, correction):
    art = ArtAblation(temperature=2.0, decay=0.9, rate=rate, correction=correction, guarded=False)
    weights, _ = drive(art, [(0.5, 0.2), (0.4, 0.3), (0.45, 0.25)], ["a", "b"])
    expected = [(torch.tensor(priority, dtype=torch.float64) / 2).softmax(0) for priority in HAND[rate, correction]]
    torch.testing.assert_close(
        weights, torch.stack([torch.full((2,), 0.5, dtype=torch.float64), *expected]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"rate": "fast"}, "rate is 'fast'; choose one of smoothed, raw, none"),
        ({"correction": "log"}, "correction is 'log'"),
        ({"max_priority": 0}, "max_priority is 0"),
        ({"initial": 0.0}, "initial is 0.0; it must be positive and finite"),
        ({"initial": math.inf}, "initial is inf"),
    ],
)
def test_a_hyperparameter_outside_its_range_is_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        ArtAblation(**hyperparameters)


def test_the_defaults_are_art():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    losses = 10 ** torch.linspace(-3, 3, 40).reshape(10, 4)[order]
    tasks = ["a", "b", "c", "d"]
    weights, states = drive(ArtAblation(), losses.tolist(), tasks)
    expected, expected_states = drive(Art(), losses.tolist(), tasks)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)
    for state, wanted in zip(states, expected_states, strict=True):
        assert all(torch.equal(state[name].nan_to_num(), wanted[name].nan_to_num()) for name in wanted)


def test_reference_is_a_configuration():
    assert Art.reference() == ArtAblation(temperature=0.1, initial=0.1, guarded=False)


def test_no_decay_is_the_previous_loss():
    steps = [(0.5, 0.2), (0.4, 0.3), (0.45, 0.25)]
    smoothed, _ = drive(ArtAblation(decay=0.0, correction="none"), steps, ["a", "b"])
    raw, _ = drive(ArtAblation(rate="raw", correction="none"), steps, ["a", "b"])
    assert torch.equal(smoothed, raw)
