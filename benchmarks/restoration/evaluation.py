"""Score a network on a test set, image by image."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from . import runs
from .data import load
from .degradations import to_uint8
from .layouts import Pair, Pairs
from .metrics import METRICS, mean
from .restoring import check_tiling, restore_tensor

CSV, PARTIAL, JSON, PICTURES = "scores.csv", "scores.partial.csv", "scores.json", "pictures"
KINDS = ("degraded", "restored", "clean")
CROP = 320
NAMED = 10
"""How many images that could not be scored are named."""

Row = dict[str, str]


def evaluate(
    network: nn.Module,
    pairs: Pairs,
    folder: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    metrics: Sequence[str] = ("psnr", "ssim"),
    pictures: int = 2,
    tile: int = 2048,
    overlap: int = 64,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score the degraded pictures and what a network in eval mode makes of them, rounded to 8 bits.

    Writes into ``folder``:

    - ``scores.csv``: a row an image; an infinite PSNR (of equal images) is an empty cell. Until all images are scored
      the rows are in ``scores.partial.csv``, from where an interrupted evaluation goes on.
    - ``scores.json``: what this function returns, once all images are scored: for each task the mean over its images,
      of the ``input`` and ``restored``, and the ``average`` of the tasks' means. An infinite PSNR is left out of the
      mean and counted in ``infinite``; a mean of none, and an average that lacks one, is null.
    - ``pictures/<task>/<name>-{degraded,restored,clean}.png``: the middle of a few images a task, those of the last
      evaluation alone.

    Args:
        network: See :func:`~benchmarks.restoration.restoring.restore_tensor`, and for the tiles; images up to
            ``tile`` are restored whole.
        pairs: The test set.
        folder: The folder of the run.
        identity: What tells the network's parameters, and whatever else its output depends on, from others; as
            for JSON. Rows that are there, of the same identity and the same pixels, are kept.
        metrics: Names of :data:`~benchmarks.restoration.metrics.METRICS`.
        pictures: How many images of a task are written.
        tile: Side of a tile in pixels.
        overlap: Pixels that tiles share.
        batch: Tiles that go through the network at once.
        progress: Called with the number of images done and that of all.

    Raises:
        ValueError: An argument is out of range. Or images could not be scored, which are named, once all others are;
            there is no ``scores.json`` then.
    """
    if pictures < 0:
        raise ValueError(f"pictures of a task are {pictures}; give 0 or more")
    check_metrics(metrics)
    check_tiling(tile, overlap, batch)
    folder = Path(folder)
    fields = ["task", "image", *map(_input, metrics), *map(column, metrics), "digest"]
    known = {row["digest"]: row for name in (CSV, PARTIAL) for row in _read(folder / name, fields)}
    (folder / JSON).unlink(missing_ok=True)
    _write(folder / PARTIAL, fields, known.values())
    stamp = json.dumps(identity, sort_keys=True)
    shown = {index: folder / PICTURES / name for index, name in _choose(pairs, pictures).items()}
    rows: list[Row] = []
    failures: list[str] = []
    with (folder / PARTIAL).open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        for index, pair in enumerate(pairs):
            task = pairs.tasks[pair.task]
            try:
                degraded, clean = load(pair)
                row = {"task": task, "image": _name(pair, pairs.folder)}
                row["digest"] = _digest(f"{stamp} {task} {row['image']}", degraded, clean)
                if row["digest"] in known and index not in shown:
                    row = known[row["digest"]]
                else:
                    restored = to_uint8(restore_tensor(network, degraded, tile=tile, overlap=overlap, batch=batch))
                    for name in metrics:
                        row[_input(name)] = _cell(METRICS[name].measure(degraded, clean))
                        row[column(name)] = _cell(METRICS[name].measure(restored, clean))
                    if index in shown:
                        _save(shown[index], degraded, restored, clean)
                    writer.writerow(row)
                    file.flush()
                rows.append(row)
            except (OSError, SyntaxError, ValueError) as error:
                failures.append(f"{pair.degraded}: {error}")
            if progress is not None:
                progress(index + 1, len(pairs))
    if failures:
        more = f"\nand {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        raise ValueError(
            f"{len(failures)} of {len(pairs)} images could not be scored, the others are in {folder / PARTIAL}; "
            "repair or remove these, then evaluate again:\n" + "\n".join(failures[:NAMED]) + more
        )
    written = {_picture(stem, kind) for stem in shown.values() for kind in KINDS}
    for path in set((folder / PICTURES).glob("*/*.png")) - written:
        path.unlink()
    scores = {"identity": dict(identity), **summarise(rows, metrics)}
    _write(folder / CSV, fields, rows)
    runs.write_json(folder / JSON, scores)
    (folder / PARTIAL).unlink()
    return scores


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that are not known."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metric {name!r} is not known; choose among {', '.join(METRICS)}")


