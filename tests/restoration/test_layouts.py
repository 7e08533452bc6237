from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.restoration.layouts import SETTINGS, Pairs, digest, read

Row = tuple[str, str, str, int]
MULTIPLE = SETTINGS["multiple"]

# What the official code makes of its folders: (degraded, clean, task, sigma).
ROWS: dict[tuple[str, str], list[Row]] = {
    ("multiple", "train"): [
        (f"{task}_sub300/0001_s00{i}.png", f"GT_sub300/0001_s00{i}.png", task, 0) for task in MULTIPLE for i in (1, 2)
    ],
    ("multiple", "test"): [
        (f"CL_test/single_indis/{task}/0801.png", "CL_test/original/GT/0801.png", task, 0) for task in MULTIPLE
    ],
    ("rain-haze-noise", "train"): [
        ("Train/Derain/rainy/rain-1.png", "Train/Derain/gt/norain-1.png", "rain", 0),
        ("Train/Derain/rainy/rain-10.png", "Train/Derain/gt/norain-10.png", "rain", 0),
        ("Train/Dehaze/synthetic/part1/0025_0.8_0.04.jpg", "Train/Dehaze/original/0025.jpg", "haze", 0),
        ("Train/Dehaze/synthetic/part2/0025_1_0.2.jpg", "Train/Dehaze/original/0025.jpg", "haze", 0),
        *(("Train/Denoise/00001.bmp",) * 2 + ("noise", sigma) for sigma in (15, 25, 50)),
    ],
    ("rain-haze-noise", "test"): [
        ("test/derain/Rain100L/input/1.png", "test/derain/Rain100L/target/1.png", "rain", 0),
        ("test/dehaze/input/0001_0.8_0.2.jpg", "test/dehaze/target/0001.png", "haze", 0),
        *(("test/denoise/bsd68/3096.jpg",) * 2 + ("noise", sigma) for sigma in (15, 25, 50)),
    ],
    ("rain-haze-snow", "train"): [
        ("train/input/3_rain.png", "train/gt/3_rain.png", "rain", 0),
        ("train/input/im_0001_s80_a04.png", "train/gt/im_0001_s80_a04.png", "haze", 0),
        ("train/input/city_read_00123.jpg", "train/gt/city_read_00123.jpg", "snow", 0),
    ],
    ("rain-haze-snow", "test"): [
        ("test/raindroptesta/input/0_rain.png", "test/raindroptesta/gt/0_rain.png", "rain", 0),
        ("test/test1/input/im_0301_s80_a04.png", "test/test1/gt/im_0301_s80_a04.png", "haze", 0),
        ("test/Snow100K-L/input/beautiful_smile_1.jpg", "test/Snow100K-L/gt/beautiful_smile_1.jpg", "snow", 0),
    ],
    ("rain-haze-noise-blur-dark", "train"): [
        ("rain200L/input/1.png", "rain200L/target/1.png", "rain", 0),
        ("OTS/input/0025_0.8_0.04.jpg", "OTS/target/0025.png", "haze", 0),
        *(("WED/target/00001.bmp",) * 2 + ("noise", sigma) for sigma in (15, 25, 50)),
        ("GoPro/input/000047.png", "GoPro/target/000047.png", "blur", 0),
        ("LOL/input/2.png", "LOL/target/2.png", "dark", 0),
    ],
    ("rain-haze-noise-blur-dark", "test"): [
        ("rain100L/input/1.png", "rain100L/target/1.png", "rain", 0),
        ("SOTS/input/0001_0.8_0.2.jpg", "SOTS/target/0001.png", "haze", 0),
        ("BSD68/target/3096.jpg", "BSD68/target/3096.jpg", "noise", 25),
        ("GoPro/test/input/1.png", "GoPro/test/target/1.png", "blur", 0),
        ("LOL/test/input/1.png", "LOL/test/target/1.png", "dark", 0),
    ],
}
IDR = {"rain": "derain", "haze": "dehaze", "noise": "denoise", "blur": "deblur", "dark": "delowlight"}


