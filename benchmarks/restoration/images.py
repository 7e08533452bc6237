"""Picture files to tensors and back, as a person expects: upright, in sRGB, with their alpha, grey and 16 bits kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

# A stitched panorama has some hundreds of megapixels; Pillow refuses twice what is set here.
Image.MAX_IMAGE_PIXELS = 500_000_000

WRITTEN = (".png", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Picture:
    """A still picture, upright, as stored in its file.

    - ``pixels``: [3, H, W], uint8, or uint16 for a grey picture of 16 bits. A grey picture's channels share memory.
    - ``grey``: whether the file is grey.
    - ``alpha``: uint8 [H, W], the opacity, or None.
    """

    pixels: Tensor
    grey: bool = False
    alpha: Tensor | None = None

    @property
    def white(self) -> int:
        """The value of white, 255 or 65535: ``pixels.float() / white`` is in 0..1."""
        return 255 if self.pixels.dtype == torch.uint8 else 65535

    def encode(self, restored: Tensor) -> Tensor:
        """Round float [3, H, W] (or any part of the picture) in 0..1 to what the file stores.

        That is [3, H, W], or [1, H, W] for a grey picture (luma of Rec. 601), of the type of ``pixels``, on the CPU.
        """
        if self.grey:
            weights = torch.tensor([0.299, 0.587, 0.114], device=restored.device)
            restored = (restored.float() * weights[:, None, None]).sum(0, keepdim=True)
        return (restored.float() * self.white).round().clamp(0, self.white).cpu().to(self.pixels.dtype)

    def rgb(self) -> Tensor:
        """The picture in 8 bits without its alpha: uint8 [3, H, W], contiguous."""
        pixels = self.pixels
        if pixels.dtype == torch.uint16:
            pixels = (pixels[:1].float() * (255 / 65535)).round().to(torch.uint8).expand_as(pixels)
        return pixels.contiguous()


def read(path: str | os.PathLike[str]) -> Picture:
    """Read a still picture of any kind that Pillow decodes.

    - The orientation that the camera noted in EXIF is applied.
    - Grey (modes 1, L, I;16) is kept apart from RGB and may have 16 bits. Palette, CMYK, YCbCr and the like become RGB.
    - Colours with an ICC profile are converted to sRGB (perceptual intent). A profile that is broken is ignored, as
      viewers do, and so is one of 16-bit grey. Without a profile CMYK is converted by Pillow's plain formula.
    - Transparency of any kind becomes ``alpha``.

    Raises a ValueError that names the file if it is no picture, empty, truncated, animated or of several pages, or if
    it has more bits than Pillow holds: more than 8 a channel in colour, 32 in grey. Of the pictures of an MPO file, a
    JPEG of some phones, the first is read.

    A picture of 8-bit RGB or CMYK takes 7 bytes a pixel while it is decoded, and 3 afterwards.
    """
    with _decoding(path) as image:
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise _Unwanted(f"has {image.n_frames} frames", "one still picture", "save the frame you want as a PNG")
        _refuse_deep_colour(image)
        image.load()
        orientation = _orientation(image)
        if image.mode in ("I;16", "I;16B", "I;16L"):
            array = np.ascontiguousarray(_upright(np.asarray(image).astype(np.uint16), orientation))
            return Picture(torch.from_numpy(array).expand(3, -1, -1), grey=True)
        if image.mode in ("I", "F"):
            raise _Unwanted("has 32 bits a pixel", "8 bits a channel, or 16 of grey", "save it with 16 bits or fewer")
        if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
            image = image.convert("LA" if image.mode in ("L", "La") else "RGBA")
        alpha = None
        if "A" in image.getbands():
            alpha = torch.from_numpy(_array(image, lambda strip: strip.getchannel("A"), 1, orientation))
        grey = image.mode in ("1", "L", "LA")
        array = torch.from_numpy(_array(image, lambda strip: _in_srgb(strip, grey), 1 if grey else 3, orientation))
        return Picture(array.expand(3, -1, -1) if grey else array.permute(2, 0, 1), grey, alpha)


def size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (height, width) that ``read`` gives, from the file's header alone."""
    with _decoding(path) as image:
        width, height = image.size
        # Pillow turns TIFF files, and their sizes, itself.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


