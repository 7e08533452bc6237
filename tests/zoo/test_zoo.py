"""Wrapped under weights of 1, an optimizer does what it does unwrapped. ``make zoo`` asks that of more packages."""

from __future__ import annotations

import pytest
import torch
import torch_optimizer

from art_optim import TaskReweightedOptimizer

from . import zoo

TORCH = [*zoo.cases("torch.optim")]
OTHERS = [*zoo.cases("torch_optimizer")]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning"),  # Adagrad
    pytest.mark.filterwarnings("ignore:\\s*This overload of \\w+ is deprecated:UserWarning"),  # torch_optimizer
]


def differing(pairs):
    return [(pair.model, pair.way, str(pair.plain), str(pair.ours)) for pair in pairs if not pair.same]


@pytest.mark.parametrize("exported", [torch.optim, torch_optimizer], ids=lambda module: module.__name__)
def test_no_optimizer_is_forgotten(exported):
    """What inherits from ``Optimizer`` in any module of the package is in the zoo."""

    def heirs(cls):
        return {cls}.union(*(heirs(heir) for heir in cls.__subclasses__()))

    known = {case.cls for case in TORCH + OTHERS}
    there = {cls for cls in heirs(torch.optim.Optimizer) if cls.__module__.startswith(exported.__name__)}
    assert there - known <= {torch.optim.Optimizer}
    assert len(there) >= 15


@pytest.mark.parametrize("case", TORCH + OTHERS, ids=lambda case: f"{case.package}.{case}")
def test_wrapped_trains_and_fails_like_unwrapped(case):
    """``step(losses)`` says what to do where a closure or create_graph is missing."""
    done = zoo.pairs(case)
    assert differing(done) == []
    assert any(pair.trained for pair in done)
    needs_more = zoo.verdict(done)[0] != "identical"
    refused = {pair.way for pair in done if pair.refused}
    assert ("step" in refused) == needs_more
    assert refused <= {"step", "backward, step"}


@pytest.mark.parametrize("case", TORCH, ids=str)
def test_every_set_of_options(case):
    """Those that do not go together fail alike, in the constructor or in the step."""
    _, how = zoo.verdict(zoo.pairs(case))
    tried = {variant.options: zoo.pair(variant, how.model, how.way, how.steps) for variant in case.variants}
    assert differing(tried.values()) == []
    options = {option for variant in tried for option in variant}
    assert "lr" in options
    assert len(tried) == 2 ** len(options)
    for option in options:
        assert tried[(option,)].plain.bits is not None
        # On a CPU the step refuses `capturable`, and `differentiable` parameters that are leaves.
        assert tried[(option,)].trained or option in ("capturable", "differentiable")


class SameStepOtherViews(torch.optim.Optimizer):
    def __init__(self, inner, tasks, weighting):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def backward(self, losses, create_graph=False):
        return zoo.summed_backward(losses, create_graph)

    def step(self, losses=None, closure=None):
        return zoo.Loop(self.inner, self.backward).step(losses, closure)


class BackwardByTask(TaskReweightedOptimizer):
    def backward(self, losses, **kwargs):
        for loss in losses.values():
            loss.backward(retain_graph=True)
        return sum(losses.values()).detach()


@pytest.mark.filterwarnings("ignore:step\\(\\) follows no weighing")
@pytest.mark.parametrize("naive", [SameStepOtherViews, BackwardByTask])
def test_a_naive_wrapper_is_seen(monkeypatch, naive):
    """The state that a plain subclass shows is its own; a backward pass a task rounds otherwise."""
    monkeypatch.setattr(zoo, "TaskReweightedOptimizer", naive)
    verdict, pair = zoo.verdict(zoo.pairs(zoo.Case("torch.optim", "AdamW")))
    assert verdict == "DIFFERS"
    assert pair.plain.failure is pair.ours.failure is None
