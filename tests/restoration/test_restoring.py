from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.restoration import models
from benchmarks.restoration.__main__ import main
from benchmarks.restoration.restoring import plan, precision, restore_bands, restore_file, restore_tensor


@pytest.fixture
def local() -> nn.Module:
    """Sees 3 pixels far, and feels every border: a convolution of zeros beyond."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 5, padding=2)).eval()


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", [(5, 7), (32, 32), (32, 33), (33, 32), (47, 150), (97, 61), (128, 20)])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_of_a_local_network_leave_no_trace(local, size, batch):
    image = picture(*size)
    expected = local(image[None])[0]
    restored = restore_tensor(local, image, tile=32, overlap=12, batch=batch)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)


def test_tiles_that_share_too_little_do(local):
    image = picture(64, 64)
    assert (restore_tensor(local, image, tile=32, overlap=0) - local(image[None])[0]).abs().max() > 0.01


def srresnet() -> nn.Module:
    """One that has left its initial state, near the identity."""
    torch.manual_seed(0)
    network = models.create("srresnet", "tiny").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6)
    return network


def test_tiles_of_srresnet_leave_no_trace():
    network = srresnet()
    radius = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    image = picture(100, 130)
    assert (network(image[None])[0] - image).abs().mean() > 0.05
    restored = restore_tensor(network, image, tile=64, overlap=4 * radius, batch=2)
    torch.testing.assert_close(restored, network(image[None])[0], rtol=0, atol=1e-6)


class Brightness(nn.Module):
    """Gives each tile one value: the mean of what it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3), keepdim=True).expand_as(x)


@pytest.mark.parametrize("overlap", [8, 32, 64])
def test_tiles_that_disagree_fade_into_each_other(overlap):
    """Seams are what the eye sees first: the step from pixel to pixel is a share of the difference of two tiles."""
    image = torch.linspace(0, 1, 300).expand(3, 140, 300)
    restored = restore_tensor(Brightness(), image, tile=128, overlap=overlap)
    values = restored[0, 0]
    assert (values.diff() >= -1e-6).all()
    assert values.diff().max() <= 1.2 * (128 - overlap) / 300 / (overlap / 2)
    assert restored.amin() >= 0
    assert restored.amax() <= 1
    torch.testing.assert_close(restored, values.expand_as(restored))


@pytest.mark.parametrize("overlap", [0, 1, 5, 16])
@pytest.mark.parametrize("size", [(1, 1), (31, 65), (33, 64), (100, 129), (34, 34)])
def test_the_identity_is_kept(size, overlap):
    image = picture(*size)
    torch.testing.assert_close(restore_tensor(nn.Identity(), image, tile=32, overlap=overlap), image)
    rounded = (255 * image).to(torch.uint8)
    torch.testing.assert_close(restore_tensor(nn.Identity(), rounded, tile=32, overlap=overlap), rounded / 255)


def test_rows_are_read_once_and_before_they_are_written():
    image, written, asked = picture(150, 20), [0], [0]

    def rows(top: int, bottom: int) -> torch.Tensor:
        assert top == asked[-1] >= written[-1]
        asked.append(bottom)
        return image[:, top:bottom]

    bands = []
    for band in restore_bands(nn.Identity(), rows, (150, 20), tile=32, overlap=8):
        bands.append(band)
        written.append(written[-1] + band.shape[1])
        assert asked[-1] - written[-1] <= 32
        assert band.shape[1] <= 32
    assert asked[-1] == written[-1] == 150
    torch.testing.assert_close(torch.cat(bands, 1), image)


def test_a_network_that_fails_is_refused():
    with pytest.raises(ValueError, match=r"not finite"):
        restore_tensor(nn.Threshold(0.5, float("nan")), picture(8, 8))
    with pytest.raises(ValueError, match=r"returned \[1, 3, 4, 4\] for images \[1, 3, 8, 8\]"):
        restore_tensor(nn.AvgPool2d(2), picture(8, 8))


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        ({"tile": 0}, "tile is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"tile": 16, "overlap": 9}, r"overlap is 9 for tiles of 16; it must be in 0\.\.8"),
        ({"overlap": -1}, "overlap is -1"),
    ],
)
def test_tilings_that_cannot_cover_an_image_are_refused(tiling, message):
    with pytest.raises(ValueError, match=message):
        restore_tensor(nn.Identity(), picture(8, 8), **tiling)


class Negative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - x


def photograph(mode: str, height: int = 75, width: int = 50) -> Image.Image:
    pixels = (255 * picture(height, width)).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).convert(mode)


TILES = {"tile": 32, "overlap": 8}


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".png"), ("RGB", ".tif"), ("RGB", ".bmp"), ("L", ".png")])
def test_a_file_is_restored(tmp_path, mode, suffix):
    source, target = tmp_path / f"a{suffix}", tmp_path / "out" / "b.png"
    photograph(mode).save(source)
    before = source.read_bytes()
    restore_file(Negative(), source, target, **TILES)
    with Image.open(source) as degraded, Image.open(target) as restored:
        assert restored.mode == mode
        assert (np.asarray(restored) == 255 - np.asarray(degraded)).all()
    assert source.read_bytes() == before
    assert sorted(path.name for path in target.parent.iterdir()) == ["b.png"]


def test_alpha_is_kept(tmp_path):
    image = photograph("RGB")
    image.putalpha(photograph("L").resize(image.size))
    image.save(tmp_path / "a.png")
    restore_file(Negative(), tmp_path / "a.png", tmp_path / "b.png", **TILES)
    with Image.open(tmp_path / "b.png") as restored:
        given, restored = np.asarray(image), np.asarray(restored)
    assert (restored[..., 3] == given[..., 3]).all()
    assert (restored[..., :3] == 255 - given[..., :3]).all()


def test_16_bits_of_grey_are_kept(tmp_path):
    given = np.random.default_rng(0).integers(0, 65536, (75, 50), dtype=np.uint16)
    Image.fromarray(given).save(tmp_path / "a.png")
    restore_file(Negative(), tmp_path / "a.png", tmp_path / "b.png", **TILES)
    with Image.open(tmp_path / "b.png") as restored:
        assert restored.mode == "I;16"
        assert abs(np.asarray(restored).astype(int) - (65535 - given.astype(int))).max() <= 1


