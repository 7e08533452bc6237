from __future__ import annotations

from dataclasses import dataclass

import pytest

from art_optim import Art, EqualWeighting, FixedWeighting, Weighting
from art_optim.weighting import available, create, register, registry


def test_create_makes_what_available_lists():
    assert {"art", "equal", "fixed"} <= set(available())
    assert create("art", temperature=1.0) == Art(temperature=1.0)
    assert create("equal") == EqualWeighting()
    assert create("fixed", weights=[1, 2]) == FixedWeighting((1.0, 2.0))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"weighting 'artt' is not known; choose one of .*art.*equal"):
        create("artt")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="weighting 'art' is Art already"):

        @register("art")
        @dataclass(frozen=True)
        class Other(Weighting):
            def weigh(self, losses, present, state):
                return losses


def test_a_class_may_be_registered_again(monkeypatch):
    """As a notebook cell that is run twice does."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    for _ in range(2):

        @register("again")
        @dataclass(frozen=True)
        class Again(Weighting):
            def weigh(self, losses, present, state):
                return losses

    assert create("again") == Again()


def test_a_method_without_weigh_cannot_be_made():
    @dataclass(frozen=True)
    class Empty(Weighting):
        pass

    with pytest.raises(TypeError, match="weigh"):
        Empty()
