"""What type checkers see: ``typing/usage.py`` is right, ``typing/misuse.py`` wrong in the lines that say so."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .typing import usage

ROOT = Path(__file__).parent.parent
PROGRAMS = ("tests/typing/usage.py", "tests/typing/misuse.py")
CHECKERS = {"mypy": ("mypy", "--strict"), "pyright": ("pyright", "--pythonpath", sys.executable)}


def marked() -> set[tuple[str, int]]:
    lines = [(path, enumerate((ROOT / path).read_text().splitlines(), 1)) for path in PROGRAMS]
    return {(path, number) for path, numbered in lines for number, line in numbered if line.endswith("# error")}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_reports_every_misuse_and_nothing_else(checker):
    """Run in the folder, and with the cache, of ``make lint``."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    if checker == "pyright" and shutil.which("node") is None:
        pytest.skip("pyright would download node")
    command = [sys.executable, "-m", *CHECKERS[checker], *PROGRAMS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    reported = re.findall(r"(tests/typing/\w+\.py):(\d+)(?::\d+ -|:) error: ", done.stdout)
    assert {(path, int(number)) for path, number in reported} == marked(), done.stdout + done.stderr


def test_what_type_checks_runs():
    usage.main()
