from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.restoration import degradations, layouts, preparing
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.layouts import SETTINGS
from benchmarks.restoration.preparing import prepare, windows


def pixels(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("RGB"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Five photographs of 60 x 44 pixels, each of a blue of its own, by which its pictures are known."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(5):
        generator = np.random.default_rng(index)
        image = generator.integers(256, size=(44, 60, 3), dtype=np.uint8)
        image[..., 2] = 40 * index
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("split", layouts.SPLITS)
def test_folder_is_read_as_the_official_layout(setting, split, prepared):
    pairs = layouts.read(setting, prepared(setting), split)
    pictures = 3 if split == "train" else 1
    sigmas = {"rain-haze-noise": 3, "rain-haze-noise-blur-dark": 3 if split == "train" else 1}.get(setting, 1)
    counts = {task: pictures * (sigmas if task == "noise" else 1) for task in SETTINGS[setting]}
    assert Counter(pairs.tasks[pair.task] for pair in pairs) == counts
    facts = json.loads((prepared(setting) / "prepared.json").read_text())
    assert facts["digest"][split] == layouts.digest(pairs)
    assert facts["finished"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_pictures_are_the_degraded_photographs(setting, photographs, tmp_path):
    """Every file's pixels follow from the photograph, the seed and the task that prepared.json gives."""
    facts = prepare(setting, tmp_path / "out", photographs, size=32, levels=2)
    pairs = {str(pair.degraded.relative_to(tmp_path / "out")): pair for pair in layouts.read(setting, tmp_path / "out")}
    seen = set()
    for picture in facts["pictures"]:
        if picture["split"] == "test":
            continue
        clean = torch.from_numpy(pixels(photographs / picture["photograph"])).permute(2, 0, 1)
        on_the_fly = (setting, picture["task"]) in preparing.ON_THE_FLY
        whole = clean if on_the_fly else degradations.degrade(clean[None], picture["task"], [picture["seed"]])[0]
        boxes = windows(44, 60, 32)
        for name, (left, top, right, bottom) in zip(picture["files"], boxes, strict=True):
            pair = pairs[name]
            assert SETTINGS[setting][pair.task] == picture["task"]
            part = (slice(None), slice(top, bottom), slice(left, right))
            assert np.array_equal(pixels(pair.degraded), whole[part].permute(1, 2, 0))
            assert np.array_equal(pixels(pair.clean), clean[part].permute(1, 2, 0))
            seen.add(name)
    assert seen == set(pairs)


@pytest.mark.parametrize("setting", SETTINGS)
def test_photographs_to_test_on_are_never_trained_on(setting, photographs, tmp_path):
    prepare(setting, tmp_path / "out", photographs, size=32)
    blue = {
        split: {int(pixels(pair.clean)[0, 0, 2]) // 40 for pair in layouts.read(setting, tmp_path / "out", split)}
        for split in layouts.SPLITS
    }
    assert blue == {"train": {0, 2, 3, 4}, "test": {1}}


def test_photographs_to_test_on_may_be_given(photographs, tmp_path):
    facts = prepare("rain-haze-snow", tmp_path / "out", photographs, "packaged", size=64)
    assert len(facts["photographs"]["train"]) == 5
    assert "chelsea" in {photograph["name"] for photograph in facts["photographs"]["test"]}
    seeds = {split: {p["seed"] for p in facts["pictures"] if p["split"] == split} for split in layouts.SPLITS}
    assert not seeds["train"] & seeds["test"]


def test_levels_differ_and_are_recorded(photographs, tmp_path):
    facts = prepare("rain-haze-noise", tmp_path / "out", photographs, size=64, levels=3)
    haze = [picture for picture in facts["pictures"] if picture["task"] == "haze" and picture["split"] == "train"]
    assert len(haze) == 4 * 3
    assert len({picture["levels"]["density"] for picture in haze}) == 12
    for picture in haze:
        for name in picture["files"]:
            _, airlight, density = Path(name).stem.split("_")
            assert float(airlight) == pytest.approx(picture["levels"]["airlight"], abs=1e-4)
            assert float(density) == pytest.approx(picture["levels"]["density"], abs=1e-4)
    # a scene's clean picture is shared by its levels
    assert len(list((tmp_path / "out/Train/Dehaze/original").iterdir())) == 4


@pytest.mark.parametrize(
    ("side", "starts"), [(20, [0]), (32, [0]), (37, [0]), (38, [0, 6]), (48, [0, 16]), (60, [0, 16, 28]), (53, [0, 16])]
)
def test_sub_images_are_those_of_mioirs_script(side, starts):
    """Of 32 pixels: a step of 16, and more than 5 pixels left over make a further one."""
    boxes = windows(side, side, 32)
    assert sorted({left for left, *_ in boxes}) == starts
    assert boxes == [(x, y, x + min(side, 32), y + min(side, 32)) for y in starts for x in starts]


def test_seeds_and_repetition(photographs, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare("rain-haze-snow", tmp_path / name, photographs, size=32, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["train/input/10001_rain.png"] != c["train/input/10001_rain.png"]


def test_preparing_goes_on_where_it_was_interrupted(photographs, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    prepare("multiple", whole, photographs, size=32)

    def stop(done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("multiple", cut, photographs, size=32, progress=stop)
    assert not json.loads((cut / "prepared.json").read_text())["finished"]
    written = {path: path.stat().st_mtime_ns for path in cut.rglob("*.png")}
    next(iter(written)).unlink()
    (cut / "sr_sub32/.unfinished.part").write_bytes(b"half a picture")
    prepare("multiple", cut, photographs, size=32)
    assert contents(cut) == contents(whole)
    assert sum(path.stat().st_mtime_ns != time for path, time in written.items()) == 1


def test_finished_folder_is_left_as_it_is(photographs, tmp_path, monkeypatch):
    first = prepare("rain-haze-snow", tmp_path / "out", photographs, size=32)
    monkeypatch.setattr(preparing, "degrade", None)
    assert prepare("rain-haze-snow", tmp_path / "out", photographs, size=32) == first


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"setting": "sevenfold"}, "setting is"),
        ({"size": 7}, "size is 7"),
        ({"levels": 0}, "levels is 0"),
        ({"jobs": 0}, "jobs is 0"),
        ({"train": "/nowhere"}, "no folder"),
    ],
)
def test_what_is_refused(options, match, photographs, tmp_path):
    given = {"setting": "multiple", "output": tmp_path / "out", "train": photographs, **options}
    with pytest.raises(ValueError, match=match):
        prepare(**given)
    assert not (tmp_path / "out").exists()


def test_a_photograph_is_not_trained_and_tested_on(photographs, tmp_path):
    (tmp_path / "test").mkdir()
    shutil.copy(photographs / "3.png", tmp_path / "test/renamed.png")
    with pytest.raises(ValueError, match=r"'renamed.png' to test on is '3.png' to train on"):
        prepare("rain-haze-snow", tmp_path / "out", photographs, tmp_path / "test")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["text", "truncated", "small"])
def test_faulty_photograph_is_named_before_anything_is_written(how, photographs, tmp_path, capsys):
    shutil.copytree(photographs, tmp_path / "faulty")
    file = tmp_path / "faulty/3.png"
    if how == "small":
        Image.new("RGB", (60, 24)).save(file)
    else:
        file.write_bytes(b"no picture" if how == "text" else file.read_bytes()[:-100])
    arguments = ["--setting", "multiple", "--photographs", str(tmp_path / "faulty"), "--output", str(tmp_path / "out")]
    assert main(["prepare", *arguments]) == 2
    assert repr(str(file)) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_of_another_preparation_is_refused(photographs, tmp_path):
    prepare("rain-haze-snow", tmp_path / "out", photographs, size=64)
    with pytest.raises(ValueError, match="another seed"):
        prepare("rain-haze-snow", tmp_path / "out", photographs, size=64, seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("keep me")
    with pytest.raises(ValueError, match="other files"):
        prepare("rain-haze-snow", tmp_path / "full", photographs, size=64)


def test_command(photographs, tmp_path, capsys):
    arguments = ["--photographs", str(photographs), "--size", "32", "--levels", "2", "--jobs", "1"]
    assert main(["prepare", "--setting", "rain-haze-snow", *arguments, "--output", str(tmp_path / "out")]) == 0
    assert "train: 4 photographs, 144 pictures" in capsys.readouterr().out
    assert len(layouts.read("rain-haze-snow", tmp_path / "out")) == 144


def test_turned_photograph_is_upright(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "turned")
    image = Image.open(photographs / "0.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned/0.png", exif=exif)
    prepare("rain-haze-snow", tmp_path / "out", tmp_path / "turned", size=60)
    upright = pixels(tmp_path / "out/train/gt/10001_rain.png")
    assert np.array_equal(upright, np.rot90(pixels(photographs / "0.png"), -1))


INTERRUPTED = """
import sys
from benchmarks.restoration.__main__ import main
if __name__ == "__main__":
    sys.exit(main(["prepare", "--setting", "multiple", "--size", "32", "--jobs", "2", "--levels", "1000",
          "--photographs", sys.argv[1], "--output", sys.argv[2]]))
"""


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_processes_write_what_one_would_and_end_with_an_interrupt(photographs, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(photographs), str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 100
    while len(list(tmp_path.glob("out/*_sub32/*.png"))) < 40 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"left behind: {alive}"
        time.sleep(0.05)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("multiple", tmp_path / "alone", photographs, size=32, levels=1000, progress=stop)
    alone, out = (contents(tmp_path / name) for name in ("alone", "out"))
    both = [name for name in alone if name in out]
    assert len(both) > 10
    assert all(alone[name] == out[name] for name in both)
