from __future__ import annotations

import sys

import pytest

from benchmarks.compare import training

from . import problems


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """``own:TwoCurves``, ``own:OfA`` and ``own:OfB``; the files of the latter two are in the folder that it returns."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "AB":
        (folder / name).write_text("1")
    (tmp_path / "own.py").write_text(problems.reader(folder))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("own", None)


@pytest.fixture
def steps(monkeypatch):
    """The steps that were taken in this process; interrupted when there are as many as ``steps.last`` says."""

    class Steps(list):
        last = None

    taken = Steps()
    step = training._step

    def counted(optimizer, losses):
        if len(taken) == taken.last:
            raise KeyboardInterrupt
        taken.append(1)
        return step(optimizer, losses)

    monkeypatch.setattr(training, "_step", counted)
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    return taken
