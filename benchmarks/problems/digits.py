"""The handwritten digits that scikit-learn ships, split by image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor


@dataclass(frozen=True)
class Digits:
    """Images of single digits: ``images`` [N, 8, 8] in 0..1, and ``labels`` [N], 0 to 9."""

    images: Tensor
    labels: Tensor


@cache
def digits() -> dict[str, Digits]:
    """Return the digits to train, validate and test on: three, one and one fifth of the 1797 images.

    The images are shuffled once, the same way always. A problem that pairs digits pairs those of one split, so that no
    held-out image is ever trained on.
    """
    loaded = load_digits()
    images = torch.from_numpy(loaded.images).float() / 16
    labels = torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(images), generator=Generator().manual_seed(0))
    fifth = len(order) // 5
    parts = {"validation": order[:fifth], "test": order[fifth : 2 * fifth], "training": order[2 * fifth :]}
    return {split: Digits(images[part], labels[part]) for split, part in parts.items()}
