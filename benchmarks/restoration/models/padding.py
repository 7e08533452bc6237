"""Padding to sizes that a network can take."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad images [B, C, H, W] at the right and the bottom until both sides are multiples of ``multiple``.

    The images are mirrored without repeating the border (``"reflect"``); an image smaller than its padding repeats the
    border instead.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if bottom < height and right < width else "replicate")
