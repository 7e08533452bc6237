"""What is compiled beside it: a weighting with ``compile=True``, a scalarizer by torch.compile, where that works."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch

COMPILED = "compiled "  # before the name of a method


def why_not(device: str) -> str | None:
    """Compile something small; return why that does not work, or None where it does."""
    try:
        torch.compile(lambda x: (x + 1).log())(torch.ones(3, device=device))
    except Exception as error:  # of the compiler, whatever it is
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def compiled(function: FunctionType) -> Any:
    """Compile a function by itself: compilations are kept by the code, of which functions made alike have one."""
    copy = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    return torch.compile(copy)
