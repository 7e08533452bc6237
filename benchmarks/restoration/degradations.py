"""Seven degradations of a clean photograph, as MiOIR (Kong et al., 2024) synthesises them.

A function applies one degradation at a given level, to a float32 image [3, H, W] in 0..1. ``degrade`` draws a level,
one for the whole photograph, and rounds to 8 bits. All randomness comes from the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from .photographs import Photograph, read

SETTINGS: dict[str, tuple[str, ...]] = {
    "rain-haze-noise": ("rain", "haze", "noise"),
    "multiple": ("sr", "blur", "noise", "jpeg", "rain", "haze", "dark"),
}


def degrade(photograph: Photograph, task: str, generator: Generator) -> Tensor:
    """The photograph degraded at a level drawn at random: uint8 [3, H, W], of the photograph's size."""
    if task not in DEGRADATIONS:
        raise ValueError(f"degrade was given the task {task!r}; it knows {', '.join(DEGRADATIONS)}: choose one of them")
    return to_uint8(DEGRADATIONS[task](photograph.image / 255, photograph.depth, generator))


def to_uint8(image: Tensor) -> Tensor:
    """Clip 0..1 and round to 0..255."""
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def sr(image: Tensor) -> Tensor:
    """A quarter of the size and back, both bicubic, without antialiasing."""
    small = F.interpolate(image[None], scale_factor=0.25, mode="bicubic")
    return F.interpolate(small, size=image.shape[-2:], mode="bicubic")[0]


def blur(image: Tensor, size: int, sigma: float) -> Tensor:
    """Isotropic Gaussian of ``sigma`` pixels, cut to ``size`` x ``size`` (odd)."""
    offsets = torch.arange(size) - size // 2
    profile = torch.exp(-(offsets**2) / (2 * sigma**2))
    return _convolve(image, profile.outer(profile) / profile.sum() ** 2)


def noise(image: Tensor, sigma: float, generator: Generator) -> Tensor:
    """``I + sigma / 255 * n``, n standard normal, independent in each pixel and channel."""
    return image + sigma / 255 * torch.randn(image.shape, generator=generator)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Pillow's JPEG, chroma at half the resolution (4:2:0)."""
    file = BytesIO()
    Image.fromarray(to_uint8(image).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return read(file) / 255


def rain(image: Tensor, amount: float, length: int, angle: float, width: int, generator: Generator) -> Tensor:
    """``I + S``: drops, drawn out to grey streaks S that span 0..1.

    The drops are uniform noise in 0..256, kept from ``256 - amount / 100`` on and slightly softened; the streaks are
    ``length`` pixels long before the shrinking of ``streak``, and lean ``angle`` degrees anticlockwise.
    """
    field = 256 * torch.rand(1, *image.shape[1:], generator=generator)
    drops = field.where(field >= 256 - amount / 100, 0)
    softened = _convolve(drops, torch.tensor([[0.0, 0.1, 0.0], [0.1, 8.0, 0.1], [0.0, 0.1, 0.0]]))
    streaks = _convolve(softened, streak(length, angle, width))
    low, high = streaks.aminmax()
    # A small image may have drawn no drop at all.
    return image + (streaks - low) / (high - low).clamp_min(1e-6)


def streak(length: int, angle: float, width: int) -> Tensor:
    """A rain streak as a kernel [length, length].

    The diagonal of the square, turned so that angle 0 stands upright and shrunk by ``1 - length / 100``, then softened
    by a Gaussian of ``width`` (odd) pixels, whose sigma is OpenCV's for that size, ``0.3 ((width - 1) / 2 - 1) + 0.8``.
    """
    turn, scale = math.radians(angle - 45), 1 - length / 100
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    grid = F.affine_grid(torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]]), [1, 1, length, length], align_corners=False)
    line = F.grid_sample(torch.eye(length)[None, None], grid, align_corners=False)[0]
    return blur(line, width, sigma=0.3 * ((width - 1) / 2 - 1) + 0.8)[0]


def haze(image: Tensor, depth: Tensor, airlight: float, density: float) -> Tensor:
    """``I T + A (1 - T)``, ``T = exp(-B depth)``: depth [H, W] in 0..1, A the airlight, B the density."""
    transmission = torch.exp(-density * depth)
    return image * transmission + airlight * (1 - transmission)


def plausible_depth(size: Sequence[int], generator: Generator) -> Tensor:
    """A smooth stand-in for an unknown depth: float32 of ``size`` [H, W], 0..1.

    A ramp that is far at the top, as in most views from eye level, plus a random field of low frequency.
    """
    field = F.interpolate(torch.rand(1, 1, 4, 4, generator=generator), size=size, mode="bicubic")[0, 0]
    depth = torch.linspace(1, 0, size[0])[:, None] + 0.4 * field
    low, high = depth.aminmax()
    return (depth - low) / (high - low)


def dark(image: Tensor, gamma: float) -> Tensor:
    """``I ^ gamma``."""
    return image.pow(gamma)


def _convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """[C, H, W] with [h, w], of the image's size, the borders reflected; by FFT, as streaks are up to 40 x 40."""
    height, width = kernel.shape
    padded = F.pad(image, ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2), mode="reflect")
    size = padded.shape[1:]
    convolved: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size), s=size)
    return convolved[:, height - 1 :, width - 1 :]


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _choice(levels: Sequence[int], generator: Generator) -> int:
    return levels[int(torch.randint(len(levels), (), generator=generator))]


# Task -> (image, depth, generator) -> the image degraded at a random level; the ranges are those of MiOIR's training.
DEGRADATIONS: dict[str, Callable[[Tensor, Tensor | None, Generator], Tensor]] = {
    "sr": lambda image, depth, g: sr(image),
    "blur": lambda image, depth, g: blur(image, size=_choice(range(7, 22, 2), g), sigma=_uniform(1, 3, g)),
    "noise": lambda image, depth, g: noise(image, sigma=_choice(range(15, 51), g), generator=g),
    "jpeg": lambda image, depth, g: jpeg(image, quality=_choice(range(30, 71), g)),
    "rain": lambda image, depth, g: rain(
        image,
        amount=_choice(range(50, 100), g),
        length=_choice(range(20, 41), g),
        angle=_choice(range(-45, 45), g),
        width=_choice(range(3, 12, 2), g),
        generator=g,
    ),
    "haze": lambda image, depth, g: haze(
        image,
        depth=plausible_depth(image.shape[1:], g) if depth is None else depth,
        airlight=_uniform(0.8, 1, g),
        density=_uniform(0.5, 2.5, g),
    ),
    "dark": lambda image, depth, g: dark(image, gamma=_uniform(1, 3, g)),
}
