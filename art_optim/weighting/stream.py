"""Random generators whose state is a tensor, and so is on the device and in the checkpoint.

A stream is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a 64-bit counter
that is incremented by a constant, and its hash. The generators of torch do not serve here: their state is on the host,
or cannot be read inside a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 23  # the centre of each of 2^23 cells of (0, 1) is a float32


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def init_streams(seed: int, shape: tuple[int, ...], device: torch.device | str | None) -> Tensor:
    """Return int64 streams of the given shape, independent of each other and of those of another seed."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device=device).reshape(shape)
    return _hash(_hash(torch.full_like(index, seed)) + index)


def next_uniforms(streams: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two independent float32 numbers in (0, 1) from every stream, and advance those in ``moving``, in place."""
    bits = _hash(streams + _GAMMA)
    streams.add_(moving * _GAMMA)
    high, low = _shift(bits, 64 - _BITS), _shift(bits, 64 - 2 * _BITS) & ((1 << _BITS) - 1)
    return _middle(high), _middle(low)


def _middle(cell: Tensor) -> Tensor:
    return (cell.to(torch.float32) + 0.5) * 2.0**-_BITS


def _hash(number: Tensor) -> Tensor:
    number = (number ^ _shift(number, 30)) * _MIX[0]
    number = (number ^ _shift(number, 27)) * _MIX[1]
    return number ^ _shift(number, 31)


def _shift(number: Tensor, places: int) -> Tensor:
    # A logical shift to the right: that of int64 is arithmetic.
    return (number >> places) & ((1 << (64 - places)) - 1)
