from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.restoration import __main__ as command_line
from benchmarks.restoration import photographs
from benchmarks.restoration.photographs import (
    Photograph,
    debian_credits,
    depth_from_disparity,
    from_debian,
    from_folder,
    halve,
    packaged,
    split,
)

SIZES = {
    "astronaut": (512, 512),
    "chelsea": (300, 451),
    "coffee": (400, 600),
    "motorcycle": (500, 741),
    "rocket": (427, 640),
    "china": (427, 640),
    "flower": (427, 640),
}


@pytest.fixture(scope="module")
def seven() -> list[Photograph]:
    return packaged()


def test_packaged_photographs_keep_their_order_and_size(seven):
    assert {photograph.name: tuple(photograph.image.shape[1:]) for photograph in seven} == SIZES
    assert [photograph.name for photograph in seven] == list(SIZES)


def test_packaged_photographs_are_8_bit_colour(seven):
    for photograph in seven:
        red, green, blue = photograph.image
        assert photograph.image.dtype == torch.uint8
        assert photograph.image.is_contiguous()
        assert not torch.equal(red, green)
        assert not torch.equal(green, blue)


def test_channels_are_red_green_blue(seven):
    """The flower is orange on dark blue-green leaves."""
    flower = seven[-1].image.float()
    red, green, blue = flower[:, 180:240, 260:340].mean((1, 2))
    assert red > green > blue
    red, _, blue = flower[:, :40, 300:500].mean((1, 2))
    assert blue > red


def test_only_the_motorcycle_has_depth_and_the_wall_is_behind_it(seven):
    assert [photograph.name for photograph in seven if photograph.depth is not None] == ["motorcycle"]
    depth = seven[3].depth
    assert depth.shape == seven[3].image.shape[1:]
    assert depth.dtype == torch.float32
    assert depth.min() > 0
    assert depth.max() == 1
    wall, tank, floor = depth[60, 250], depth[220, 380], depth[495, 380]
    assert wall > tank > floor


