"""Weightings by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from .base import Weighting

_REGISTRY: dict[str, type[Weighting]] = {}

_W = TypeVar("_W", bound=type[Weighting])


def register(name: str) -> Callable[[_W], _W]:
    """Class decorator: make a weighting available as ``create(name)`` and as ``weighting=name``.

    Raises:
        ValueError: Another class has the name.
    """

    def decorate(cls: _W) -> _W:
        # The same class again is a notebook cell that runs again.
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"weighting {name!r} is {_REGISTRY[name].__name__} already; choose another name")
        _REGISTRY[name] = cls
        return cls

    return decorate


def create(name: str, **hyperparameters: Any) -> Weighting:
    """Make a registered weighting by name.

    Raises:
        ValueError: No weighting has the name, or one that has it needs hyperparameters that are not given.

    Example:
        >>> from art_optim import weighting
        >>> weighting.create("art", temperature=1.0).temperature
        1.0
    """
    if name not in _REGISTRY:
        raise ValueError(f"weighting {name!r} is not known; choose one of {', '.join(available())}")
    made = _REGISTRY[name]
    missing = [field.name for field in fields(made) if _required(field) and field.name not in hyperparameters]
    if missing:
        arguments = ", ".join(f"{argument}=..." for argument in missing)
        raise ValueError(f"weighting {name!r} needs {', '.join(missing)}; give {made.__name__}({arguments}) instead")
    return made(**hyperparameters)


def available() -> tuple[str, ...]:
    """Return the names of the registered weightings, sorted.

    Example:
        >>> from art_optim import weighting
        >>> "art" in weighting.available()
        True
    """
    return tuple(sorted(_REGISTRY))


def _required(field: Field[Any]) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING
