"""Problems to compare weightings on, by name; none needs a download."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.options import parse

from .problem import Losses, Metric, Problem, Split

__all__ = ["PROBLEMS", "Losses", "Metric", "Problem", "Split", "create"]

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "restoration": ("restoration:Restoration", {}),
    "helmholtz": ("pinn:Helmholtz", {}),
    "burgers": ("pinn:Burgers", {}),
    "multidigits": ("multidigits:MultiDigits", {}),
    "multidigits-unequal": ("multidigits:MultiDigits", {"unequal": True}),
    "vae": ("vae:VAE", {}),
    "forces": ("forces:Forces", {}),
    "synthetic": ("synthetic:Synthetic", {}),
    "synthetic-scales": ("synthetic:Synthetic", {"scale_ratio": 100.0}),
    "synthetic-noise": ("synthetic:Synthetic", {"noise": 1.0}),
    "synthetic-conflict": ("synthetic:Synthetic", {"conflict": 0.9}),
    "synthetic-rare": ("synthetic:Synthetic", {"rare": 0.1}),
    "synthetic-one-task": ("synthetic:Synthetic", {"one_task": True}),
}


def create(text: str) -> Problem:
    """Construct the problem that a text names: ``name``, ``name:key=value,...`` or ``module:Class`` of one's own.

    Raises:
        ValueError: The name is not known, the module has no such class, or the class takes no such argument.

    Example:
        >>> create("synthetic:num_tasks=3").tasks
        ('task 0', 'task 1', 'task 2')
    """
    name, _, rest = text.partition(":")
    module, options = f"{name}:{rest}", {}
    if name in PROBLEMS:
        path, options = PROBLEMS[name]
        module, options = f"{__name__}.{path}", options | (parse(text, rest) if ":" in text else {})
    elif not rest or "=" in rest:
        raise ValueError(
            f"problem {text!r} is not known; choose one of {', '.join(PROBLEMS)}, or module:Class of yours"
        )
    found = _load(text, module)
    try:
        return found(**options)
    except TypeError as error:
        raise ValueError(f"problem {text!r}: {error}") from None


def _load(text: str, path: str) -> type[Problem]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"problem {text!r}: {error}; give module:Class that Python can import from here") from None
    if not (isinstance(found, type) and issubclass(found, Problem)):
        raise ValueError(f"problem {text!r} is no class of problems; derive it from benchmarks.problems.Problem")
    return found