def test_hidden_pixels_take_the_farther_neighbour_of_their_row():
    inf, nan = float("inf"), float("nan")
    disparity = torch.tensor([[inf, 10.0, nan, inf, 20.0, inf], [40.0, inf, 20.0, 20.0, 20.0, 20.0]])
    expected = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.5, 0.5], [0.25, 0.5, 0.5, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(depth_from_disparity(disparity, offset=0), expected)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-image"):
        packaged()


def test_folder_is_read_by_suffix_sorted_by_name(tmp_path):
    for name in ("c.webp", "a.PNG", "b.jpeg", "d.jpg"):
        Image.new("RGB", (6, 4), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a photograph")
    (tmp_path / "inner").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "inner" / "e.png")
    found = from_folder(tmp_path)
    assert [photograph.name for photograph in found] == ["a.PNG", "b.jpeg", "c.webp", "d.jpg"]
    assert all(photograph.depth is None for photograph in found)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "RGB"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(tmp_path / "white.png")
    assert torch.equal(from_folder(str(tmp_path))[0].image, torch.full((3, 4, 6), 255, dtype=torch.uint8))


def test_pixels_land_at_row_and_column(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((5, 1), (10, 20, 30))
    image.save(tmp_path / "dot.png")
    read = from_folder(tmp_path)[0].image
    assert read[:, 1, 5].tolist() == [10, 20, 30]
    assert read.count_nonzero() == 3


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the camera was held a quarter turn to the left
    Image.new("RGB", (6, 4)).save(tmp_path / "upright.jpg", exif=exif)
    assert from_folder(tmp_path)[0].image.shape == (3, 6, 4)


def test_folder_without_photographs_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a photograph")
    with pytest.raises(ValueError, match=r"holds no photograph; it wants files that end in \.png"):
        from_folder(tmp_path)


def test_a_folder_is_read_as_any_picture(tmp_path):
    """A broken file by its name, 16 bits as 8."""
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert from_folder(tmp_path)[0].image.tolist() == [[[0, 1, 255]]] * 3
    (tmp_path / "broken.jpg").write_bytes(b"not a photograph")
    with pytest.raises(ValueError, match=r"broken\.jpg' cannot be read"):
        from_folder(tmp_path)


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: somewhere

Files: 16.04/Bridge_by_Ann.jpg
Copyright: 2018, Ann
License: CC-BY-SA-4.0

Files: 16.04/sunset_by_Bob.jpg
       16.04/umang_by_Bob.jpg
Copyright: Bob, 2018
           "Zoé", 2019
License: CC0-1.0

Files: debian/*
 AUTHORS
Copyright: 2018, Dalton
License: Expat

License: Expat
 Permission is hereby granted
 .
 The software is provided as is
"""


@pytest.fixture
def unpacked(tmp_path):
    """Two photographs and a picture that is none, as dpkg-deb -x lays them."""
    folder = tmp_path / "unpacked"
    for part in ("usr/share/backgrounds", "usr/share/doc/lomiri-wallpapers-16.04"):
        (folder / part).mkdir(parents=True)
    for name, side in (("sunset_by_Bob", 21), ("umang_by_Bob", 20), ("Bridge_by_Ann", 20)):
        Image.new("RGB", (side, 12), (200, 100, 50)).save(folder / f"usr/share/backgrounds/{name}.jpg", quality=95)
    (folder / "usr/share/doc/lomiri-wallpapers-16.04/copyright").write_text(COPYRIGHT, encoding="utf-8")
    return folder


def test_debian_photographs_come_halved_without_what_is_none(unpacked):
    found = list(from_debian(unpacked))
    assert [photograph.name for photograph in found] == ["Bridge_by_Ann", "sunset_by_Bob"]
    for photograph in found:
        assert photograph.image.shape == (3, 6, 10)
        assert (photograph.image.int() - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= 3


def test_debian_credits_name_author_and_licence(unpacked):
    credits = debian_credits(unpacked)
    assert credits["Bridge_by_Ann"] == ("2018, Ann", "CC-BY-SA-4.0")
    assert credits["sunset_by_Bob"] == credits["umang_by_Bob"] == ('Bob, 2018 "Zoé", 2019', "CC0-1.0")


def test_a_debian_photograph_without_a_licence_is_refused(unpacked):
    Image.new("RGB", (9, 9)).save(unpacked / "usr/share/backgrounds/stray.jpg")
    with pytest.raises(ValueError, match="has stray; it wants a licence for each photograph"):
        next(from_debian(unpacked))


def test_a_folder_that_holds_no_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no photograph in usr/share/backgrounds; .* run 'make photos'"):
        next(from_debian(tmp_path))


def test_photos_writes_png_files_and_credits(unpacked, tmp_path, capsys):
    output = tmp_path / "photographs"
    assert command_line.main(["photos", "--unpacked", str(unpacked), "--output", str(output)]) == 0
    assert "2 photographs, 0.0 megapixels" in capsys.readouterr().out
    written = from_folder(output)
    assert [photograph.name for photograph in written] == ["Bridge_by_Ann.png", "sunset_by_Bob.png"]
    for one, other in zip(written, from_debian(unpacked), strict=True):
        assert torch.equal(one.image, other.image)
    credits = (output / "CREDITS").read_text(encoding="utf-8").splitlines()
    assert credits[-2:] == [
        "Bridge_by_Ann.png: 2018, Ann; CC-BY-SA-4.0; 10 x 6",
        'sunset_by_Bob.png: Bob, 2018 "Zoé", 2019; CC0-1.0; 10 x 6',
    ]


def test_halving_is_antialiased():
    """Stripes finer than the half can hold fade; without antialiasing they come back wider, in full contrast."""
    stripes = 255 * (torch.arange(60) % 3 == 0).to(torch.uint8).expand(3, 60, 60)
    aliased = F.interpolate(stripes[None].float(), scale_factor=0.5, mode="bicubic")
    assert halve(stripes).float().std() < 0.5 * aliased.std()
    flat = torch.full((3, 7, 9), 77, dtype=torch.uint8)
    assert torch.equal(halve(flat), torch.full((3, 3, 4), 77, dtype=torch.uint8))


def test_packaged_split(seven):
    training, validation = split(seven)
    assert [photograph.name for photograph in validation] == ["chelsea", "china"]
    pixels = sum(photograph.image[0].numel() for photograph in training)
    assert pixels > 0.75 * sum(height * width for height, width in SIZES.values())


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 13, 40])
def test_split_is_a_partition_with_both_parts(count):
    given = [Photograph(str(index), torch.zeros(3, 1, 1, dtype=torch.uint8)) for index in range(count)]
    training, validation = split(given)
    assert training
    assert validation
    assert len(training) >= len(validation)
    names = [[photograph.name for photograph in part] for part in (training, validation)]
    assert not set(names[0]) & set(names[1])
    assert sorted(names[0] + names[1], key=int) == [photograph.name for photograph in given]


@pytest.mark.parametrize("count", [0, 1])
def test_split_refuses_fewer_than_two(seven, count):
    with pytest.raises(ValueError, match=f"given {count} photograph.* wants at least 2"):
        split(seven[:count])
