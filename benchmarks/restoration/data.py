"""Patches to train on, decoded and cropped as they are drawn; nothing kept in memory but the names of the files."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .layouts import Pair, Pairs
from .samplers import Draw, Sampler, Steps


@dataclass(frozen=True)
class Batch:
    """Patches of several tasks.

    - ``degraded``, ``clean``: [B, 3, P, P], RGB; uint8 from the loader, float32 in 0..1 after ``to``.
    - ``task_ids``: int64 [B].
    - ``key``: [B, 3, P, P], another patch of each degraded picture, for AirNet's contrastive loss; or None.
    """

    degraded: Tensor
    clean: Tensor
    task_ids: Tensor
    key: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Copy 8-bit patches to a device, and convert them there to float32 in 0..1."""

        def move(patches: Tensor) -> Tensor:
            return patches.to(device, non_blocking=True).float().div_(255)

        return Batch(
            move(self.degraded),
            move(self.clean),
            self.task_ids.to(device, non_blocking=True),
            None if self.key is None else move(self.key),
        )

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        key = None if self.key is None else self.key.pin_memory()
        return Batch(self.degraded.pin_memory(), self.clean.pin_memory(), self.task_ids.pin_memory(), key)


class Patches(Dataset):  # type: ignore[type-arg]
    """Random patches of the pairs; which one, is a function of the seed and the number of the draw.

    A patch is cut out, then mirrored and turned into one of eight positions, each as likely (MiOIR's code; AirNet,
    PromptIR and IDR never leave a patch as it was, TransWeather always does). Noise is added last.

    A picture smaller than the patch is continued at its right and bottom by its mirror image, as IDR means to; MiOIR,
    AirNet and PromptIR stop with an error, and TransWeather stretches the picture.

    With ``shuffle_colours`` the channels of a patch come in an order drawn at random: of a handful of photographs a
    network would otherwise learn the colours by heart.
    """

    def __init__(self, pairs: Pairs, patch: int, seed: int, key: bool = False, shuffle_colours: bool = False) -> None:
        if patch < 1:
            raise ValueError(f"patch is {patch}; it must be a positive number of pixels: give e.g. 128")
        self.pairs, self.patch, self.seed, self.key = pairs, patch, seed, key
        self.shuffle_colours = shuffle_colours

    def __getitem__(self, draw: Draw) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
        """Return the degraded and the clean patch, uint8 [P, P, 3], the task and the key."""
        pair = self.pairs[draw.sample]
        try:
            return self._draw(pair, np.random.default_rng(SeedSequence(self.seed, spawn_key=(1, draw.number))))
        except OSError as error:
            raise OSError(
                f"{pair.degraded} or its partner {pair.clean} cannot be decoded ({error}); both were whole pictures "
                "when the run started, by their ends: restore them and resume the run"
            ) from error

    def _draw(self, pair: Pair, generator: Generator) -> tuple[np.ndarray, np.ndarray, int, np.ndarray | None]:
        with Image.open(pair.degraded) as file, Image.open(pair.clean) as clean:
            degraded = clean if pair.sigma else file  # one file, decoded once
            box, position = self._place(degraded, generator)
            clean_patch, patch = (self._cut(image, box, position) for image in (clean, degraded))
            patch = add_noise(patch, pair.sigma, generator)
            key = None
            if self.key:
                key = add_noise(self._cut(degraded, *self._place(degraded, generator)), pair.sigma, generator)
        if self.shuffle_colours:
            order = generator.permutation(3)
            patch, clean_patch = patch[..., order], clean_patch[..., order]
            key = None if key is None else key[..., order]
        return patch, clean_patch, pair.task, key

    def _place(self, image: Image.Image, generator: Generator) -> tuple[tuple[int, int, int, int], int]:
        left, top = (int(generator.integers(max(side - self.patch, 0) + 1)) for side in image.size)
        right, bottom = (min(start + self.patch, side) for start, side in zip((left, top), image.size, strict=True))
        return (left, top, right, bottom), int(generator.integers(8))

    def _cut(self, image: Image.Image, box: tuple[int, int, int, int], position: int) -> np.ndarray:
        patch = np.asarray(image.crop(box).convert("RGB"))
        below, beside = (self.patch - side for side in patch.shape[:2])
        if below or beside:
            patch = np.pad(patch, ((0, below), (0, beside), (0, 0)), mode="symmetric")
        turned = np.rot90(patch, position % 4)
        return turned[::-1] if position >= 4 else turned


def add_noise(picture: np.ndarray, sigma: int, generator: Generator) -> np.ndarray:
    """Add Gaussian noise of ``sigma`` of 255 to a picture, uint8 [H, W, 3]; clipped, and cut off to whole numbers.

    AirNet's, PromptIR's and IDR's code cut the fraction off too, which darkens the picture by half a level; the
    ``noise`` task of MiOIR rounds.
    """
    if not sigma:
        return picture
    noise = generator.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + sigma * noise, 0, 255).astype(np.uint8)


def load(pair: Pair, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the whole degraded and clean picture of a pair, uint8 [3, H, W].

    Noise of a ``sigma`` depends on ``seed``, ``sigma`` and the file's name, so each test picture has its own.
    """
    clean = _decode(pair.clean)
    if not pair.sigma:
        return _tensor(_decode(pair.degraded)), _tensor(clean)
    sequence = SeedSequence(seed, spawn_key=(2, pair.sigma, crc32(pair.clean.name.encode())))
    return _tensor(add_noise(clean, pair.sigma, np.random.default_rng(sequence))), _tensor(clean)


def loader(
    pairs: Pairs,
    sampler: Sampler,
    patch: int,
    steps: range,
    *,
    key: bool = False,
    shuffle_colours: bool = False,
    workers: int = 0,
) -> DataLoader[Batch]:
    """Return a loader of the steps' batches, this process's slice of each.

    A batch depends on (seed, step, rank) alone: neither on ``workers`` nor on where ``steps`` starts. The loader draws
    no number from torch's global generator. Workers run one thread each, leave an interrupt to the main process, and
    end with it.
    """
    return DataLoader(
        Patches(pairs, patch, sampler.seed, key, shuffle_colours),
        batch_sampler=Steps(sampler, steps),
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )


def _collate(samples: list[tuple[np.ndarray, np.ndarray, int, np.ndarray | None]]) -> Batch:
    degraded, clean, tasks, keys = zip(*samples, strict=True)
    key = None if keys[0] is None else _tensor(np.stack(keys))
    return Batch(_tensor(np.stack(degraded)), _tensor(np.stack(clean)), torch.tensor(tasks), key)


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).movedim(-1, -3).contiguous()


def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
