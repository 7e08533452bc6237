"""Where a benchmark ran, what its command line takes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import platform
import shlex
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import art_optim


def processor() -> str:
    """The model of the CPU, where the system tells."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def circumstances(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the command, the machine and the versions, with which the results of a benchmark begin."""
    return {
        "command": shlex.join(["python", "-m", module, *arguments]),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchjd": version("torchjd"),
            "art_optim": art_optim.__version__,
        },
    }


def save(folder: Path, results: dict[str, Any], table: str) -> None:
    """Write ``results.json`` and ``table.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "table.md").write_text(f"{table}\n")


def at_least(least: int) -> Callable[[str], int]:
    """Return the ``type`` of an argument that is a whole number of at least so much."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is refused; give a whole number, at least {least}")
        return int(text)

    return read
