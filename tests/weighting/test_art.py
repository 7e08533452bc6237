"""Art against the authors' numbers, and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from art_optim import Art, TaskReweightedOptimizer

REFERENCE = json.loads(Path(__file__).with_name("art_vectors.json").read_text())


def drive(weighting, steps, tasks):
    """Pass losses of given values through ``optimizer.step``: [T, K] weights, and the state before each step."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([parameter], lr=0.0), tasks=tasks, weighting=weighting)
    weights, states = [], []
    for losses in steps:
        states.append({name: tensor.clone() for name, tensor in optimizer.task_state.tensors.items()})
        optimizer.step({task: parameter + loss for task, loss in zip(tasks, losses, strict=True) if loss is not None})
        weights.append(torch.stack([optimizer.weights[task] for task in tasks]))
    return torch.stack(weights).double(), states


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
    art = Art(temperature=2.0, decay=0.9, rate=rate, correction=correction)
    weights, _ = drive(art, [(0.5, 0.2), (0.4, 0.3), (0.45, 0.25)], ["a", "b"])
    expected = [(torch.tensor(priority, dtype=torch.float64) / 2).softmax(0) for priority in HAND[rate, correction]]
    torch.testing.assert_close(
        weights, torch.stack([torch.full((2,), 0.5, dtype=torch.float64), *expected]), rtol=1e-6, atol=0
    )


def priorities(history, losses):
    """The priorities s r of one step after a history of equal length a task, read off temperature 1 weights."""
    weights, states = drive(Art(temperature=1.0), [*history, losses], [str(task) for task in range(len(losses))])
    # the last task stays at one loss and so has priority 1, which gives the scale
    return (weights[-1].log() - weights[-1, -1].log() + 1).tolist(), states


@pytest.mark.parametrize(
    ("before", "loss", "expected"),
    [
        (0.5, 1.5, 3 * (1 + math.log(3))),  # L beyond 1: s = 3, r by the ratio
        (0.5, 1.0, 2 * (1 + math.log(2))),  # log L = 0
        (2.0, 0.5, 0.0),  # M beyond 1: 1 + log(1/4) is negative
        (1.2, 0.9, 0.75 * (1 + math.log(0.75))),  # M alone beyond 1
        (2.0, 1.5, 0.75 * (1 + math.log(0.75))),
        (20.0, 22.0, 1.1 * (1 + math.log(1.1))),  # knows no scale: the same at 20 as at 2
        (2.0, 2.2, 1.1 * (1 + math.log(1.1))),
        (0.1, 0.999, 10.0),  # 9.99 * 2301, clamped
        (1e-30, 1e-30, 1.0),
        (0.5, 1e-38, 0.0),
        (0.5, 0.0, 1.0),  # neutral
        (0.4, 0.0, 1.0),
        (0.4, -0.2, 1.0),
        (0.5, -0.2, 1.0),
    ],
)
def test_losses_outside_the_unit_interval_have_the_documented_priority(before, loss, expected):
    (priority, _), _ = priorities([(before, 0.3)], (loss, 0.3))
    assert priority == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("loss", [0.0, -0.2, math.nan, math.inf])
def test_an_unusable_loss_leaves_the_state_alone(loss):
    _, states = drive(Art(), [(0.5, 0.3), (loss, 0.4), (0.5, 0.3)], ["a", "b"])
    for name in ("smoothed", "minimum"):
        assert states[1][name][0] == states[2][name][0] == 0.5
    weights, states = drive(Art(), [(loss, 0.3), (0.5, 0.3)], ["a", "b"])
    assert states[1]["smoothed"].tolist() == pytest.approx([math.nan, 0.3], nan_ok=True)
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("losses", [(0.9, 0.05, 3.0), (7.3, 7.3, 5.1), (1e-30, 1.0, 1e30)])
def test_the_first_weights_are_uniform(losses):
    weights, _ = drive(Art(temperature=1.0), [losses], ["a", "b", "c"])
    assert len(set(weights[0].tolist())) == 1


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"rate": "fast"}, "rate is 'fast'; choose one of smoothed, raw, none"),
        ({"correction": "log"}, "correction is 'log'"),
        ({"temperature": 1e-39}, "temperature is 1e-39"),
        ({"max_priority": 0}, "max_priority is 0"),
        ({"max_priority": math.inf}, "max_priority is inf"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"max_priority": math.nan}, "max_priority is nan"),
        ({"initial": 0.0}, "initial is 0.0"),
        ({"initial": math.inf}, "initial is inf"),
        ({"normalize": "max"}, "normalize is 'max'; choose one of published, mean, sum"),
    ],
)
def test_a_hyperparameter_outside_its_range_is_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        Art(**hyperparameters)


def test_reference_is_a_configuration():
    assert Art.reference() == Art(temperature=0.1, initial=0.1, guarded=False)


def test_no_decay_is_the_previous_loss():
    steps = [(0.5, 0.2), (0.4, 0.3), (0.45, 0.25)]
    smoothed, _ = drive(Art(decay=0.0, correction="none"), steps, ["a", "b"])
    raw, _ = drive(Art(rate="raw", correction="none"), steps, ["a", "b"])
    assert torch.equal(smoothed, raw)
