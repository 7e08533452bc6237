"""Real colour photographs: the seven that Python packages ship, or any folder of them. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import images

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class Photograph:
    """A clean photograph.

    - ``name``: a short name, unique in its list.
    - ``image``: uint8 [3, H, W], RGB.
    - ``depth``: float32 [H, W], distance from the camera over the largest distance (far = 1), or None if unknown.
    """

    name: str
    image: Tensor
    depth: Tensor | None = None


def packaged() -> list[Photograph]:
    """Photographs shipped in the wheels of scikit-image and scikit-learn (7, 1.8 megapixels).

    In this order: astronaut, chelsea, coffee, motorcycle (with its depth), rocket; china, flower.
    """
    skimage = _package("skimage", "scikit-image") / "data"
    sklearn = _package("sklearn", "scikit-learn") / "datasets" / "images"
    with np.load(skimage / "motorcycle_disp.npz") as archive:
        disparity = torch.from_numpy(archive["arr_0"])
    return [
        Photograph("astronaut", read(skimage / "astronaut.png")),
        Photograph("chelsea", read(skimage / "chelsea.png")),
        Photograph("coffee", read(skimage / "coffee.png")),
        Photograph("motorcycle", read(skimage / "motorcycle_left.png"), depth_from_disparity(disparity)),
        Photograph("rocket", read(skimage / "rocket.jpg")),
        Photograph("china", read(sklearn / "china.jpg")),
        Photograph("flower", read(sklearn / "flower.jpg")),
    ]


def from_folder(path: str | os.PathLike[str]) -> list[Photograph]:
    """The PNG, JPEG and WebP files directly in ``path``, sorted by file name, which is their name; no depth."""
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"from_folder was given {str(path)!r}, which holds no photograph; it wants files that end in "
            f"{', '.join(SUFFIXES)}: give the folder that holds them directly, subfolders are not searched"
        )
    return [Photograph(file.name, read(file)) for file in files]


def split(photographs: Sequence[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """(training, validation): every fourth photograph validates, from the second on.

    Of the packaged ones these are chelsea (fur, eyes, a soft background, indoors) and china (daylight, sky, foliage,
    fine regular edges): two unlike scenes with natural texture, and 78% of the pixels are left for training.
    """
    if len(photographs) < 2:
        raise ValueError(
            f"split was given {len(photographs)} photograph(s); it wants at least 2, one to train on and one to "
            "validate on: add photographs to the list"
        )
    training = [photograph for index, photograph in enumerate(photographs) if index % 4 != 1]
    return training, list(photographs[1::4])


def read(path: str | os.PathLike[str]) -> Tensor:
    """Read a photograph as ``images.read`` does, without its alpha and in 8 bits: uint8 [3, H, W]."""
    return images.read(path).rgb()


def depth_from_disparity(disparity: Tensor, offset: float = 31.086) -> Tensor:
    """Relative depth ``z / max z``, where ``z = 1 / (disparity + offset)``: [H, W] pixels to float32 [H, W] in (0, 1].

    ``offset`` is the distance in pixels between the principal points of the two cameras, here that of Middlebury 2014's
    motorcycle at a quarter of its size. A pixel without a finite disparity is one that the other camera cannot see,
    hidden behind something nearer: it takes the farther of the closest known pixels to its left and right.
    """
    known, column = disparity.isfinite(), torch.arange(disparity.shape[1])
    to_left = column.where(known, 0).cummax(1).values
    to_right = column.where(known, len(column) - 1).flip(1).cummin(1).values.flip(1)
    filled = disparity.gather(1, to_left).minimum(disparity.gather(1, to_right))
    depth = 1 / (filled + offset)
    return depth / depth.max()


def _package(module: str, distribution: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"packaged() reads the photographs that {distribution} ships, and {distribution} is not installed: "
            f"pip install {distribution}, or take your own photographs with from_folder"
        )
    return Path(spec.origin).parent
