from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps
from torch import Generator, Tensor

from benchmarks.restoration import images
from benchmarks.restoration.images import Picture, read, size, write

HEIGHT, WIDTH = 5, 7


def random(*shape: int, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape)


COLOUR = random(HEIGHT, WIDTH, 3).astype(np.uint8)
ALPHA = random(HEIGHT, WIDTH, seed=1).astype(np.uint8)
DEEP = random(HEIGHT, WIDTH, high=65536, seed=2).astype(np.uint16)


def planes(array: np.ndarray) -> Tensor:
    """[H, W, 3] or grey [H, W] as [3, H, W]."""
    stacked = array if array.ndim == 3 else np.repeat(array[..., None], 3, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(2, 0, 1)))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file that Pillow cannot write; colour 2 is RGB, 4 grey with alpha, 6 RGBA."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def profile(gamma: float | None, primaries: str = "RGB") -> bytes:
    """A minimal ICC profile with sRGB's primaries and the curve v ^ gamma, or of grey with primaries 'GRAY'.

    Without a gamma the curve is sRGB's.
    """

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    if gamma is None:
        level = np.linspace(0, 1, 1024)
        linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
        table = (65535 * linear).round().astype(">u2").tobytes()
        curve = b"curv" + bytes(4) + struct.pack(">I", 1024) + table
    else:
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    xyz = {"R": (0.4361, 0.2225, 0.0139), "G": (0.3851, 0.7169, 0.0971), "B": (0.1431, 0.0606, 0.7141)}
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    if primaries == "GRAY":
        tags[b"kTRC"] = curve
    else:
        for channel, primary in zip("rgb", primaries, strict=True):
            tags[f"{channel}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*xyz[primary])
            tags[f"{channel}TRC".encode()] = curve
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    space = b"GRAY" if primaries == "GRAY" else b"RGB "
    header = struct.pack(">I4s4s4s4s4s12s4s", start + len(body), bytes(4), b"\x02\x10\0\0", b"mntr", space, b"XYZ ",
                         bytes(12), b"acsp")  # fmt: skip
    header += bytes(28) + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB's curve, of 0..1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055)


# Modes


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.PNG"])
def test_rgb_is_read_byte_by_byte(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    picture = read(tmp_path / name)
    assert torch.equal(picture.pixels, planes(COLOUR))
    assert picture.pixels.dtype == torch.uint8
    assert (picture.grey, picture.alpha, picture.white) == (False, None, 255)
    assert size(tmp_path / name) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_stays_grey(tmp_path, name):
    Image.fromarray(ALPHA).save(tmp_path / name)
    picture = read(tmp_path / name)
    assert picture.grey
    assert torch.equal(picture.pixels, planes(ALPHA))
    write(tmp_path / f"back-{name}", picture.pixels / 255, picture)
    with Image.open(tmp_path / f"back-{name}") as back:
        assert back.mode == "L"
        assert np.array_equal(np.asarray(back), ALPHA)


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(ALPHA > 127).save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert picture.grey
    assert torch.equal(picture.pixels, planes(np.where(ALPHA > 127, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize(("name", "big"), [("a.png", False), ("a.tif", False), ("a.tif", True)])
def test_grey_of_16_bits_keeps_them(tmp_path, name, big):
    kind, order = ("I;16B", ">u2") if big else ("I;16", "<u2")
    Image.frombytes(kind, (WIDTH, HEIGHT), DEEP.astype(order).tobytes()).save(tmp_path / name)
    picture = read(tmp_path / name)
    assert (picture.grey, picture.white, picture.pixels.dtype) == (True, 65535, torch.uint16)
    assert torch.equal(picture.pixels.int(), planes(DEEP).int())
    write(tmp_path / f"back-{name}", picture.pixels.float() / 65535, picture)
    with Image.open(tmp_path / f"back-{name}") as back:
        assert np.array_equal(np.asarray(back), DEEP)
    assert torch.equal(picture.rgb(), planes((DEEP / 257).round().astype(np.uint8)))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_put_back_unchanged(tmp_path, name, mode):
    image = Image.fromarray(COLOUR if mode == "RGBA" else COLOUR[..., 0].copy())
    image.putalpha(Image.fromarray(ALPHA))
    assert image.mode == mode
    image.save(tmp_path / name)
    picture = read(tmp_path / name)
    assert picture.grey == (mode == "LA")
    assert torch.equal(picture.pixels, planes(COLOUR if mode == "RGBA" else COLOUR[..., 0]))
    assert torch.equal(picture.alpha, torch.from_numpy(ALPHA))
    write(tmp_path / f"back-{name}", 1 - picture.pixels / 255, picture)
    back = read(tmp_path / f"back-{name}")
    assert back.grey == picture.grey
    assert torch.equal(back.pixels, 255 - picture.pixels)
    assert torch.equal(back.alpha, picture.alpha)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    colour = image.getpixel((3, 2))
    image.save(tmp_path / "a.png", transparency=colour)
    picture = read(tmp_path / "a.png")
    assert picture.alpha[2, 3] == 0
    assert picture.alpha.float().mean() > 200
    expected = image.convert("L" if mode == "L" else "RGB")
    assert torch.equal(picture.pixels, planes(np.asarray(expected)))
    assert picture.grey == (mode == "L")


def test_palette_becomes_rgb(tmp_path):
    image = Image.fromarray(COLOUR).quantize(8)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.gif")
    expected = planes(np.asarray(image.convert("RGB")))
    for name in ("a.png", "a.gif"):
        picture = read(tmp_path / name)
        assert torch.equal(picture.pixels, expected)
        assert not picture.grey


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_becomes_rgb(tmp_path, name):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan: no red
    Image.fromarray(ink, "CMYK").save(tmp_path / name)
    picture = read(tmp_path / name)
    assert not picture.grey
    assert (picture.pixels.int() - torch.tensor([0, 255, 255])[:, None, None]).abs().max() <= 2


# Orientation


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores an upright picture under an orientation (its row 0 is the picture's top, right, ...)."""
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: np.rot90(x, 2),
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),  # shown after a quarter turn clockwise
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
@pytest.mark.parametrize("kind", ["png", "tif", "webp", "grey", "deep", "alpha"])
def test_orientation_is_applied(tmp_path, kind, orientation):
    upright = {"grey": ALPHA, "deep": DEEP, "alpha": np.dstack([COLOUR, ALPHA])}.get(kind, COLOUR)
    path = tmp_path / f"a.{kind if kind in ('tif', 'webp') else 'png'}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = turned(upright, orientation) if orientation in range(1, 9) else upright
    Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    picture = read(path)
    assert torch.equal(picture.pixels.int(), planes(upright if kind != "alpha" else COLOUR).int())
    assert size(path) == (HEIGHT, WIDTH)
    if kind == "alpha":
        assert torch.equal(picture.alpha, torch.from_numpy(ALPHA))


def test_orientation_agrees_with_pillow(tmp_path):
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as image:
            expected = planes(np.asarray(ImageOps.exif_transpose(image)))
        assert torch.equal(read(tmp_path / "a.png").pixels, expected)


def test_what_is_written_stays_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned(COLOUR, 6)).save(tmp_path / "a.png", exif=exif)
    picture = read(tmp_path / "a.png")
    write(tmp_path / "b.png", picture.pixels, picture)
    assert torch.equal(read(tmp_path / "b.png").pixels, planes(COLOUR))


# Colour profiles


def gradient(mode: str) -> np.ndarray:
    values = np.linspace(0, 255, 24 * 16 * 3).reshape(16, 24, 3).round().astype(np.uint8)
    return values if mode == "RGB" else values[..., 0].copy()


@pytest.mark.parametrize(("mode", "primaries"), [("RGB", "RGB"), ("L", "GRAY")])
@pytest.mark.parametrize("gamma", [1.5, 2.5])
def test_a_profile_of_another_curve_is_converted_to_srgb(tmp_path, mode, primaries, gamma):
    values = gradient(mode)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile(gamma, primaries))
    picture = read(tmp_path / "a.png")
    expected = 255 * to_srgb((values / 255) ** gamma)
    assert picture.grey == (mode == "L")
    assert np.abs(picture.pixels.double().numpy() - planes(expected).numpy()).max() < 2.5
    write(tmp_path / "b.png", picture.pixels, picture)
    with Image.open(tmp_path / "b.png") as back:
        assert "icc_profile" not in back.info


def test_a_profile_with_exchanged_primaries_exchanges_channels_and_leaves_alpha(tmp_path):
    values = gradient("RGB")
    image = Image.fromarray(values)
    alpha = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png", icc_profile=profile(1.0, "BGR"))
    picture = read(tmp_path / "a.png")
    expected = 255 * to_srgb(values[..., ::-1] / 255)
    assert np.abs(picture.pixels.double().numpy() - planes(expected).numpy()).max() < 2.5
    assert torch.equal(picture.alpha, torch.from_numpy(alpha))


@pytest.mark.parametrize("name", ["lcms", "table"])
def test_an_srgb_profile_changes_no_byte(tmp_path, name):
    """Whoever made it."""
    lcms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = random(64, 64, 3).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile={"lcms": lcms, "table": profile(None)}[name])
    assert torch.equal(read(tmp_path / "a.png").pixels, planes(values))


@pytest.mark.parametrize("broken", [b"no profile", profile(1.0, "GRAY")])
def test_an_unusable_profile_is_ignored(tmp_path, broken):
    Image.fromarray(COLOUR).save(tmp_path / "a.png", icc_profile=broken)
    assert torch.equal(read(tmp_path / "a.png").pixels, planes(COLOUR))


# Refusals


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    picture = image or Image.fromarray(random(64, 64, 3).astype(np.uint8))
    picture.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0, 0.001, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_its_name(tmp_path, format, kept):
    content = encoded(format)
    path = tmp_path / "broken.img"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"picture '.*broken\.img' cannot be read \(.*: replace or remove it"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"<html></html>", b"%PDF-1.4", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("function", [read, size])
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, content, function):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"picture '.*notes\.png' cannot be read"):
        function(path)


