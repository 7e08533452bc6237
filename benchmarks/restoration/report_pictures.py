"""The pictures of a report: the curves of the paper's Figure 2, the crops of Figures 3 to 5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .figures import plot_histories, plot_images
from .finished import Arena, FinishedRun
from .metrics import psnr

SHOWN = 6  # methods side by side
CROP = 200  # pixels


def draw_curves(arena: Arena, output: Path) -> Iterator[str]:
    """Draw :func:`plot_curves`; yield the picture's name."""
    name = f"curves-{arena.label}.png"
    plot_curves(arena, output / name)
    yield name


def plot_curves(arena: Arena, path: Path) -> None:
    """Draw the losses and weights of the tasks over the steps, the methods side by side."""
    histories, steps = {}, {}
    for method, run in _side_by_side(arena).items():
        steps[method], losses, weights = run.history()
        weights = np.where(np.isfinite(losses), weights, np.nan)  # an absent task has weight 0 by absence alone
        histories[method] = torch.from_numpy(np.stack([losses, weights], axis=1))
    window = max(min(map(len, steps.values())) // 40, 1)
    plot_histories(histories, arena.tasks, path, window, steps)


def draw_crops(arena: Arena, output: Path) -> Iterator[str]:
    """Draw the crop of each task in a picture of its own; yield the pictures' names."""
    for task, row in crops(arena).items():
        picture = f"pictures-{arena.label}-{task}.jpg"
        plot_images(row, output / picture)
        yield picture


def crops(arena: Arena) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Return a crop a task that evaluate kept, as a row to plot: degraded, restored by each method, clean.

    The tasks show the pictures that all runs have in turn; runs without any are left out.
    """
    rows = {}
    for index, task in enumerate(arena.tasks):
        folders = {method: run.folder / "pictures" / task for method, run in _side_by_side(arena).items()}
        kept = {method: _names(folder) for method, folder in folders.items() if _names(folder)}
        common = sorted(set.intersection(*kept.values())) if kept else []
        if common:
            name = common[index % len(common)]
            rows[task] = {f"{task}: {name}": _row({method: folders[method] for method in kept}, name)}
    return rows


def _names(folder: Path) -> set[str]:
    return {path.name.removesuffix("-restored.png") for path in folder.glob("*-restored.png")}


def _row(folders: Mapping[str, Path], name: str) -> dict[str, Tensor]:
    first = next(iter(folders.values()))
    clean = _crop(first / f"{name}-clean.png")
    images = {"degraded": _crop(first / f"{name}-degraded.png")}
    images |= {method: _crop(folder / f"{name}-restored.png") for method, folder in folders.items()}
    titled = {f"{title}\n{psnr(image, clean):.1f} dB": image for title, image in images.items()}
    return {**titled, "clean": clean}


def _side_by_side(arena: Arena) -> dict[str, FinishedRun]:
    runs = {method: run for (method, seed), run in arena.runs.items() if seed == arena.shown_seed}
    return dict(list(runs.items())[:SHOWN])


def _crop(path: Path) -> Tensor:
    """Read the middle of a picture: uint8 [3, H, W]."""
    with Image.open(path) as picture:
        image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    top, left = (max((side - CROP) // 2, 0) for side in image.shape[1:])
    return image[:, top : top + CROP, left : left + CROP]
