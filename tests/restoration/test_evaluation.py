from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.restoration import data, layouts, models
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.evaluation import evaluate
from benchmarks.restoration.metrics import METRICS
from benchmarks.restoration.restoring import restore_tensor

IMAGES = {"rain": 3, "haze": 2, "noise": 6}


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def pairs(tmp_path) -> layouts.Pairs:
    """Three pairs of rain, two of haze, and two pictures for noise of three sigmas; no two of one size."""
    generator, folder = np.random.default_rng(0), tmp_path / "data" / "test"
    for index in range(3):
        clean = generator.integers(0, 200, (30 + index, 40, 3), dtype=np.uint8)
        save(folder / f"derain/Rain100L/target/{index}.png", clean)
        save(
            folder / f"derain/Rain100L/input/{index}.png", clean + generator.integers(0, 50, (1, 40, 3), dtype=np.uint8)
        )
    for index in range(2):
        save(folder / f"dehaze/target/{index}.png", clean[: 20 + index])
        save(folder / f"dehaze/input/{index}_1_0.2.png", clean[: 20 + index] // 2 + 100)
        save(folder / f"denoise/bsd68/{index}.png", clean[:, : 20 + index])
    return layouts.read("rain-haze-noise", tmp_path / "data", "test")


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


class Network(nn.Module):
    """Darkens, counts its calls, and is interrupted at the call ``stop``."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__()
        self.calls, self.stop = 0, stop

    def forward(self, x: Tensor) -> Tensor:
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return 0.9 * x - 0.01


def rows_of(run: Path, name: str = "scores.csv") -> list[dict[str, str]]:
    with (run / name).open(newline="") as file:
        return list(csv.DictReader(file))


def strict_json(file: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(file.read_text(), parse_constant=refuse)


def test_scores_are_means_over_tasks_of_means_over_images_of_8_bit_output(pairs, run):
    scores = evaluate(Network(), pairs, run, identity={}, metrics=list(METRICS))
    rows = rows_of(run)
    assert [row["task"] for row in rows] == [task for task, count in IMAGES.items() for _ in range(count)]
    for row, pair in zip(rows, pairs, strict=True):
        degraded, clean = data.load(pair)
        restored = (255 * restore_tensor(Network(), degraded)).round().clamp(0, 255).to(torch.uint8)
        for name, metric in METRICS.items():
            column = name.replace("-", "_")
            assert float(row[column]) == metric.measure(restored, clean)
            assert float(row[f"{column}_input"]) == metric.measure(degraded, clean)
    assert rows[0]["image"] == "test/derain/Rain100L/input/0.png"
    assert rows[6]["image"] == "test/denoise/bsd68/0.png, sigma 25"
    for column in ("psnr", "ssim_uniform", "psnr_y"):
        means = {task: np.mean([float(row[column]) for row in rows if row["task"] == task]) for task in IMAGES}
        for task, value in means.items():
            assert scores["restored"][task][column] == pytest.approx(value)
        assert scores["average"]["restored"][column] == pytest.approx(np.mean(list(means.values())))
    assert {task: score["images"] for task, score in scores["input"].items()} == IMAGES
    assert strict_json(run / "scores.json") == scores
    assert not (run / "scores.partial.csv").exists()


def test_equal_images_have_no_psnr_and_are_counted(pairs, run):
    """The clean picture of one pair of rain is its input, and both pairs of haze are alike."""
    folder = pairs.folder / "test"
    (folder / "derain/Rain100L/input/1.png").write_bytes((folder / "derain/Rain100L/target/1.png").read_bytes())
    for index in range(2):
        (folder / f"dehaze/input/{index}_1_0.2.png").write_bytes((folder / f"dehaze/target/{index}.png").read_bytes())
    evaluate(nn.Identity(), pairs, run, identity={})
    scores, rows = strict_json(run / "scores.json"), rows_of(run)
    assert [row["psnr"] == "" for row in rows[:5]] == [False, True, False, True, True]
    known = [float(rows[index]["psnr"]) for index in (0, 2)]
    assert scores["restored"]["rain"]["psnr"] == pytest.approx(np.mean(known))
    assert scores["restored"]["rain"]["infinite"] == {"psnr": 1}
    assert scores["input"]["haze"] == {"psnr": None, "ssim": pytest.approx(1), "images": 2, "infinite": {"psnr": 2}}
    assert scores["restored"]["noise"]["infinite"] == {}
    assert scores["average"]["restored"]["psnr"] is None
    assert 0 < scores["average"]["restored"]["ssim"] < 1


@pytest.mark.parametrize("stop", [1, 5, 10])
def test_an_interrupted_evaluation_goes_on(pairs, run, tmp_path, stop):
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = evaluate(Network(), pairs, whole, identity={"checkpoint": "a"}, pictures=0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Network(stop), pairs, run, identity={"checkpoint": "a"}, pictures=0)
    assert not (run / "scores.json").exists()
    # The row being written when the process was killed.
    partial = run / "scores.partial.csv"
    partial.write_text(partial.read_text()[:-10])
    rest, seen = Network(), []
    scores = evaluate(
        rest, pairs, run, identity={"checkpoint": "a"}, pictures=0, progress=lambda *done: seen.append(done)
    )
    assert rest.calls == len(pairs) - stop + 1
    assert seen == [(index + 1, len(pairs)) for index in range(len(pairs))]
    assert scores == expected
    assert (run / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


def test_what_has_changed_is_scored_again(pairs, run):
    def calls(**options) -> int:
        network = Network()
        evaluate(network, pairs, run, **{"identity": {"checkpoint": "a"}, "pictures": 0, **options})
        return network.calls

    assert calls() == len(pairs)
    assert calls() == 0
    assert calls(identity={"checkpoint": "b"}) == len(pairs)
    assert calls(identity={"checkpoint": "b"}, metrics=["psnr", "psnr-y"]) == len(pairs)
    assert calls(identity={"checkpoint": "b"}, metrics=["psnr-y"]) == 0
    assert list(rows_of(run)[0]) == ["task", "image", "psnr_y_input", "psnr_y", "digest"]
    target = pairs.folder / "test/dehaze/target/0.png"
    with Image.open(target) as image:
        pixels = np.array(image)
    pixels[0, 0] ^= 1
    save(target, pixels)
    assert calls(identity={"checkpoint": "b"}, metrics=["psnr-y"]) == 1


def test_a_file_that_fails_is_named_and_the_others_are_scored(pairs, run):
    broken = pairs.folder / "test/derain/Rain100L/input/1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    small = pairs.folder / "test/denoise/bsd68/1.png"
    with Image.open(small) as image:
        kept = np.array(image)
    save(small, kept[:5])
    with pytest.raises(ValueError, match=r"(?s)4 of 11 images could not be scored.*input/1\.png: .*bsd68/1\.png: ssim"):
        evaluate(Network(), pairs, run, identity={}, pictures=0)
    assert len(rows_of(run, "scores.partial.csv")) == len(pairs) - 4
    assert not (run / "scores.json").exists()
    broken.write_bytes(whole)
    save(small, kept)
    network = Network()
    evaluate(network, pairs, run, identity={}, pictures=0)
    assert network.calls == 4


def test_a_network_that_fails_everywhere_is_reported_in_brief(pairs, run):
    with pytest.raises(ValueError, match=r"(?s)11 of 11 images could not be scored.*not finite.*and 1 more$"):
        evaluate(nn.Threshold(1.0, float("nan")), pairs, run, identity={})


def test_pictures_are_spread_over_a_task_and_show_its_middle(pairs, run):
    evaluate(Network(), pairs, run, identity={}, pictures=2)
    stems = {"rain/0", "rain/1", "haze/0_1_0.2", "haze/1_1_0.2", "noise/0-sigma15", "noise/1-sigma15"}
    files = {path.relative_to(run / "pictures").as_posix() for path in run.glob("pictures/*/*")}
    assert files == {f"{stem}-{kind}.png" for stem in stems for kind in ("degraded", "restored", "clean")}
    degraded, clean = data.load(pairs[1])
    for kind, image in (("degraded", degraded), ("clean", clean)):
        with Image.open(run / f"pictures/rain/1-{kind}.png") as shown:
            assert (np.asarray(shown) == image.permute(1, 2, 0).numpy()).all()
    evaluate(Network(), pairs, run, identity={}, pictures=1)
    assert len(list(run.glob("pictures/*/*"))) == 9
    large = torch.arange(500).div(2).to(torch.uint8).expand(3, 400, 500).permute(1, 2, 0).contiguous().numpy()
    for kind in ("input", "target"):
        save(pairs.folder / f"test/derain/Rain100L/{kind}/0.png", large)
    evaluate(Network(), pairs, run, identity={}, pictures=1)
    with Image.open(run / "pictures/rain/0-clean.png") as shown:
        assert (np.asarray(shown) == large[40:360, 90:410]).all()


def test_metrics_and_tiles_are_checked_first(pairs, run):
    with pytest.raises(ValueError, match="metric 'lpips' is not known; choose among psnr, ssim"):
        evaluate(Network(), pairs, run, identity={}, metrics=["lpips"])
    with pytest.raises(ValueError, match="overlap is 9"):
        evaluate(Network(), pairs, run, identity={}, tile=16, overlap=9)
    assert not list(run.iterdir())


@pytest.fixture
def trained(run, pairs) -> Path:
    """A run as ``train`` leaves it, with averaged parameters, of a network that changes what it is given."""
    last, average = (models.create("srresnet", "tiny").state_dict() for _ in range(2))
    last["conv_last.bias"] += 0.1
    average["conv_last.bias"] -= 0.1
    config = {
        "setting": "rain-haze-noise",
        "model": "srresnet",
        "scale": "tiny",
        "data": {"folder": str(pairs.folder), "digest": ""},
    }
    (run / "run.json").write_text(json.dumps(config))
    torch.save({"network": last, "average": average, "run": config, "step": 1}, run / "checkpoint.pt")
    return run


def test_the_command_scores_several_runs(trained, tmp_path, capsys):
    other = shutil.copytree(trained, tmp_path / "other")
    checkpoint = torch.load(other / "checkpoint.pt", weights_only=True)
    del checkpoint["average"]
    torch.save(checkpoint, other / "checkpoint.pt")
    assert main(["evaluate", str(trained), str(other), "--metrics", "psnr", "ssim-y", "--pictures", "1"]) == 0
    shown = capsys.readouterr().out
    scores = [strict_json(folder / "scores.json") for folder in (trained, other)]
    assert scores[0]["average"]["input"] == scores[1]["average"]["input"]
    assert scores[0]["average"]["restored"] != scores[1]["average"]["restored"]
    for score in scores:
        for side in ("input", "restored"):
            values = score["average"][side]
            assert f"{values['psnr']:.2f} / {values['ssim_y']:.4f}" in shown
    network = models.create("srresnet", "tiny")
    network.load_state_dict(torch.load(trained / "checkpoint.pt", weights_only=True)["average"])
    again = tmp_path / "again"
    again.mkdir()
    pairs = layouts.read("rain-haze-noise", tmp_path / "data", "test")
    expected = evaluate(network.eval(), pairs, again, identity={}, metrics=["psnr", "ssim-y"])
    assert scores[0]["restored"] == expected["restored"]


def test_the_command_names_what_fails_and_goes_on(trained, pairs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["evaluate", str(trained), str(empty)]) == 2
    assert "empty" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--data", str(empty)]) == 2
    assert str(empty) in capsys.readouterr().err
    # Whole by its header and its end, and yet no picture.
    broken = pairs.folder / "test/derain/Rain100L/input/1.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:100] + bytes(len(content) - 200) + content[-100:])
    assert main(["evaluate", str(trained)]) == 1
    assert "input/1.png" in capsys.readouterr().err
    broken.write_bytes(content)
    assert main(["evaluate", str(trained)]) == 0


def test_the_command_can_be_interrupted(trained, capsys, monkeypatch):
    monkeypatch.setattr(models.srresnet.SRResNet, "forward", Network(stop=3).forward)
    assert main(["evaluate", str(trained)]) == 130
    assert "goes on" in capsys.readouterr().err
    assert len(rows_of(trained, "scores.partial.csv")) == 3
