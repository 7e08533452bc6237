"""What happened in a run, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import runs


class History:
    """What happened: a row a step, kept on the device until it is read."""

    def __init__(self, num_tasks: int, folder: Path | None = None, until: int = 0) -> None:
        self.num_tasks = num_tasks
        self.steps: list[int] = []
        self.rows: list[np.ndarray] = []
        self.validation: dict[int, list[float]] = {}
        self._pending: list[Tensor] = []
        if folder is not None:
            with np.load(folder / runs.HISTORY) as saved:
                known = saved["steps"] <= until  # it may be ahead of the checkpoint
                columns = saved["losses"], saved["weights"], saved["psnr"][:, None]
                self.steps = saved["steps"][known].tolist()
                self.rows = list(np.concatenate(columns, 1)[known])
                validations = zip(saved["validation_steps"].tolist(), saved["validation"].tolist(), strict=True)
                self.validation = {step: psnr for step, psnr in validations if step <= until}

    def append(self, step: int, row: Tensor) -> None:
        """Add the row of a step."""
        self.steps.append(step)
        self._pending.append(row)

    def read(self) -> np.ndarray:
        """Wait for the device, and return the rows since the last reading, [R, 2K + 1]."""
        if not self._pending:
            return np.empty((0, 2 * self.num_tasks + 1), np.float32)
        new = torch.stack(self._pending).cpu().numpy()
        self._pending.clear()
        self.rows += list(new)
        return new

    def save(self, path: Path) -> None:
        """Write the file that :mod:`.runs` describes."""
        self.read()
        k = self.num_tasks
        rows = np.array(self.rows, np.float32).reshape(-1, 2 * k + 1)
        validation = np.array(list(self.validation.values()), np.float32).reshape(-1, k)
        arrays = {
            "steps": np.array(self.steps, np.int64),
            "losses": rows[:, :k],
            "weights": rows[:, k : 2 * k],
            "psnr": rows[:, 2 * k],
            "validation_steps": np.array(list(self.validation), np.int64),
            "validation": validation,
        }
        runs.write(path, lambda file: np.savez(file, **arrays))


def weighed(steps: np.ndarray, spans: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Return which steps are in the stages that the method weighed, [S]: a sequential training begins with others.

    Args:
        steps: The numbers of the steps, [S].
        spans: Those of ``run.json``.
    """
    stages = [span for span in spans if span["weighed"]]
    return np.any([(span["start"] < steps) & (steps <= span["end"]) for span in stages], axis=0)
