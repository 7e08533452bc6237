"""What a run depends on besides its configuration: the contents of its data, and the code of its formulas."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from art_optim import optimizer
from benchmarks import authors, loops
from benchmarks.methods import Method
from benchmarks.problems import Problem

from . import training

OURS = ("art_optim", "benchmarks")


def version(problem: Problem, method: Method, data: str) -> str:
    """Return a digest of the data, the code and the versions behind a run.

    The code is that of the problem and what its module imports of its own package, of the method's class, of the core
    of the package and of the training loop; comments and docstrings do not count. Changing the formula of one weighting
    leaves the runs of the others as they are.

    Args:
        problem: What is trained.
        method: How.
        data: The digest of the problem's data, see :func:`contents`.
    """
    versions = [torch.__version__, metadata.version("torchjd")]
    formulas = [_formula(module) for module in sorted(_behind(problem, method), key=lambda module: module.__name__)]
    made = repr(method.weighting()) if method.has_weighting else method.kind
    return hashlib.sha256(json.dumps([*versions, *formulas, made, data]).encode()).hexdigest()


def contents(data: Iterable[Tensor | Path]) -> str:
    """Return a digest of tensors, files and folders with all that is below them."""
    digest = hashlib.sha256()
    for item in data:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype} {tuple(item.shape)}".encode())
            digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            continue
        files = sorted(path for path in item.rglob("*") if path.is_file()) if item.is_dir() else [item]
        for path in files:
            digest.update(path.relative_to(item).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _behind(problem: Problem, method: Method) -> set[ModuleType]:
    found = {training, loops, authors}
    _follow(optimizer, found)
    if method.has_weighting:
        _follow_classes(type(method.weighting()), found)
    _follow_classes(type(problem), found)
    return found


def _follow_classes(of: type, found: set[ModuleType]) -> None:
    for base in of.__mro__:
        if base.__module__ not in ("builtins", "abc", "typing"):
            _follow(sys.modules[base.__module__], found)


def _follow(module: ModuleType, found: set[ModuleType]) -> None:
    """Add a module and those of its package that it imports, directly or not.

    Of the packages here, those that only collect what their modules define are left out: all weightings hang by them.
    """
    package = module.__name__.partition(".")[0]
    if module in found or not getattr(module, "__file__", None) or (package in OURS and hasattr(module, "__path__")):
        return
    found.add(module)
    for name in _names(module):
        if name.partition(".")[0] == package and name in sys.modules:
            _follow(sys.modules[name], found)


def _names(module: ModuleType) -> Iterator[str]:
    """The names that a module's imports may mean."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            named = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(named, module.__package__)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _formula(module: ModuleType) -> str:
    """The code of a module without comments and docstrings."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return f"{module.__name__}\n{ast.dump(tree)}"
