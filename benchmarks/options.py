"""Options as commands take them: ``name:key=value,key=value``."""

from __future__ import annotations

from typing import Any

CONSTANTS = {"true": True, "false": False}


def parse(text: str, options: str, example: str = "name:key=1,other=0.5") -> dict[str, Any]:
    """Return the options of a text, those after its colon: numbers and truth values where they read as such.

    Raises:
        ValueError: They are not ``key=value[,key=value]``, or have a key twice.

    Example:
        >>> parse("art:temperature=0.1,guarded=false", "temperature=0.1,guarded=false")
        {'temperature': 0.1, 'guarded': False}
    """
    pairs = [option.partition("=") for option in options.split(",")]
    if not all(key and equals and value for key, equals, value in pairs):
        raise ValueError(f"{text!r} is not name[:key=value[,key=value]]; write it as in {example}")
    keys = [key for key, _, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"{text!r} has {twice[0]!r} twice; an option has one value: leave one out")
    return {key: read(value) for key, _, value in pairs}


def read(value: str) -> Any:
    """Read a whole number, a number or a truth value; return the text itself where it is none of them."""
    if value in CONSTANTS:
        return CONSTANTS[value]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def write(value: Any) -> str:
    """Write a value as :func:`read` reads it."""
    return str(value).lower() if isinstance(value, bool) else f"{value}"
