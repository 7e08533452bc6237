"""Where a benchmark ran."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The model of the CPU, where the system tells."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