def picture(file: Path, size: tuple[int, int] = (24, 16)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(str(file).encode())).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def make(folder: Path, setting: str, split: str) -> list[Row]:
    """The folder that the official code reads, with its lists, and things beside that it does not."""
    rows = ROWS[setting, split]
    for name in {name for row in rows for name in row[:2]}:
        picture(folder / name)
    if setting == "rain-haze-noise" and split == "train":
        picture(folder / "Train/Derain/rainy/rainstreak-1.png")
        (folder / "Train/Denoise/README.md").write_text("no picture")
    elif setting == "rain-haze-snow":
        lists = ["allweather"] if split == "train" else ["raindroptesta", "test1", "Snow100K-L"]
        for name in lists:
            listed = [row[0].removeprefix(f"{split}/") for row in rows if split == "train" or name in row[0]]
            (folder / split / f"{name}.txt").write_text("\n".join(listed) + "\n\n")
    elif setting == "rain-haze-noise-blur-dark":
        lists_folder = folder / "docs" / split
        lists_folder.mkdir(parents=True)
        for degraded, clean, task, sigma in rows:
            if sigma in (0, 25):
                line = f"./{degraded}|{folder.absolute() / clean}\n"
                (lists_folder / f"{split}_{IDR[task]}_{task}.txt").write_text(line)
    return rows


def rows_of(pairs: Pairs) -> list[Row]:
    return [
        (os.path.relpath(d, pairs.folder), os.path.relpath(c, pairs.folder), pairs.tasks[task], sigma)
        for d, c, task, sigma in pairs
    ]


@pytest.fixture
def folder(tmp_path):
    make(tmp_path, "rain-haze-noise", "train")
    return tmp_path


@pytest.mark.parametrize(("setting", "split"), ROWS)
def test_pairs_are_those_of_the_official_code(setting, split, tmp_path):
    expected = make(tmp_path, setting, split)
    pairs = read(setting, tmp_path, split)
    assert sorted(rows_of(pairs)) == sorted(expected)
    assert pairs.tasks == SETTINGS[setting]
    assert pairs.task_ids.tolist() == sorted(pairs.task_ids)  # whatever the order of the disk


def test_pairs_are_a_sequence(folder):
    pairs = read("rain-haze-noise", folder)
    assert pairs[1:3] == [pairs[1], pairs[2]]
    assert list(pairs)[-1] == pairs[-1]
    assert pairs[0].degraded.is_file()


def test_pairs_take_a_hundred_bytes_each(tmp_path):
    make(tmp_path, "rain-haze-snow", "train")
    names = [f"input/a_picture_of_snow_{i:05}.png" for i in range(2000)]
    for side in ("input", "gt"):
        for name in names:
            os.link(tmp_path / "train/input/3_rain.png", tmp_path / "train" / name.replace("input", side))
    (tmp_path / "train/allweather.txt").write_text(
        "\n".join([*names, *(row[0][6:] for row in ROWS["rain-haze-snow", "train"])])
    )
    pairs = read("rain-haze-snow", tmp_path)
    arrays = (pairs.ends, pairs.degraded, pairs.clean, pairs.task_ids, pairs.sigmas)
    assert len(pairs.names) + sum(array.nbytes for array in arrays) < 130 * len(pairs)


def damage(file: Path, how: str) -> str:
    """Spoil a file; return what must be said of it."""
    if how == "missing":
        file.unlink()
        return "is missing"
    if how == "text":
        file.write_text("<html>404</html>")
        return "cannot be read"
    if how == "empty":
        file.write_bytes(b"")
        return "cannot be read"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        return "is truncated"
    if how == "deep":
        Image.fromarray(np.zeros((16, 24), np.uint16)).save(file.with_suffix(".png"))
        file.with_suffix(".png").rename(file)
        return "8 bits"
    picture(file, (24, 17))
    return "24 x 17"


@pytest.mark.parametrize(
    ("broken", "partner", "how"),
    [
        (broken, partner, how)
        for broken, partner, hows in [
            ("Train/Derain/rainy/rain-1.png", "Train/Derain/gt/norain-1.png", "text empty truncated deep size"),
            ("Train/Derain/gt/norain-1.png", "Train/Derain/rainy/rain-1.png", "missing"),
            (
                "Train/Dehaze/original/0025.jpg",
                "Train/Dehaze/synthetic/part1/0025_0.8_0.04.jpg",
                "missing text empty truncated",
            ),
            ("Train/Denoise/00001.bmp", "Train/Denoise/00001.bmp", "text empty truncated deep"),
        ]
        for how in hows.split()
    ],
)
def test_faulty_file_is_named_with_its_partner(broken, partner, how, folder):
    said = damage(folder / broken, how)
    with pytest.raises(ValueError, match=said) as error:
        read("rain-haze-noise", folder)
    assert repr(partner) in str(error.value)
    if how != "size":
        assert str(error.value).startswith(repr(broken))


