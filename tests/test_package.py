from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import get_origin

import art_optim


def test_the_import_adds_nothing_to_that_of_torch():
    """Not even a module of torch that torch itself had not imported, nor one of the standard library."""
    code = (
        "import sys, torch; before = set(sys.modules); import art_optim; "
        "print(sorted(name for name in set(sys.modules) - before if name.split('.')[0] != 'art_optim'))"
    )
    root = Path(art_optim.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_needs_torch_alone():
    assert [line for line in requires("art_optim") if "extra" not in line] == ["torch>=2.6"]


def test_public_names_exist_and_are_documented():
    assert len(set(art_optim.__all__)) == len(art_optim.__all__)
    for name in art_optim.__all__:
        value = getattr(art_optim, name)
        assert get_origin(value) or value.__doc__  # a type alias cannot have one