@pytest.mark.parametrize("function", [read, size])
def test_a_missing_file_says_so(tmp_path, function):
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        function(tmp_path / "missing.png")


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(tmp_path, format):
    frames = [Image.fromarray(random(9, 9, 3, seed=seed).astype(np.uint8)) for seed in range(3)]
    path = tmp_path / "moving.img"
    path.write_bytes(encoded(format, frames[0], save_all=True, append_images=frames[1:]))
    with pytest.raises(ValueError, match=r"moving\.img' has 3 frames; one still picture is wanted: save the frame"):
        read(path)


def test_the_first_picture_of_a_phone_is_read(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("white", "black")]
    path = tmp_path / "phone.jpg"
    path.write_bytes(encoded("MPO", frames[0], save_all=True, append_images=frames[1:]))
    assert (read(path).pixels == 255).all()


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_a_png_of_16_bits_in_colour_or_with_alpha_is_refused(tmp_path, colour):
    channels = {2: 3, 4: 2, 6: 4}[colour]

    def file(bits: int) -> bytes:
        row = b"\0" + bytes(bits // 8 * channels * WIDTH)
        return png(WIDTH, HEIGHT, bits, colour, HEIGHT * row)

    (tmp_path / "deep.png").write_bytes(file(16))
    with pytest.raises(ValueError, match=r"deep\.png' has 16 bits a channel in colour .* convert it to 8 bits"):
        read(tmp_path / "deep.png")
    (tmp_path / "plain.png").write_bytes(file(8))
    assert read(tmp_path / "plain.png").pixels.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_tiff_of_16_bits_in_colour_is_refused(tmp_path, compression, byteorder):
    tifffile = pytest.importorskip("tifffile")
    deep = random(HEIGHT, WIDTH, 3, high=65536).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", compression=compression, byteorder=byteorder)
    with pytest.raises(ValueError, match=r"deep\.tif' has 16 bits a channel in colour"):
        read(tmp_path / "deep.tif")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path, kind):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), kind)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif' has 32 bits a pixel; .* save it with 16 bits or fewer"):
        read(tmp_path / "deep.tif")