def test_number_of_further_faulty_pairs_is_told(folder):
    (folder / "Train/Dehaze/original/0025.jpg").unlink()
    with pytest.raises(ValueError, match="1 more pairs"):
        read("rain-haze-noise", folder)


def test_degraded_file_missing_beside_its_clean_one(tmp_path):
    make(tmp_path, "multiple", "train")
    (tmp_path / "haze_sub300/0001_s002.png").unlink()
    with pytest.raises(ValueError, match=r"'haze_sub300/0001_s002.png' is missing .*'GT_sub300/0001_s002.png'"):
        read("multiple", tmp_path)


@pytest.mark.parametrize(
    ("setting", "gone", "said"),
    [
        ("multiple", "rain_sub300", "'rain_sub300'"),
        ("multiple", "GT_sub300", "0 folders GT_sub"),
        ("rain-haze-noise", "Train/Denoise", "'Train/Denoise'"),
        ("rain-haze-snow", "train/allweather.txt", "'train/allweather.txt'"),
        ("rain-haze-noise-blur-dark", "docs/train/train_deblur_blur.txt", "'docs/train/train_deblur"),
    ],
)
def test_missing_part_of_a_layout_is_named(setting, gone, said, tmp_path):
    make(tmp_path, setting, "train")
    gone_path = tmp_path / gone
    shutil.rmtree(gone_path) if gone_path.is_dir() else gone_path.unlink()
    with pytest.raises(ValueError, match=said):
        read(setting, tmp_path)


def test_task_without_a_pair_is_named(tmp_path):
    make(tmp_path, "rain-haze-snow", "train")
    (tmp_path / "train/allweather.txt").write_text("input/3_rain.png\ninput/city_read_00123.jpg")
    with pytest.raises(ValueError, match="'haze'"):
        read("rain-haze-snow", tmp_path)


def test_line_without_a_target_is_quoted(tmp_path):
    make(tmp_path, "rain-haze-noise-blur-dark", "train")
    (tmp_path / "docs/train/train_deblur_blur.txt").write_text("GoPro/input/1.png GoPro/target/1.png")
    with pytest.raises(ValueError, match=r"GoPro/input/1.png GoPro/target/1.png.*input\|target"):
        read("rain-haze-noise-blur-dark", tmp_path)


@pytest.mark.parametrize(("setting", "split"), [("sevenfold", "train"), ("multiple", "validation")])
def test_unknown_setting_or_split(setting, split, tmp_path):
    with pytest.raises(ValueError, match="must be one of"):
        read(setting, tmp_path, split)


def test_progress_ends_at_the_number_of_files(folder):
    seen: list[tuple[int, int]] = []
    pairs = read("rain-haze-noise", folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (pairs.files, pairs.files)


class TestDigest:
    def test_is_that_of_a_copy_elsewhere(self, folder, tmp_path_factory):
        copy = tmp_path_factory.mktemp("elsewhere") / "copy"
        shutil.copytree(folder, copy)
        assert digest(read("rain-haze-noise", copy)) == digest(read("rain-haze-noise", folder))

    @pytest.mark.parametrize("file", ["Train/Derain/rainy/rain-1.png", "Train/Denoise/00001.bmp"])
    def test_changes_with_one_bit_of_a_pixel(self, file, folder):
        before = digest(read("rain-haze-noise", folder))
        pixels = np.array(Image.open(folder / file))
        pixels[8, 12, 1] ^= 1
        Image.fromarray(pixels).save(folder / file)
        assert digest(read("rain-haze-noise", folder)) != before

    def test_changes_with_a_pixel_of_a_png_too_large_to_be_read_whole(self, folder):
        file = folder / "Train/Derain/rainy/rain-1.png"
        pixels = np.random.default_rng(0).integers(256, size=(200, 200, 3), dtype=np.uint8)
        digests = set()
        for bit in (0, 1):
            pixels[100, 100, 0] ^= bit
            for name in (file, folder / "Train/Derain/gt/norain-1.png"):
                Image.fromarray(pixels).save(name, compress_level=0)
            digests.add((digest(read("rain-haze-noise", folder)), file.stat().st_size))
        assert len(digests) == 2
        assert len({size for _, size in digests}) == 1

    def test_changes_with_a_name(self, folder):
        before = digest(read("rain-haze-noise", folder))
        (folder / "Train/Denoise/00001.bmp").rename(folder / "Train/Denoise/00002.bmp")
        assert digest(read("rain-haze-noise", folder)) != before