def write(path: str | os.PathLike[str], restored: Tensor, like: Picture) -> None:
    """Write a restored picture, losslessly: grey, 16 bits and alpha are those of the picture it was restored from.

    ``restored`` is float [3, H, W] in 0..1, or what ``like.encode`` made of it. The file has no ICC profile, which
    means sRGB, and no EXIF. A picture of 1 bit is written as 8-bit grey.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(
            f"write was given the file {str(path)!r}; it wants a lossless one, {', '.join(WRITTEN)}: name it "
            f"{path.stem + '.png'!r}, and convert it later if it must be smaller"
        )
    if restored.shape[1:] != like.pixels.shape[1:]:
        raise ValueError(
            f"write was given a restored picture of shape {tuple(restored.shape)} for one of shape "
            f"{tuple(like.pixels.shape)}; it wants both of one height and width: crop what was padded"
        )
    stored = like.encode(restored) if restored.is_floating_point() else restored
    array = stored[0].numpy() if like.grey else stored.permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    if like.alpha is not None:
        image.putalpha(Image.fromarray(like.alpha.numpy()))
    image.save(path, **({} if path.suffix.lower() == ".png" else {"compression": "tiff_adobe_deflate"}))


class _Unwanted(Exception):
    """What a picture has, what is wanted and what to do."""


@contextmanager
def _decoding(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a file with Pillow; whatever fails on its bytes becomes a ValueError with its name."""
    with open(path, "rb") as file:  # outside: a missing file says so itself
        try:
            with Image.open(file) as image:
                yield image
        except _Unwanted as unwanted:
            has, wanted, advice = unwanted.args
            raise ValueError(f"picture {os.fspath(path)!r} {has}; {wanted} is wanted: {advice}") from None
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError, ...
            raise ValueError(
                f"picture {os.fspath(path)!r} cannot be read ({error}); a whole file of a format that Pillow decodes "
                "is wanted: replace or remove it"
            ) from error


def _refuse_deep_colour(image: Image.Image) -> None:
    """Pillow drops the lower 8 bits of each colour without a word; only the decoder's raw mode tells."""
    bits = str(image.tile[0].args) if image.tile else ""
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "LA", "CMYK") and (";16" in bits):
        raise _Unwanted(
            "has 16 bits a channel in colour or with alpha",
            "8 bits a channel, or 16 of plain grey,",
            "convert it to 8 bits, e.g. with ImageMagick: convert in.png -depth 8 out.png",
        )


def _orientation(image: Image.Image) -> int:
    # Not image.getexif(): for PNG it decodes the whole file, as the orientation might follow the pixels.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    return orientation if orientation in range(1, 9) else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8: [H, W, ...] to a view of it, [H, W, ...] or [W, H, ...]."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _in_srgb(image: Image.Image, grey: bool) -> Image.Image:
    """Convert to sRGB: L for grey, else RGB or RGBA."""
    if grey:
        image = image.convert("L")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("L", "RGB", "RGBA", "CMYK"):
        with suppress(ImageCms.PyCMSError):
            source, srgb = ImageCms.getOpenProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            if image.mode in ("RGB", "RGBA"):
                ImageCms.profileToProfile(image, source, srgb, inPlace=True)
            else:
                image = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    if grey:
        return image.getchannel(0)
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _array(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image], bands: int, orientation: int
) -> np.ndarray:
    """``np.array(convert(image))``, its first 1 or 3 bands and upright: uint8 [H, W] or [H, W, 3].

    It goes by strips, as each of the steps would take a copy of the picture, and np.array three for a moment.
    """
    width, height = image.size
    sides = (width, height) if orientation >= 5 else (height, width)
    array = np.empty(sides if bands == 1 else (*sides, bands), np.uint8)
    as_stored = _upright(array, {6: 8, 8: 6}.get(orientation, orientation))
    rows = max(1, 2**22 // width)
    for top in range(0, height, rows):
        strip = np.asarray(convert(image.crop((0, top, width, min(top + rows, height)))))
        as_stored[top : top + rows] = strip[..., :3] if bands == 3 else strip
    return array
