"""Real colour photographs: those that Python and Debian packages ship, or any folder of them. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_string
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import images

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# The pictures of Debian's packages that are none: a texture, gradients, renderings.
NO_PHOTOGRAPHS = ("analogpattern", "umang", "Fossa", "Infinite-Sea", "Painting-Colors")


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


def from_debian(folder: str | os.PathLike[str]) -> Iterator[Photograph]:
    """Yield the photographs of Debian's packages ``lomiri-wallpapers-16.04`` and ``-20.04`` at half their size.

    ``folder`` holds what ``dpkg-deb -x`` unpacks of either or both, see ``make photos``. Both together have 14
    photographs of 127.8 megapixels, 31.9 once halved: landscapes, plants, animals, interiors, things; five pictures
    that are no photographs are left out. The files are JPEG, whose artefacts the halving (bicubic, antialiased)
    removes. A photograph's name is its file's without the suffix, and they come sorted by name.
    """
    backgrounds = Path(folder) / "usr/share/backgrounds"
    files = [file for file in sorted(backgrounds.glob("*.jpg")) if not file.name.startswith(NO_PHOTOGRAPHS)]
    if not files:
        raise ValueError(
            f"from_debian was given {str(folder)!r}, which holds no photograph in usr/share/backgrounds; it wants the "
            "unpacked packages lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04: run 'make photos'"
        )
    unknown = sorted({file.stem for file in files} - debian_credits(folder).keys())
    if unknown:
        raise ValueError(
            f"from_debian was given {str(folder)!r}, where no usr/share/doc/*/copyright has {', '.join(unknown)}"
            "; it wants a licence for each photograph: unpack the whole packages, or remove what is not theirs"
        )
    for file in files:
        yield Photograph(file.stem, halve(read(file)))


def debian_credits(folder: str | os.PathLike[str]) -> dict[str, tuple[str, str]]:
    """Read (author, licence) of each picture, by its name, from the packages' copyright files."""
    credits = {}
    for page in Path(folder).glob("usr/share/doc/*/copyright"):
        for stanza in page.read_text(encoding="utf-8").split("\n\n"):
            fields = message_from_string(stanza)
            for file in fields.get("Files", "").split():
                credits[Path(file).stem] = (" ".join(fields["Copyright"].split()), fields["License"].split()[0])
    return credits


def halve(image: Tensor) -> Tensor:
    """Half the width and height, rounded down; bicubic, antialiased: uint8 [3, H, W]."""
    size = [side // 2 for side in image.shape[1:]]
    halved = F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True)[0]
    return halved.round().clamp(0, 255).to(torch.uint8)


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