# Writing


def test_what_is_restored_is_clipped_and_rounded(tmp_path):
    picture = Picture(torch.zeros(3, 1, 4, dtype=torch.uint8))
    values = torch.tensor([-0.3, 0.4 / 255, 0.6 / 255, 1.7]).expand(3, 1, 4)
    assert picture.encode(values).tolist() == [[[0, 0, 1, 255]]] * 3
    write(tmp_path / "a.png", values, picture)
    assert torch.equal(read(tmp_path / "a.png").pixels, picture.encode(values))


def test_colour_in_a_restored_grey_picture_becomes_its_luma():
    picture = Picture(torch.zeros(3, 2, 2, dtype=torch.uint8), grey=True)
    red, green, blue = (torch.zeros(3, 2, 2).index_fill_(0, torch.tensor(channel), 1.0) for channel in range(3))
    assert [picture.encode(colour)[0, 0, 0].item() for colour in (red, green, blue)] == [76, 150, 29]
    assert picture.encode(red).shape == (1, 2, 2)


@pytest.mark.parametrize("picture", [
    Picture(planes(COLOUR)),
    Picture(planes(ALPHA), grey=True),
    Picture(planes(DEEP), grey=True),
])  # fmt: skip
def test_tiles_are_encoded_as_the_whole(tmp_path, picture):
    restored = torch.rand(3, HEIGHT, WIDTH, generator=Generator().manual_seed(0))
    whole = picture.encode(restored)
    assert whole.dtype == picture.pixels.dtype
    parts = torch.cat([picture.encode(restored[..., :3]).int(), picture.encode(restored[..., 3:]).int()], 2)
    assert torch.equal(parts, whole.int())
    write(tmp_path / "float.png", restored, picture)
    write(tmp_path / "stored.png", whole, picture)
    assert (tmp_path / "float.png").read_bytes() == (tmp_path / "stored.png").read_bytes()


