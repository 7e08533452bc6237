"""Restore pictures of any size, in overlapping tiles and a band of rows at a time, so that memory stays bounded."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from . import images, layouts

SUFFIXES = (*layouts.SUFFIXES, ".avif", ".gif", ".jp2", ".mpo", ".pbm", ".pgm", ".ppm")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def restore_file(
    network: nn.Module,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    tile: int = 512,
    overlap: int = 32,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Restore a picture file losslessly into another file, see :mod:`~benchmarks.restoration.images`.

    The restored rows take the place of the degraded ones in memory as soon as no tile needs these any more. The target
    is written under another name and then renamed: it is whole, or not there.

    Args:
        network: See :func:`restore_tensor`, as for the tiles.
        source: A picture in any format that Pillow reads.
        target: A ``.png``, ``.tif`` or ``.tiff`` file.
        tile: Side of a tile in pixels.
        overlap: At most half of ``tile``.
        batch: How many tiles go through the network at once.
        progress: Called with the number of rows done and that of all.
    """
    target = Path(target)
    if target.exists() and target.samefile(source):
        raise ValueError(f"target {str(target)!r} is the source itself; give another name, nothing is overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = images.read(source)
    pixels = picture.pixels

    def rows(top: int, bottom: int) -> Tensor:
        return pixels[:, top:bottom] if picture.white == 255 else pixels[:, top:bottom].float() / picture.white

    top, (_, height, width) = 0, pixels.shape
    for band in restore_bands(network, rows, (height, width), tile=tile, overlap=overlap, batch=batch):
        stored = picture.encode(band)
        pixels[: len(stored), top : top + band.shape[1]] = stored
        top += band.shape[1]
        if progress is not None:
            progress(top, height)
    new = target.with_name(f".{target.stem}.new{target.suffix}")
    try:
        images.write(new, pixels, like=picture)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


def plan(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
    """List the pictures of a file or folder, each with the file that its restored picture goes to.

    In a folder ``target`` the files keep their subfolders and names, but for the suffix of a lossy format, which
    becomes ``.png`` (added to the name if a picture of that name is there, too).

    Args:
        source: A picture, or a folder that is searched with its subfolders; pictures within ``target`` are left out.
        target: A folder; for a single picture a ``.png``, ``.tif`` or ``.tiff`` file, or a folder that exists.

    Raises:
        ValueError: There is no picture, or one would be overwritten.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise ValueError(f"input {str(source)!r} does not exist; give a picture or a folder of pictures")
    if source.is_file():
        if target.is_dir():
            target = target / _lossless(source).name
        files = [(source, target)]
        if target.suffix.lower() not in images.WRITTEN:
            raise ValueError(
                f"output {str(target)!r} is no folder and ends in none of {', '.join(images.WRITTEN)}; restored "
                "pictures are kept without loss: name one of these, or a folder that exists"
            )
    else:
        if target.is_file():
            raise ValueError(f"output {str(target)!r} is a file and the input a folder; give a folder for the output")
        found = [
            path
            for path in sorted(source.rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file() and target.resolve() not in path.resolve().parents
        ]
        if not found:
            raise ValueError(
                f"input {str(source)!r} holds no picture outside the output {str(target)!r}; give a folder with files "
                f"that end in {', '.join(SUFFIXES)}, and another one for the output"
            )
        goals = [_lossless(path) for path in found]
        taken = Counter(goals)
        files = [
            (path, target / (goal if taken[goal] == 1 else path.with_name(f"{path.name}.png")).relative_to(source))
            for path, goal in zip(found, goals, strict=True)
        ]
    sources = {path.resolve() for path, _ in files}
    for path, goal in files:
        if goal.resolve() in sources:
            raise ValueError(f"output {str(goal)!r} of {str(path)!r} is an input; give another folder or name")
    return files


def precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a network to run in: none for ``"fp32"``, autocast for ``"bf16"`` and ``"fp16"``."""
    dtype = PRECISIONS[name]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@torch.inference_mode()
def restore_tensor(network: nn.Module, image: Tensor, *, tile: int = 512, overlap: int = 32, batch: int = 1) -> Tensor:
    """Restore an image [3, H, W] in 0..1 with a network in eval mode: float32 [3, H, W], not clipped.

    An image larger than ``tile`` is restored in tiles, which share at least ``overlap`` pixels with their neighbours.
    Of a shared strip, the outer quarter on either side, where the border of a tile is felt, is not used; over the
    middle half, one tile fades linearly into the next.

    .. note:: The result is that without tiles for a network whose output depends on no pixel farther away than
        ``overlap / 4``. A network with global context (pooled features, attention over the image) sees that of the
        tile alone: give it tiles as large as memory allows.

    Args:
        network: Takes and returns images [B, 3, H, W]; it runs where its parameters are.
        image: Floating, or uint8, which is divided by 255.
        tile: Side of a tile in pixels.
        overlap: At most half of ``tile``.
        batch: How many tiles go through the network at once.
    """
    _, height, width = image.shape
    bands = restore_bands(
        network, lambda top, bottom: image[:, top:bottom], (height, width), tile=tile, overlap=overlap, batch=batch
    )
    return torch.cat(list(bands), 1)


@torch.inference_mode()
def restore_bands(
    network: nn.Module,
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    *,
    tile: int = 512,
    overlap: int = 32,
    batch: int = 1,
) -> Iterator[Tensor]:
    """Yield what :func:`restore_tensor` returns in bands [3, h, W], from top to bottom; hold a few bands at a time.

    Args:
        network: See :func:`restore_tensor`, as for the other arguments.
        rows: ``rows(top, bottom)`` returns these rows of the image, [3, bottom - top, W]. Each row is asked for once,
            in order, and before the band that it is in is yielded.
        size: (H, W) of the image.
        tile: Side of a tile in pixels.
        overlap: At most half of ``tile``.
        batch: How many tiles go through the network at once.
    """
    check_tiling(tile, overlap, batch)
    height, width = size
    columns = _tiles(width, tile, overlap)
    lines = _tiles(height, tile, overlap)
    ends = [top + len(weights) for top, weights in lines]
    following = [top for top, _ in lines[1:]] + [height]
    window = rows(0, ends[0])
    faded = torch.zeros(3, 0, width, device=window.device)
    for index, (top, weights) in enumerate(lines):
        band = _restore_line(network, window, columns, batch).mul_(weights[:, None].to(window.device))
        band[:, : faded.shape[1]] += faded
        if index + 1 < len(lines):
            window = torch.cat([window[:, following[index] - top :], rows(ends[index], ends[index + 1])], 1)
            faded = band[:, following[index] - top :].clone()
        yield band[:, : following[index] - top]


def check_tiling(tile: int, overlap: int, batch: int) -> None:
    """Refuse tiles that cannot cover an image."""
    if tile < 1 or batch < 1:
        raise ValueError(f"tile is {tile} and batch is {batch}; both must be at least 1")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(
            f"overlap is {overlap} for tiles of {tile}; it must be in 0..{tile // 2}, half a tile: "
            "take a smaller overlap or larger tiles"
        )


def _restore_line(network: nn.Module, window: Tensor, columns: list[tuple[int, Tensor]], batch: int) -> Tensor:
    """Restore a line of tiles as high as ``window``."""
    device = next((parameter.device for parameter in network.parameters()), window.device)
    line = torch.zeros(window.shape, device=window.device)
    for start in range(0, len(columns), batch):
        chunk = columns[start : start + batch]
        tiles = torch.stack([window[..., left : left + len(weights)] for left, weights in chunk]).to(device)
        tiles = tiles / 255 if tiles.dtype == torch.uint8 else tiles
        restored = network(tiles)
        if restored.shape != tiles.shape:
            raise ValueError(
                f"network returned {list(restored.shape)} for images {list(tiles.shape)}; it must keep the shape"
            )
        if not restored.isfinite().all():
            raise ValueError(
                "network returned values that are not finite; if it runs in float16, use bf16 or fp32, else its "
                "training has diverged: take another checkpoint"
            )
        for (left, weights), one in zip(chunk, restored.to(window.device, torch.float32), strict=True):
            line[..., left : left + len(weights)] += weights.to(window.device) * one
    return line


def _tiles(length: int, tile: int, overlap: int) -> list[tuple[int, Tensor]]:
    """Cut ``length`` pixels into tiles, evenly: the start of each and the weight of each of its pixels.

    The weights of all tiles at a pixel sum to 1, as each fades out by what the next one fades in.
    """
    if length <= tile:
        return [(0, torch.ones(length))]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [index * (length - tile) // (count - 1) for index in range(count)]
    pixels = torch.arange(length) + 0.5
    seams = [(start + previous + tile) / 2 for previous, start in pairwise(starts)]
    ramps = [((pixels - seam) / max(overlap / 2, 1) + 0.5).clamp(0, 1) for seam in seams]
    fades = [torch.ones(length), *ramps, torch.zeros(length)]
    return [(start, (fades[i] - fades[i + 1])[start : start + tile]) for i, start in enumerate(starts)]


def _lossless(path: Path) -> Path:
    return path if path.suffix.lower() in images.WRITTEN else path.with_suffix(".png")
