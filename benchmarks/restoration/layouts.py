"""The four settings' folders, read where their official code looks for the files.

multiple (MiOIR)::

    {sr,blur,noise,jpeg,rain,haze,dark}_sub300/0001_s001.png -> GT_sub300/0001_s001.png        train
    CL_test/single_indis/{sr,...,dark}/0001.png -> CL_test/original/GT/0001.png                test

rain-haze-noise (AirNet, PromptIR); noise of sigma 15, 25 and 50 is added when a picture is drawn::

    Train/Derain/rainy/rain-1.png -> Train/Derain/gt/norain-1.png                              train
    Train/Dehaze/synthetic/part1/0025_0.8_0.04.jpg -> Train/Dehaze/original/0025.jpg
    Train/Denoise/2018.jpg
    test/derain/Rain100L/input/1.png -> test/derain/Rain100L/target/1.png                      test
    test/dehaze/input/0025_0.8_0.2.jpg -> test/dehaze/target/0025.png
    test/denoise/bsd68/3096.jpg

rain-haze-snow (TransWeather's AllWeather); lists of degraded files, whose names tell the task::

    train/allweather.txt: input/0_rain.png -> train/gt/0_rain.png             Raindrop, here rain
                          input/im_0001_s80_a04.png                           Outdoor-Rain (rain and haze), here haze
                          any other name                                      Snow100K, here snow
    test/*.txt: raindrop/input/0_rain.png -> test/raindrop/gt/0_rain.png

rain-haze-noise-blur-dark (IDR); lists of lines ``input|target``, whose names tell the task::

    docs/train/train_{derain,dehaze,denoise,deblur,delowlight}_*.txt                           train
    docs/test/test_{derain,dehaze,denoise,deblur,delowlight}_*.txt                             test

IDR draws noise as AirNet does: seven types of degradation (three sigmas), five tasks. Its table tests sigma 25 alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from PIL import Image

SETTINGS: dict[str, tuple[str, ...]] = {
    "multiple": ("sr", "blur", "noise", "jpeg", "rain", "haze", "dark"),
    "rain-haze-noise": ("rain", "haze", "noise"),
    "rain-haze-snow": ("rain", "haze", "snow"),
    "rain-haze-noise-blur-dark": ("rain", "haze", "noise", "blur", "dark"),
}
SPLITS = ("train", "test")
SIGMAS = (15, 25, 50)
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

Progress = Callable[[int, int], None]
Found = Iterator[tuple[str, str, str, int]]
"""(degraded file, clean file, task, sigma), the files relative to the folder."""


class Pair(NamedTuple):
    """A degraded picture and the clean one; with a ``sigma``, noise is yet to be added and both are the same file."""

    degraded: Path
    clean: Path
    task: int
    sigma: int = 0


@dataclass(frozen=True, eq=False)
class Pairs(Sequence[Pair]):
    """The pairs of a folder, sorted by task and name; arrays only, some 50 bytes a pair, shared by loader processes.

    - ``names``, ``ends``: the distinct files' names relative to ``folder``, joined, and where each one ends.
    - ``degraded``, ``clean``: int32 [N], the pair's files.
    - ``task_ids``, ``sigmas``: uint8 [N]; sigma 0 stands for a degraded picture on disk.
    """

    setting: str
    folder: Path
    names: bytes
    ends: np.ndarray
    degraded: np.ndarray
    clean: np.ndarray
    task_ids: np.ndarray
    sigmas: np.ndarray

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that ``task_ids`` count."""
        return SETTINGS[self.setting]

    @property
    def files(self) -> int:
        """Number of distinct files."""
        return len(self.ends)

    def name(self, file: int) -> str:
        """Name of a file relative to the folder."""
        start = self.ends[file - 1] if file else 0
        return os.fsdecode(self.names[start : self.ends[file]])

    def __len__(self) -> int:
        return len(self.task_ids)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        degraded, clean = (self.folder / self.name(int(files[index])) for files in (self.degraded, self.clean))
        return Pair(degraded, clean, int(self.task_ids[index]), int(self.sigmas[index]))


