from __future__ import annotations

import json

import numpy as np
import pytest

from art_optim import Art, ArtAblation, EqualWeighting
from art_optim.weighting import available
from benchmarks.methods import canonical, create
from benchmarks.restoration.weighting_names import average_weights, resolve

TASKS = ["rain", "haze"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a run, seed=0"
    folder.mkdir()
    spans = [{"start": 0, "end": 1, "weighed": False}, {"start": 1, "end": 4, "weighed": True}]
    (folder / "run.json").write_text(json.dumps({"tasks": TASKS, "finished": True, "spans": spans}))
    losses = np.array([[0.1, 0.2], [0.1, 0.2], [0.1, np.nan], [0.1, 0.2]], np.float32)
    weights = np.array([[0.9, 0.1], [0.4, 0.6], [1.0, 0.0], [0.1, 0.9]], np.float32)
    np.savez(folder / "history.npz", steps=np.arange(1, 5), losses=losses, weights=weights)
    return folder


def test_text_to_weighting():
    assert create("equal") == EqualWeighting(normalize="mean")
    assert create("art:temperature=0.1,decay=0.999") == Art(temperature=0.1, decay=0.999, normalize="mean")
    assert create("art-ablation:rate=raw,correction=none,guarded=false,initial=0.1") == ArtAblation(
        rate="raw", correction="none", guarded=False, initial=0.1, normalize="mean"
    )
    assert create("uncertainty:normalize=published").normalize == "published"


def test_seed_is_the_runs_unless_given():
    assert create("rlw", seed=3).seed == 3
    assert create("rlw:seed=5", seed=3).seed == 5
    assert canonical("rlw:seed=0") == "rlw:seed=0"
    assert canonical("rlw") == "rlw"


@pytest.mark.parametrize("name", [name for name in available() if name != "fixed"])
def test_a_registered_name_is_canonical(name):
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("art:temperature=3", "art"),
        ("art:temperature=1e-1,decay=0.9", "art:decay=0.9,temperature=0.1"),
        ("art-ablation:correction=none,rate=raw,guarded=false", "art-ablation:correction=none,guarded=false,rate=raw"),
        ("fixed:rain=0.20,haze=.8", "fixed:haze=0.8,rain=0.2"),
        ("equal:normalize=sum", "equal:normalize=sum"),
    ],
)
def test_canonical(text, expected):
    assert canonical(text) == expected
    assert canonical(expected) == expected
    assert create(expected) == create(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arts", "weighting 'arts' is not known"),
        ("art:", "is not name"),
        ("art:temperature", "is not name"),
        ("art:temperature=", "is not name"),
        ("fixed", "fixed:rain=0.2"),
        ("art:tau=3", "no hyperparameter 'tau'; art takes .*temperature"),
        ("art:decay=0.9,decay=0.8", "'decay' twice"),
        ("art:decay=2", "decay is 2.0"),
        ("art:decay=slow", "'art:decay=slow': decay is 'slow'; give a number"),
        ("fixed:rain=much", "much"),
        ("fixed:rain=-1", "-1"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        create(text)


def test_fixed_at_the_average_of_a_run(run):
    assert resolve(f"fixed-at:{run}") == "fixed:haze=0.6,rain=0.4"  # .75 and .5, to sum 1
    assert resolve("art:temperature=3.0") == "art"


def test_fixed_at_wants_a_whole_run(run, tmp_path):
    (run / "run.json").write_text(json.dumps({"tasks": TASKS, "finished": False}))
    with pytest.raises(ValueError, match="not finished"):
        resolve(f"fixed-at:{run}")
    with pytest.raises(ValueError, match=r"has no run\.json; give the folder of a run"):
        resolve(f"fixed-at:{tmp_path}")


def test_an_average_wants_a_loss_of_every_task(run):
    losses = np.full((4, 2), np.nan, np.float32)
    losses[1:, 0] = losses[0, 1] = 0.1
    np.savez(run / "history.npz", steps=np.arange(1, 5), losses=losses, weights=np.ones((4, 2), np.float32))
    with pytest.raises(ValueError, match=f"no loss of task {TASKS[1]!r} where it weighs"):
        average_weights(run)