def column(metric: str) -> str:
    """Return what a metric is called in ``scores.csv`` and ``scores.json``."""
    return metric.replace("-", "_")


def summarise(rows: Sequence[Mapping[str, str]], metrics: Sequence[str]) -> dict[str, Any]:
    """Average rows of ``scores.csv`` into what ``scores.json`` says."""
    summary: dict[str, Any] = {"metrics": {column(name): METRICS[name].meaning for name in metrics}, "average": {}}
    for side, cell in (("input", _input), ("restored", column)):
        summary[side] = {}
        for task in dict.fromkeys(row["task"] for row in rows):
            of = [row for row in rows if row["task"] == task]
            means = {column(name): mean(float(row[cell(name)] or "inf") for row in of) for name in metrics}
            summary[side][task] = {
                **{name: value for name, (value, _) in means.items()},
                "images": len(of),
                "infinite": {name: count for name, (_, count) in means.items() if count},
            }
        summary["average"][side] = {
            name: _mean_of_all(score[name] for score in summary[side].values()) for name in map(column, metrics)
        }
    return summary


def _mean_of_all(values: Iterable[float | None]) -> float | None:
    """Return the mean over tasks, None if one has none: it would not compare with that over all tasks."""
    known = list(values)
    return None if None in known else mean(value for value in known if value is not None)[0]


def _input(metric: str) -> str:
    return f"{column(metric)}_input"


def _cell(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _name(pair: Pair, folder: Path) -> str:
    return pair.degraded.relative_to(folder).as_posix() + (f", sigma {pair.sigma}" if pair.sigma else "")


def _digest(stamp: str, degraded: Tensor, clean: Tensor) -> str:
    digest = hashlib.sha256(f"{stamp} {list(clean.shape)}".encode())
    digest.update(degraded.numpy().data)
    digest.update(clean.numpy().data)
    return digest.hexdigest()[:32]


def _read(path: Path, fields: Sequence[str]) -> list[Row]:
    """Read the rows that have all fields; the last one of an interrupted evaluation may be cut off."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.get(field) is not None for field in fields)]
    return [{field: row[field] for field in fields} for row in rows]


def _write(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields)
    writer.writeheader()
    writer.writerows(rows)
    runs.write(path, lambda file: file.write(text.getvalue().encode()))


def _choose(pairs: Pairs, count: int) -> dict[int, str]:
    """Choose images of each task, evenly: their indices, and for each a name that no other has."""
    chosen = {}
    for task, label in enumerate(pairs.tasks):
        names: dict[str, int] = {}
        for index in np.flatnonzero(pairs.task_ids == task).tolist():
            pair = pairs[index]
            names.setdefault(f"{label}/{pair.degraded.stem}" + (f"-sigma{pair.sigma}" if pair.sigma else ""), index)
        taken = min(count, len(names))
        for name in [list(names)[place * len(names) // taken] for place in range(taken)]:
            chosen[names[name]] = name
    return chosen


def _picture(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}-{kind}.png")


def _save(stem: Path, *images: Tensor) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, image in zip(KINDS, images, strict=True):
        top, left = ((side - min(side, CROP)) // 2 for side in image.shape[1:])
        crop = image[:, top : top + CROP, left : left + CROP]
        Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy()).save(_picture(stem, kind))
