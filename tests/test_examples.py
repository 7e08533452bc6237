"""Every example runs as a module and as a script. What it shows has tests of its own."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NAMES = [name for name in NAMES if name not in ("__init__", "problem", "restoration")]

# What frameworks say of themselves.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:'pin_memory' argument is set as true:UserWarning"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_prints_something(name, capsys, tmp_path):
    module = importlib.import_module(f"examples.{name}")
    module.main()
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported_as_a_script_is(name, monkeypatch):
    """Where `examples` is no package, but the folder of the script is on the path."""
    path = [entry for entry in sys.path if not (Path(entry) / "examples" / "__init__.py").exists()]
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *path])
    for module in [module for module in sys.modules if module.split(".")[0] in ("examples", "problem")]:
        monkeypatch.delitem(sys.modules, module)
    script = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="script")
    sys.modules.pop("problem", None)
    assert "examples" not in sys.modules
    assert script["main"].__doc__
    assert f"python -m examples.{name}" in script["__doc__"]
