"""The golden picture: a part of a photograph and its degradations, one training seed each.

python -m tests.restoration.golden   writes it anew; look at it before you commit it
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.restoration import images
from benchmarks.restoration.degradations import TASKS, degrade
from benchmarks.restoration.photographs import packaged

PATH = Path(__file__).with_suffix(".png")
SIDE, COLUMNS = 120, 3


def cells() -> dict[str, Tensor]:
    """The clean image and every task's, uint8 [3, 120, 120], in the picture's order: three a row."""
    clean = packaged()[0].image[None, :, 25 : 25 + SIDE, 160 : 160 + SIDE]
    degraded = {task: degrade(clean, task, [seed])[0] for seed, task in enumerate(TASKS)}
    return {"clean": clean[0], **degraded}


def split(picture: Tensor) -> list[Tensor]:
    """The cells of the golden picture."""
    return [cell for row in picture.split(SIDE, 1) for cell in row.split(SIDE, 2)]


if __name__ == "__main__":
    columns = [torch.cat(list(cells().values())[column::COLUMNS], 1) for column in range(COLUMNS)]
    picture = torch.cat(columns, 2)
    images.write(PATH, picture, images.Picture(picture))