def test_a_file_is_restored_upright(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned clockwise by a quarter
    image = photograph("RGB")
    image.save(tmp_path / "a.png", exif=exif)
    restore_file(nn.Identity(), tmp_path / "a.png", tmp_path / "b.png", **TILES)
    with Image.open(tmp_path / "b.png") as restored:
        assert restored.getexif().get(0x112, 1) == 1
        assert (np.asarray(restored) == np.rot90(np.asarray(image), -1)).all()


def test_rows_already_restored_are_not_read_again(tmp_path):
    """Restored rows take the place of the degraded ones, of which the tiles below still need some."""
    network = srresnet()
    photograph("RGB", 150, 40).save(tmp_path / "a.png")
    restore_file(network, tmp_path / "a.png", tmp_path / "tiled.png", tile=64, overlap=32)
    restore_file(network, tmp_path / "a.png", tmp_path / "whole.png", tile=150)
    with Image.open(tmp_path / "tiled.png") as tiled, Image.open(tmp_path / "whole.png") as whole:
        tiled, whole, degraded = (np.asarray(image).astype(int) for image in (tiled, whole, photograph("RGB", 150, 40)))
    assert abs(tiled - whole).max() <= 1
    assert abs(whole - degraded).mean() > 10


def test_a_source_is_never_overwritten(tmp_path):
    photograph("RGB").save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for target in (tmp_path / "a.png", tmp_path / "link.png"):
        with pytest.raises(ValueError, match="is the source itself"):
            restore_file(Negative(), tmp_path / "a.png", target)
        with pytest.raises(ValueError, match="is an input"):
            plan(tmp_path / "a.png", target)
    with pytest.raises(ValueError, match="is an input"):
        plan(tmp_path / "a.png", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_restored_file_is_whole_or_not_there(tmp_path):
    photograph("RGB").save(tmp_path / "a.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        restore_file(Negative(), tmp_path / "bad.jpg", tmp_path / "out" / "bad.png")
    with pytest.raises(ValueError, match="not finite"):
        restore_file(nn.Threshold(0.5, float("nan")), tmp_path / "a.png", tmp_path / "out" / "a.png")
    assert not list(tmp_path.glob("out/*"))


MEASURE = """
import sys
from torch import nn
from benchmarks.restoration import images
from benchmarks.restoration.restoring import restore_file

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

source, target = sys.argv[1:]
restore_file(nn.Identity(), source + "/small.png", target, tile=256)
before = peak()
restore_file(nn.Identity(), source + "/large.png", target, tile=256)
print(1024 * (peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_a_large_picture_takes_the_memory_of_its_pixels(tmp_path):
    """4 bytes a pixel while Pillow has it, 3 in the tensor, some for strips and bands; a float32 copy would add 12."""
    for name, side in (("small", 400), ("large", 3500)):
        Image.linear_gradient("L").resize((side, side)).convert("RGB").save(tmp_path / f"{name}.png", compress_level=1)
    measure = [sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "restored.png")]
    grown = int(subprocess.run(measure, capture_output=True, text=True, check=True).stdout)
    assert 3 < grown / 3500**2 < 14


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_a_folder_keeps_its_structure_and_names(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    names = ["a.png", "b.jpg", "deep/er/a.TIF", "deep/c.jpeg", "deep/c.webp", "deep/c.gif", "notes.txt", "x.png/y.bmp"]
    touch(*(source / name for name in names))
    expected = {
        "a.png": "a.png",
        "b.jpg": "b.png",
        "deep/er/a.TIF": "deep/er/a.TIF",
        "deep/c.jpeg": "deep/c.jpeg.png",
        "deep/c.webp": "deep/c.webp.png",
        "deep/c.gif": "deep/c.gif.png",
        "x.png/y.bmp": "x.png/y.png",
    }
    assert dict(plan(source, target)) == {source / name: target / goal for name, goal in expected.items()}


def test_results_within_the_input_are_not_restored_again(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "restored" / "a.png")
    assert plan(tmp_path, tmp_path / "restored") == [(tmp_path / "a.jpg", tmp_path / "restored" / "a.png")]
    with pytest.raises(ValueError, match="holds no picture outside the output"):
        plan(tmp_path, tmp_path)


def test_a_single_picture_goes_into_a_folder_or_to_a_name(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "file.png")
    (tmp_path / "out").mkdir()
    assert plan(tmp_path / "a.jpg", tmp_path / "out") == [(tmp_path / "a.jpg", tmp_path / "out" / "a.png")]
    assert plan(tmp_path / "a.jpg", tmp_path / "b.tif") == [(tmp_path / "a.jpg", tmp_path / "b.tif")]
    with pytest.raises(ValueError, match=r"b\.jpg' is no folder and ends in none of \.png"):
        plan(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="is a file and the input a folder"):
        plan(tmp_path, tmp_path / "file.png")
    with pytest.raises(ValueError, match=r"none' does not exist"):
        plan(tmp_path / "none", tmp_path / "out")


def test_precision(tmp_path):
    layer, x = nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4)
    with precision("fp32", torch.device("cpu")):
        assert layer(x).dtype == torch.float32
    with precision("bf16", torch.device("cpu")):
        assert layer(x).dtype == torch.bfloat16
        assert restore_tensor(layer, x[0]).dtype == torch.float32


@pytest.fixture
def run(tmp_path) -> Path:
    """A run as ``train`` leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"setting": "rain-haze-noise", "model": "srresnet", "scale": "tiny"}
    network = srresnet().state_dict()
    (folder / "run.json").write_text(json.dumps(config))
    torch.save({"network": network, "run": config, "step": 1}, folder / "checkpoint.pt")
    return folder


def test_the_command_restores_a_folder_but_for_what_fails(run, tmp_path, capsys):
    source = tmp_path / "in"
    for name in ("a.png", "deep/b.jpg", "c.bmp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        photograph("RGB").save(source / name)
    (source / "deep" / "bad.png").write_bytes(b"no picture")
    command = ["restore", str(run), str(source), str(tmp_path / "out"), "--tile", "64", "--overlap", "16"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "restored 3 of 4 pictures" in printed.out
    assert f"restore: picture {str(source / 'deep' / 'bad.png')!r} cannot be read" in printed.err
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"a.png", "deep/b.png", "c.png"}
    (source / "deep" / "bad.png").unlink()
    assert main(command) == 0
    network = models.create("srresnet", "tiny")
    network.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["network"])
    with Image.open(source / "a.png") as image, Image.open(tmp_path / "out" / "a.png") as restored:
        degraded = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        expected = 255 * restore_tensor(network, degraded, tile=64, overlap=16)
        assert (expected.round().clamp(0, 255) == torch.from_numpy(np.array(restored)).permute(2, 0, 1)).all()


def test_the_command_checks_before_it_starts(run, tmp_path, capsys):
    photograph("RGB").save(tmp_path / "a.png")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    for arguments, message in (
        ([str(run), a, a], "is an input"),
        ([str(run), a, b, "--tile", "16"], "overlap is 32 for tiles of 16"),
        ([str(tmp_path), a, b], "run.json"),
    ):
        assert main(["restore", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not Path(b).exists()


def test_the_command_can_be_interrupted(run, tmp_path, capsys, monkeypatch):
    photograph("RGB").save(tmp_path / "a.png")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.restoration.commands.restore.restore_file", interrupt)
    assert main(["restore", str(run), str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 130
    assert "interrupted; the pictures before" in capsys.readouterr().err
