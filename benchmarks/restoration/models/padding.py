"""Padding to sizes that a network can take."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int, minimum: int = 0) -> Tensor:
    """Pad images [B, C, H, W] at the right and the bottom to multiples of ``multiple`` that are at least ``minimum``.

    The images are mirrored without repeating the border (``"reflect"``); an image smaller than its padding repeats the
    border instead.

    Args:
        x: The images.
        multiple: What both sides become multiples of.
        minimum: Smallest side of the result, itself a multiple.
    """
    height, width = x.shape[-2:]
    bottom, right = (max(-side % multiple, minimum - side) for side in (height, width))
    if not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if bottom < height and right < width else "replicate")
