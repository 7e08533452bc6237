"""A run's folder: what it holds, whose it is, and the network in it.

- ``run.json``: what the run depends on, how far it is, where it ran;
- ``checkpoint.pt``: the network, the optimizer and the number of steps;
- ``history.npz``: ``steps`` [S]; ``losses`` (NaN where absent) and ``weights`` [S, K]; ``psnr`` [S] of the training
  batches; ``validation_steps`` [V] and ``validation`` [V, K], the PSNR of test images;
- what is made of it: scores, pictures, TensorBoard's files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from . import models, processes

CONFIG, CHECKPOINT, HISTORY = "run.json", "checkpoint.pt", "history.npz"


@dataclass(frozen=True)
class Run:
    """A run that has a checkpoint; ``config`` is what ``run.json`` says."""

    folder: Path
    config: dict[str, Any]
    device: torch.device

    def network(self) -> nn.Module:
        """Return its network in evaluation mode, with the averaged parameters if the recipe averages them."""
        checkpoint = read_checkpoint(self.folder, self.device)
        network = models.create(self.config["model"], self.config["scale"]).to(self.device)
        network.load_state_dict(checkpoint.get("average", checkpoint["network"]))
        return network.eval()

    def history(self) -> dict[str, np.ndarray]:
        """Return the arrays of ``history.npz``."""
        with np.load(self.folder / HISTORY) as arrays:
            return dict(arrays)


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Run:
    """Return the run in a folder.

    Raises:
        ValueError: There is none, or none that has come to a checkpoint; or there is no such device.
    """
    folder = Path(folder)
    for name in (CONFIG, CHECKPOINT):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; give the folder of a run that has been trained")
    return Run(folder, _read_config(folder), processes.find(device))


def finished(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder has a run that came to its last step."""
    return (Path(folder) / CONFIG).is_file() and bool(_read_config(Path(folder))["finished"])


def read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """Read ``checkpoint.pt``, with its tensors on a device.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the unpickler meets damage with OSError, IndexError, UnpicklingError, ...
        raise ValueError(f"{folder / CHECKPOINT} is no whole checkpoint; restore or remove it") from error
    return checkpoint


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{folder / CONFIG} is no JSON ({error}); restore the file, or train in another folder"
        ) from None
    return config


def resume(folder: Path, identity: Mapping[str, Any], device: torch.device) -> dict[str, Any] | None:
    """Return the checkpoint in a folder, if there is one.

    Raises:
        ValueError: It is that of another run.
    """
    if not (folder / CHECKPOINT).is_file():
        return None
    checkpoint = read_checkpoint(folder, device)
    differing = differences(checkpoint["run"], identity)
    if differing:
        raise ValueError(
            f"{folder} holds another run: {'; '.join(differing)}; give another folder, or the options of that run"
        )
    return checkpoint


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """List where what two runs depend on differs.

    Example:
        >>> differences({"seed": 0, "data": {"digest": "a"}}, {"seed": 1, "data": {"digest": "a"}})
        ['seed is 0 there and 1 here']
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            difference
            for key in {**there, **here}
            for difference in differences(there.get(key), here.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if there == here else [f"{name} is {there!r} there and {here!r} here"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write(path, lambda file: file.write(text.encode()))


def write(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Write a file that is either the old one or the new one, whole, whenever the process ends."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
