from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Callable[[str], Path]:
    """``prepared(setting)``: a folder in the setting's layout, made once.

    Three smooth photographs of 64 x 64 pixels to train on and one to test on, degraded once by each task.
    """
    from PIL import Image  # the tests of the package itself run without

    from benchmarks.restoration.preparing import prepare

    photographs = tmp_path_factory.mktemp("photographs")
    for index in range(4):
        small = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(index))
        image = (255 * torch.nn.functional.interpolate(small, (64, 64), mode="bilinear")[0]).byte()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(photographs / f"{index}.png")
    folders: dict[str, Path] = {}

    def make(setting: str) -> Path:
        if setting not in folders:
            folders[setting] = tmp_path_factory.mktemp(setting) / "prepared"
            prepare(setting, folders[setting], photographs, size=64)
        return folders[setting]

    return make