def test_half_precision_is_restored(tmp_path):
    picture = Picture(planes(DEEP), grey=True)
    assert picture.encode(torch.ones(3, 1, 1, dtype=torch.bfloat16)).tolist() == [[[65535]]]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.webp"])
def test_a_lossy_file_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"it wants a lossless one, \.png, \.tif, \.tiff: name it 'a\.png'"):
        write(tmp_path / name, torch.zeros(3, HEIGHT, WIDTH), Picture(planes(COLOUR)))


def test_another_size_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"of shape \(3, 8, 8\) for one of shape \(3, 5, 7\).*crop what was padded"):
        write(tmp_path / "a.png", torch.zeros(3, 8, 8), Picture(planes(COLOUR)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_size_decodes_nothing(tmp_path, monkeypatch, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert size(tmp_path / name) == (HEIGHT, WIDTH)


def test_more_pixels_than_pillow_allows_unless_told(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "large.png")
    assert size(tmp_path / "large.png") == (14000, 14000)


def test_strips_cover_the_picture():
    """Two strips and a part of one."""
    values = np.arange(2500 * 4000, dtype=np.uint8).reshape(2500, 4000)[..., None] * np.array([1, 3, 7], np.uint8)
    image = Image.fromarray(values)
    for number, turns in ((1, 0), (6, -1)):
        assert np.array_equal(images._array(image, Image.Image.copy, 3, number), np.rot90(values, turns))
        red = images._array(image, lambda strip: strip.getchannel(0), 1, number)
        assert np.array_equal(red, np.rot90(values[..., 0], turns))