def read(setting: str, folder: str | os.PathLike[str], split: str = "train", progress: Progress | None = None) -> Pairs:
    """Find the pairs of a setting's folder and check every file.

    The header and the end of each file are read: a file that is missing, no picture, truncated or not of its partner's
    size is named with its partner in a ``ValueError``. ``progress(done, total)`` is called now and then.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting is {setting!r}; it must be one of {', '.join(SETTINGS)}: choose one of them")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}: choose one of them")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give that of the data set of {setting!r}, or make one: prepare")
    pairs = _pack(setting, root, _READERS[setting](root, split))
    for task, count in zip(pairs.tasks, np.bincount(pairs.task_ids, minlength=len(pairs.tasks)), strict=True):
        if not count:
            raise ValueError(
                f"{root} holds no {split} pair of the task {task!r}; {setting!r} wants the tasks "
                f"{', '.join(pairs.tasks)}: complete the folder (the layout is in benchmarks/restoration/layouts.py)"
            )
    _check(pairs, progress)
    return pairs


def digest(pairs: Pairs, progress: Progress | None = None) -> str:
    """Return a SHA-256 that changes with the pairs, the files' names, their sizes in bytes or their contents.

    Of each file the first and last 16 KiB are hashed. A PNG ends with a checksum of all its pixels; in another format,
    an edit that keeps the file's length and both its ends goes unnoticed.
    """
    total = sha256(pairs.setting.encode())
    for array, dtype in ((pairs.degraded, "<i4"), (pairs.clean, "<i4"), (pairs.task_ids, "u1"), (pairs.sigmas, "u1")):
        total.update(array.astype(dtype).tobytes())
    for number in _counted(pairs.files, progress):
        name = pairs.name(number)
        with open(pairs.folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(1 << 14)
            file.seek(max(size - (1 << 14), len(start)))
            total.update(b"%d %d " % (len(name), size) + os.fsencode(name) + start + file.read())
    return total.hexdigest()


def _multiple(root: Path, split: str) -> Found:
    if split == "train":
        found = sorted(path.name for path in root.glob("GT_sub*"))
        if len(found) != 1:
            raise ValueError(
                f"{root} holds {len(found)} folders GT_sub*; 'multiple' wants one, beside those of its tasks: "
                "give the folder that holds GT_sub300, or remove the other sizes"
            )
        clean, folders = found[0], [task + found[0].removeprefix("GT") for task in SETTINGS["multiple"]]
    else:
        clean, folders = "CL_test/original/GT", [f"CL_test/single_indis/{task}" for task in SETTINGS["multiple"]]
    targets = set(_pictures(root, clean))
    for task, degraded in zip(SETTINGS["multiple"], folders, strict=True):
        for name in targets.union(_pictures(root, degraded)):
            yield f"{degraded}/{name}", f"{clean}/{name}", task, 0


def _rain_haze_noise(root: Path, split: str) -> Found:
    if split == "train":
        for name in _pictures(root, "Train/Derain/rainy"):
            if name.startswith("rain-"):  # the original archive has streaks and regions beside
                yield f"Train/Derain/rainy/{name}", f"Train/Derain/gt/no{name}", "rain", 0
        for name in _pictures(root, "Train/Dehaze/synthetic", deep=True):
            clean = _before_underscore(name) + os.path.splitext(name)[1]
            yield f"Train/Dehaze/synthetic/{name}", f"Train/Dehaze/original/{clean}", "haze", 0
        yield from _noise(f"Train/Denoise/{name}" for name in _pictures(root, "Train/Denoise", deep=True))
    else:
        for name in _pictures(root, "test/derain", deep=True):
            if "input" in Path(name).parts:
                yield f"test/derain/{name}", f"test/derain/{name.replace('input', 'target')}", "rain", 0
        for name in _pictures(root, "test/dehaze/input"):
            yield f"test/dehaze/input/{name}", f"test/dehaze/target/{_before_underscore(name)}.png", "haze", 0
        yield from _noise(f"test/denoise/{name}" for name in _pictures(root, "test/denoise", deep=True))


def _rain_haze_snow(root: Path, split: str) -> Found:
    for degraded in _lines(root, "train/allweather.txt" if split == "train" else "test/*.txt"):
        name = Path(degraded).name
        task = "rain" if re.match(r"\d+_rain\b", name) else "haze" if re.match(r"im_\d+_s\d+_a\d+", name) else "snow"
        yield f"{split}/{degraded}", f"{split}/{degraded.replace('input', 'gt')}", task, 0


_IDR = {"derain": "rain", "dehaze": "haze", "denoise": "noise", "deblur": "blur", "delowlight": "dark"}


def _idr(root: Path, split: str) -> Found:
    for task, idr in ((_IDR[idr], idr) for idr in _IDR):
        lists = f"docs/{split}/{split}_{idr}*.txt"
        for line in _lines(root, lists):
            degraded, bar, clean = line.partition("|")
            if not bar:
                raise ValueError(
                    f"{root / lists} has the line {line!r}; a line must be 'input|target': write the lists with IDR's "
                    "create_txt.py"
                )
            degraded, clean = (os.path.relpath(root / path, root) for path in (degraded, clean))
            if task == "noise":
                yield from _noise([clean], SIGMAS if split == "train" else (25,))
            else:
                yield degraded, clean, task, 0


_READERS: dict[str, Callable[[Path, str], Found]] = {
    "multiple": _multiple,
    "rain-haze-noise": _rain_haze_noise,
    "rain-haze-snow": _rain_haze_snow,
    "rain-haze-noise-blur-dark": _idr,
}


def _noise(files: Iterable[str], sigmas: Sequence[int] = SIGMAS) -> Found:
    for file in files:
        for sigma in sigmas:
            yield file, file, "noise", sigma


def _before_underscore(name: str) -> str:
    return Path(name).name.split("_")[0].split(".")[0]


def _pictures(root: Path, folder: str, deep: bool = False) -> Iterator[str]:
    """Names of the pictures of a folder, relative to it; with ``deep``, those of its folders too."""
    if not (root / folder).is_dir():
        raise ValueError(
            f"{root} has no folder {folder!r}; the layout wants it: complete the folder, or prepare one with "
            "python -m benchmarks.restoration prepare"
        )
    for entry in os.scandir(root / folder):
        if deep and entry.is_dir():
            yield from (f"{entry.name}/{name}" for name in _pictures(root, f"{folder}/{entry.name}", deep))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry.name


def _lines(root: Path, lists: str) -> Iterator[str]:
    files = sorted(root.glob(lists))
    if not files:
        raise ValueError(
            f"{root} has no list {lists!r}; the layout wants it: complete the folder, or prepare one with "
            "python -m benchmarks.restoration prepare"
        )
    for file in files:
        yield from (line.strip() for line in file.read_text().splitlines() if line.strip())


def _pack(setting: str, root: Path, found: Found) -> Pairs:
    tasks = SETTINGS[setting]
    rows = sorted((tasks.index(task), degraded, sigma, clean) for degraded, clean, task, sigma in found)
    numbers: dict[str, int] = {}
    files = np.array(
        [[numbers.setdefault(name, len(numbers)) for name in (degraded, clean)] for _, degraded, _, clean in rows],
        dtype=np.int32,
    ).reshape(-1, 2)
    names = [os.fsencode(name) for name in numbers]
    return Pairs(
        setting,
        root,
        b"".join(names),
        np.cumsum([len(name) for name in names], dtype=np.int64),
        np.ascontiguousarray(files[:, 0]),
        np.ascontiguousarray(files[:, 1]),
        np.array([task for task, *_ in rows], dtype=np.uint8),
        np.array([sigma for _, _, sigma, _ in rows], dtype=np.uint8),
    )


def _check(pairs: Pairs, progress: Progress | None) -> None:
    sizes = np.zeros((pairs.files, 2), dtype=np.int32)
    faults: dict[int, str] = {}
    for number in _counted(pairs.files, progress):
        found = header(pairs.folder / pairs.name(number))
        if isinstance(found, str):
            faults[number] = found
        else:
            sizes[number] = found
    faulty = np.zeros(pairs.files, dtype=bool)
    faulty[list(faults)] = True
    bad = faulty[pairs.degraded] | faulty[pairs.clean] | (sizes[pairs.degraded] != sizes[pairs.clean]).any(1)
    if not bad.any():
        return
    first, count = int(bad.argmax()), int(bad.sum())
    file, partner = int(pairs.degraded[first]), int(pairs.clean[first])
    if file not in faults and partner in faults:
        file, partner = partner, file
    (width, height), (partners_width, partners_height) = sizes[file], sizes[partner]
    fault = faults.get(file, f"has {width} x {height} pixels and its partner {partners_width} x {partners_height}")
    raise ValueError(
        f"{pairs.name(file)!r} {fault} (its partner is {pairs.name(partner)!r}, in {pairs.folder}; "
        f"{count - 1} more pairs are faulty); every file must be a whole 8-bit picture of its partner's size: "
        "restore the file or remove the pair"
    )


def header(path: Path) -> tuple[int, int] | str:
    """Return width and height of an 8-bit picture, or what is wrong with its file, from its first and last bytes."""
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            size, mode, kind = image.size, image.mode, image.format
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, length - 1024))
            end = file.read()
            file.seek(0)
            start = file.read(8)
    except FileNotFoundError:
        return "is missing"
    except (OSError, SyntaxError, ValueError) as error:
        return f"cannot be read as a picture ({type(error).__name__})"
    if mode.startswith(("I", "F")):
        return f"has more than 8 bits a channel (mode {mode})"
    whole = {
        "PNG": b"IEND" in end,
        "JPEG": b"\xff\xd9" in end,
        "BMP": int.from_bytes(start[2:6], "little") <= length,
        "WEBP": int.from_bytes(start[4:8], "little") + 8 <= length,
    }
    return size if whole.get(kind or "", True) else "is truncated"


def _counted(total: int, progress: Progress | None) -> Iterator[int]:
    for number in range(total):
        if progress is not None and number % 500 == 0:
            progress(number, total)
        yield number
    if progress is not None:
        progress(total, total)
