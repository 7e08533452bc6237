"""Every method that the benchmarks compare, by name."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import UPGrad
from torchjd.scalarization import UW

from art_optim import Art, weighting
from art_optim.weighting import registry
from benchmarks import methods
from benchmarks.authors import HostArt
from benchmarks.loops import Loop, as_vectors
from benchmarks.methods import AGGREGATORS, SCALARIZERS, Method

from .conftest import TASKS, MultiTask
from .weighting.test_properties import NUM_TASKS, history, run

EVERY = [*methods.known(), "fixed:rain=1,haze=2,noise=3", "art@5", "art:temperature=1@epoch", "fixed-at:art"]


def train(name, steps=4, tasks=TASKS, without=()):
    """Train with a method, and return the weights of each step and the parameters."""
    torch.manual_seed(0)
    model = MultiTask()
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer = Method.parse(name).start(inner, tasks, 3, 2, [*model.trunk.parameters()], [0.2, 0.3, 0.5])
    taken = []
    for step in range(steps):
        losses = {task: loss for task, loss in model.losses(step).items() if task not in without}
        optimizer.zero_grad()
        weights = optimizer.step(losses)
        if isinstance(optimizer, Loop):
            optimizer.after(lambda step=step: model.losses(step))
        else:
            weights = torch.stack([*optimizer.weights.values()])
        taken.append(weights.detach().clone())
    return torch.stack(taken), torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", EVERY)
def test_every_method_trains_and_its_text_names_it(name):
    method = Method.parse(name)
    assert Method.parse(str(method)) == method
    weights, parameters = train(name)
    assert weights.shape == (4, 3)
    assert parameters.isfinite().all()
    assert not torch.equal(parameters, train(name, steps=1)[1])
    assert torch.equal(parameters, train(name)[1])


def test_every_method_is_compared_without_an_edit(monkeypatch):
    assert {*methods.default()} == ({*weighting.available()} - {"fixed"}) | {*AGGREGATORS} | {"fixed-at:art"}
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "new": Art})
    monkeypatch.setitem(AGGREGATORS, "newer", UPGrad)
    assert {"new", "newer"} <= {*methods.default()}
    assert isinstance(Method.parse("newer").weighting().aggregator, UPGrad)


@pytest.mark.parametrize("name", [name for name in EVERY if Method.parse(name).has_weighting])
def test_weights_are_on_one_scale_and_drawn_from_the_seed(name):
    made = Method.parse(name).weighting(seed=7)
    assert made.normalize == "mean"
    assert getattr(made, "seed", 7) == 7


def test_hyperparameters_at_their_defaults_are_the_same_method():
    assert Method.parse("art:temperature=3,decay=0.99") == Method.parse("art")
    assert str(Method.parse("uncertainty:lr=0.025")) == "uncertainty"
    assert str(Method.parse("fixed-at:art:temperature=3.0@8")) == "fixed-at:art@8"


def test_what_counts_epochs_is_told_of_them():
    assert Method.parse("dwa").weighting(epoch=7).period == 7
    assert Method.parse("dwa:period=3").weighting(epoch=7).period == 3
    assert Method.parse("art@epoch").start(*_inner(), epoch=7).interval == 7
    assert Method.parse("art@5").start(*_inner(), epoch=7).interval == 5


def _inner():
    return torch.optim.SGD(MultiTask().parameters(), lr=0.1), TASKS, 0


def test_trials_are_of_the_hyperparameter_that_the_text_leaves_open():
    assert [str(of) for of in Method.parse("art@8").trials()] == [
        "art:temperature=0.3@8",
        "art:temperature=1.0@8",
        "art@8",
    ]
    assert Method.parse("art:temperature=1").trials() == [Method.parse("art:temperature=1")]
    assert Method.parse("equal").trials() == [Method.parse("equal")]


def test_the_variant_with_its_defaults_is_art():
    losses, present = history()
    ours, _ = run(Art(), losses, present)
    variant, _ = run(methods.create("art-variant:normalize=published"), losses, present)
    torch.testing.assert_close(variant, ours, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("option", ["numerator=0.9", "leak=0.9", "log_losses=true", "log_ratio=true"])
def test_a_variant_is_another_weighting_that_scales_with_nothing_absent(option):
    losses, present = history()
    ours, _ = run(Art(normalize="mean"), losses, present)
    variant, _ = run(methods.create(f"art-variant:{option}"), losses, present)
    assert variant.isfinite().all()
    assert (variant[~present] == 0).all()
    torch.testing.assert_close(variant.sum(1), present.any(1).float(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(variant, ours, rtol=1e-3)
    assert variant.shape[1] == NUM_TASKS


def test_the_pooled_mean_weighs_a_task_by_its_samples():
    from art_optim import per_task_mean

    samples = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0], requires_grad=True)
    losses = per_task_mean(samples, torch.tensor([0, 0, 0, 2, 2]), 3)
    loop = Method.parse("pooled").start(torch.optim.SGD([samples], lr=1.0), TASKS, 0)
    weights = loop.step(losses)
    assert weights.tolist() == pytest.approx([0.6, 0.0, 0.4])
    assert samples.grad.tolist() == pytest.approx([0.2] * 5)


def test_the_authors_loop_is_their_formula_on_the_host():
    host, ours = HostArt(3), Art.reference(0.1)
    losses = 0.05 + 0.4 * torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    state = ours.init(3)
    for of in losses:
        expected = ours(of, None, state)
        torch.testing.assert_close(torch.tensor(host.weigh([*of])), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCALARIZERS)
def test_a_scalarizer_steps_along_its_own_gradient(name):
    """As it would by itself in a plain loop of TorchJD."""
    model, step = MultiTask(), 0
    torch.manual_seed(5)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Method.parse(name).start(inner, TASKS, 0)
    loop.step(model.losses(step))
    alone, scalarizer = MultiTask(), SCALARIZERS[name](3)
    torch.manual_seed(5)
    learned = [] if name == "torchjd.FAMO" else [*scalarizer.parameters()]
    plain = torch.optim.SGD([*alone.parameters(), *learned], lr=0.1)
    scalarizer(torch.stack([*alone.losses(step).values()])).backward()
    plain.step()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_scalarizer_learns_with_the_networks_optimizer():
    model = MultiTask()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Method.parse("torchjd.UW").start(inner, TASKS, 0)
    assert isinstance(loop.scalarizer, UW)
    before = [parameter.clone() for parameter in loop.scalarizer.parameters()]
    loop.step(model.losses(0))
    assert all(not torch.equal(a, b) for a, b in zip(before, loop.scalarizer.parameters(), strict=True))


@pytest.mark.parametrize("name", ["pooled", "authors"])
def test_a_loop_takes_what_is_present(name):
    weights, parameters = train(name, without=("haze",))
    assert (weights[:, 1] == 0).all()
    assert parameters.isfinite().all()


def test_a_scalarizer_refuses_an_absent_task():
    with pytest.raises(ValueError, match="a task is absent from a step"):
        train("torchjd.UW", without=("haze",))


def test_losses_as_vectors():
    values, counts = as_vectors({"noise": torch.tensor(2.0)}, TASKS)
    assert counts.tolist() == [0, 0, 1]
    assert values[2] == 2
