"""Folders in the four settings' layouts, from photographs and synthetic degradations.

A photograph is degraded as a whole, at levels drawn for it; for training it is then cut into overlapping sub-images
(MiOIR: 300 x 300 pixels, every 150), for testing it stays whole. Photographs to test on are never trained on. The
noise of rain-haze-noise and of rain-haze-noise-blur-dark is added when a picture is drawn, so its files are clean.

``prepared.json`` beside the pictures records what they are: the photographs, the seed, every picture's levels, the
files cut from it, and the digests that a run's identity takes in.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Generator, Tensor

from . import degradations, layouts, photographs
from .degradations import degrade, draw
from .layouts import SETTINGS, SPLITS
from .photographs import Photograph

PACKAGED = "packaged"
ON_THE_FLY = {("rain-haze-noise", "noise"), ("rain-haze-noise-blur-dark", "noise")}
SMALLEST_SIDE = max(degradations.SMALLEST_SIDE.values())
IDR = {"rain": "derain", "haze": "dehaze", "noise": "denoise", "blur": "deblur", "dark": "delowlight"}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A photograph, known by its name until it is needed; ``file`` is None for a packaged one."""

    name: str
    file: str | None

    def open(self) -> Photograph:
        """Decode the photograph."""
        if self.file is None:
            return _packaged()[self.name]
        return Photograph(self.name, photographs.read(self.file))

    def digest(self) -> str:
        """SHA-256 of the file, or of a packaged photograph's pixels."""
        data = self.open().image.numpy().tobytes() if self.file is None else Path(self.file).read_bytes()
        return sha256(data).hexdigest()


@dataclass(frozen=True)
class Picture:
    """A photograph to be degraded by a task: the ``repeat``-th time, at levels drawn from ``seed``.

    ``number`` counts the photographs of the split from 1, and tells them apart in the files' names.
    """

    setting: str
    split: str
    task: str
    source: Source
    number: int
    repeat: int
    repeats: int
    seed: int
    size: int | None
    folder: str

    @property
    def levels(self) -> dict[str, float]:
        """Levels of the degradation; none if noise is added later."""
        if (self.setting, self.task) in ON_THE_FLY:
            return {}
        return draw(self.task, Generator().manual_seed(self.seed), self.split)


def sources(folder: str | os.PathLike[str]) -> list[Source]:
    """The photographs of a folder by name, or the packaged ones."""
    if str(folder) == PACKAGED:
        return [Source(name, None) for name in _packaged()]
    if not Path(folder).is_dir():
        raise ValueError(
            f"photographs are {str(folder)!r}, which is no folder; it must be one, or {PACKAGED!r}: give the folder "
            "that holds the photographs"
        )
    files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in photographs.SUFFIXES)
    if not files:
        raise ValueError(
            f"photographs are {str(folder)!r}, which holds none; their files must end in "
            f"{', '.join(photographs.SUFFIXES)}: give the folder that holds them directly, subfolders are not searched"
        )
    for file in files:
        fault = layouts.header(file)
        if not isinstance(fault, str) and min(fault) < SMALLEST_SIDE:
            fault = f"has {fault[0]} x {fault[1]} pixels"
        if isinstance(fault, str):
            raise ValueError(
                f"photograph {str(file)!r} {fault}; a photograph must be a whole 8-bit picture with sides of at least "
                f"{SMALLEST_SIDE} pixels: restore or remove the file"
            )
    return [Source(file.name, str(file.absolute())) for file in files]


