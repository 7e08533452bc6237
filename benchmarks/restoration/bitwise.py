"""Whether two runs came to the same result, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import runs


def differing(one: Path, other: Path) -> list[str]:
    """Return where the checkpoints and histories in two runs' folders differ."""
    cpu = torch.device("cpu")
    contents = [
        {runs.CHECKPOINT: runs.read_checkpoint(folder, cpu), runs.HISTORY: runs.load(folder).history()}
        for folder in (one, other)
    ]
    return differences(*contents)


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return where two nestings of tensors, arrays and plain values differ in a bit, a type or a shape.

    Example:
        >>> differences({"a": [torch.tensor([0.0])], "b": 1}, {"a": [torch.tensor([-0.0])], "b": 1})
        ['a/0']
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        items = [(key, one.get(key), other.get(key)) for key in {**one, **other}]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        items = [(index, *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [] if _bits(one) == _bits(other) else [place]
    return [where for key, a, b in items for where in differences(a, b, f"{place}/{key}".removeprefix("/"))]


def _bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), value
