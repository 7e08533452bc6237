"""Weightings by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from .base import Weighting

_REGISTRY: dict[str, type[Weighting]] = {}

_W = TypeVar("_W", bound=type[Weighting])


def register(name: str) -> Callable[[_W], _W]:
    """Class decorator that registers a weighting for ``create(name)`` and ``weighting=name``.

    Raises:
        ValueError: The name is that of another class.
    """

    def decorate(cls: _W) -> _W:
        # A notebook cell that is run again registers the same class again.
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"weighting {name!r} is {_REGISTRY[name].__name__} already; choose another name")
        _REGISTRY[name] = cls
        return cls

    return decorate


def create(name: str, **hyperparameters: Any) -> Weighting:
    """Construct a registered weighting by name.

    Raises:
        ValueError: The name is not registered, or its weighting requires hyperparameters that are not given.

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