def prepare(
    setting: str,
    output: str | os.PathLike[str],
    train: str | os.PathLike[str] = PACKAGED,
    test: str | os.PathLike[str] | None = None,
    *,
    size: int = 300,
    levels: int = 1,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the training and test pictures of a setting, and return what ``prepared.json`` says.

    Called again after an interruption, it writes what is missing: a file is there as a whole or not at all.

    :param train: Folder of photographs, or ``"packaged"``.
    :param test: The same for testing; by default, every fourth photograph of ``train`` is set aside (
        ``photographs.split``).
    :param size: Side of the sub-images for training, in pixels.
    :param levels: How often each photograph is degraded by a task, each time at levels of its own.
    :param jobs: Processes to work with.
    :param progress: Called with the number of pictures done and of all.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting is {setting!r}; it must be one of {', '.join(SETTINGS)}: choose one of them")
    for name, value, least in (("size", size, 8), ("levels", levels, 1), ("jobs", jobs, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more: raise it")
    root = Path(output)
    split = dict(
        zip(SPLITS, photographs.split(sources(train)) if test is None else map(sources, (train, test)), strict=True)
    )
    facts: dict[str, Any] = {
        "setting": setting,
        "seed": seed,
        "size": size,
        "levels": levels,
        "photographs": {
            name: [{"name": source.name, "sha256": source.digest()} for source in split[name]] for name in SPLITS
        },
    }
    training = {photograph["sha256"]: photograph["name"] for photograph in facts["photographs"]["train"]}
    for photograph in facts["photographs"]["test"]:
        if photograph["sha256"] in training:
            raise ValueError(
                f"photograph {photograph['name']!r} to test on is {training[photograph['sha256']]!r} to train on; a "
                "network is tested on photographs that it has not seen: remove it from one of the folders"
            )
    _claim(root, facts)
    pictures = [
        Picture(
            setting,
            name,
            task,
            source,
            number,
            repeat,
            levels,
            _seed(seed, name, number, task, repeat),
            size if name == "train" else None,
            str(root),
        )
        for name in SPLITS
        for number, source in enumerate(split[name], start=1)
        for task in SETTINGS[setting]
        for repeat in range(1 if (setting, task) in ON_THE_FLY else levels)
    ]
    files = _write_all(pictures, jobs, progress)
    _write_lists(setting, root, pictures, files)
    facts |= {
        "pictures": [
            {
                "split": picture.split,
                "photograph": picture.source.name,
                "task": picture.task,
                "seed": picture.seed,
                "levels": picture.levels,
                "files": [degraded for degraded, _ in names],
            }
            for picture, names in zip(pictures, files, strict=True)
        ],
        "digest": {name: layouts.digest(layouts.read(setting, root, name)) for name in SPLITS},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "finished": True,
    }
    _write(root / "prepared.json", lambda file: file.write(json.dumps(facts, indent=1).encode()))
    return facts


def windows(height: int, width: int, size: int | None) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the sub-images, in rows; of the whole picture if ``size`` is None.

    A square starts every half side, and one is flush with the far edge if more than 48/300 of a side would be left
    over, as in MiOIR's script; a picture that is smaller than a square is kept at its own height or width.
    """
    return [
        (left, top, left + across, top + down)
        for top, down in _starts(height, size or height)
        for left, across in _starts(width, size or width)
    ]


def _starts(side: int, size: int) -> list[tuple[int, int]]:
    if side <= size:
        return [(0, side)]
    starts = list(range(0, side - size + 1, max(1, size // 2)))
    if side - size - starts[-1] > size * 48 // 300:
        starts.append(side - size)
    return [(start, size) for start in starts]


def file_names(picture: Picture, part: int, levels: Mapping[str, float]) -> tuple[str, str]:
    """Name the degraded and the clean file of a sub-image (``part`` from 1), relative to the folder."""
    task, train = picture.task, picture.split == "train"
    nth = "" if picture.repeats == 1 else f"{picture.repeat + 1:02}"
    scene = f"{picture.number * 10_000 + part}" if train else f"{picture.number:04}"
    if picture.setting == "multiple":
        if train:
            name = f"sub{picture.size}/{picture.number:04}{nth}_s{part:03}.png"
            return f"{task}_{name}", f"GT_{name}"
        return f"CL_test/single_indis/{task}/{scene}{nth}.png", f"CL_test/original/GT/{scene}{nth}.png"
    if picture.setting == "rain-haze-snow":
        folder = "train" if train else "test/prepared"
        name = {
            "rain": lambda: f"{scene}{nth}_rain.png",
            "haze": lambda: f"im_{scene}{nth}_s{100 * levels['airlight']:.0f}_a{10 * levels['density']:02.0f}.png",
            "snow": lambda: f"snow_{scene}{nth}.png",
        }[task]()
        return f"{folder}/input/{name}", f"{folder}/gt/{name}"
    haze = f"{scene}_{levels['airlight']:.4f}_{levels['density']:.4f}.png" if task == "haze" else ""
    if picture.setting == "rain-haze-noise-blur-dark":
        clean = f"{picture.split}/{IDR[task]}/target/{scene}.png"
        if task == "noise":
            return clean, clean
        return f"{picture.split}/{IDR[task]}/input/{haze or f'{scene}_{nth or 1}.png'}", clean
    if task == "noise":
        return (f"Train/Denoise/{scene}.png" if train else f"test/denoise/{scene}.png",) * 2
    if task == "haze":
        folder, degraded, clean = (
            ("Train/Dehaze", "synthetic/part1", "original") if train else ("test/dehaze", "input", "target")
        )
        return f"{folder}/{degraded}/{haze}", f"{folder}/{clean}/{scene}.png"
    if train:
        return f"Train/Derain/rainy/rain-{scene}{nth}.png", f"Train/Derain/gt/norain-{scene}{nth}.png"
    return f"test/derain/input/{scene}{nth}.png", f"test/derain/target/{scene}{nth}.png"


def _write_all(pictures: list[Picture], jobs: int, progress: Progress | None) -> list[list[tuple[str, str]]]:
    def collect(results: Iterator[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
        collected = []
        for names in results:
            collected.append(names)
            if progress is not None:
                progress(len(collected), len(pictures))
        return collected

    if jobs == 1:
        return collect(map(write, pictures))
    # Spawned, as the parent may have threads. The workers inherit that interrupts are ignored; they end with the
    # context, at once if the parent is interrupted.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(min(jobs, len(pictures)), torch.set_num_threads, (1,))
    finally:
        signal.signal(signal.SIGINT, handler)
    with pool:
        return collect(pool.imap(write, pictures))


def write(picture: Picture) -> list[tuple[str, str]]:
    """Write the files of a picture that are not there yet; return the names of all."""
    root, levels = Path(picture.folder), picture.levels
    width, height = _upright_size(picture.source)
    boxes = windows(height, width, picture.size)
    names = [file_names(picture, part, levels) for part in range(1, len(boxes) + 1)]
    if all((root / name).exists() for pair in names for name in pair):
        return names
    photograph = picture.source.open()
    clean = degraded = photograph.image
    if (picture.setting, picture.task) not in ON_THE_FLY:
        depth = None if photograph.depth is None else photograph.depth[None]
        degraded = degrade(clean[None], picture.task, [picture.seed], depth, picture.split)[0]
    for (degraded_name, clean_name), (left, top, right, bottom) in zip(names, boxes, strict=True):
        for name, image in ((degraded_name, degraded), (clean_name, clean)):
            if not (root / name).exists():
                _save(root / name, image[:, top:bottom, left:right], compress=picture.split == "test")
    return names


def _write_lists(setting: str, root: Path, pictures: list[Picture], files: list[list[tuple[str, str]]]) -> None:
    lists: dict[str, list[str]] = {}
    for picture, names in zip(pictures, files, strict=True):
        for degraded, clean in names:
            if setting == "rain-haze-snow":
                file = "train/allweather.txt" if picture.split == "train" else "test/prepared.txt"
                lists.setdefault(file, []).append(degraded.removeprefix(f"{picture.split}/"))
            elif setting == "rain-haze-noise-blur-dark":
                file = f"docs/{picture.split}/{picture.split}_{IDR[picture.task]}_prepared.txt"
                lists.setdefault(file, []).append(f"{degraded}|{clean}")
    for name, listed in lists.items():
        text = "".join(f"{line}\n" for line in listed).encode()
        _write(root / name, lambda file, text=text: file.write(text))


def _claim(root: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but an interrupted preparation of the same; else say whose it is."""
    record = root / "prepared.json"
    for unfinished in root.rglob(".*.part"):
        unfinished.unlink()
    if record.exists():
        found = json.loads(record.read_text())
        differing = [name for name in facts if found.get(name) != facts[name]]
        if differing:
            raise ValueError(
                f"{root} was prepared with another {', '.join(differing)}; a folder must hold one preparation: choose "
                "another folder, or remove this one"
            )
    elif root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} holds other files; the folder must be new, or that of an interrupted preparation: choose another"
        )
    else:
        _write(record, lambda file: file.write(json.dumps({**facts, "finished": False}, indent=1).encode()))


def _seed(seed: int, split: str, number: int, task: str, repeat: int) -> int:
    key = (SPLITS.index(split), number, crc32(task.encode()), repeat)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=1)
def _packaged() -> dict[str, Photograph]:
    return {photograph.name: photograph for photograph in photographs.packaged()}


def _upright_size(source: Source) -> tuple[int, int]:
    if source.file is None:
        height, width = source.open().image.shape[1:]
        return width, height
    with Image.open(source.file) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # Orientation: on its side
        return image.size[::-1] if turned else image.size


def _save(path: Path, image: Tensor, compress: bool) -> None:
    # Uncompressed, a PNG takes 1.8 times the space, but training waits for decoding, which is 2.3 times as fast.
    picture, level = Image.fromarray(image.permute(1, 2, 0).numpy()), 3 if compress else 0
    _write(path, lambda file: picture.save(file, "PNG", compress_level=level))


def _write(path: Path, write_to: Callable[[Any], object]) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        try:
            write_to(file)
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
