"""Degradations of clean photographs: the seven that MiOIR (Kong et al., 2024) synthesises, and snow.

A function such as ``blur`` applies one degradation at given levels to a float32 image [3, H, W] in 0..1, on the image's
device; ``degrade`` does so for a batch, at levels drawn at random, and rounds to 8 bits. Random numbers come from CPU
generators alone, so that a seed means the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

Interval = tuple[float, float]

# Task -> level -> what it is drawn from, evenly: a range of integers or an interval of real numbers.
TRAIN: dict[str, dict[str, range | Interval]] = {
    "sr": {},
    "blur": {"size": range(7, 22, 2), "sigma": (1, 3)},
    "noise": {"sigma": range(15, 51)},
    "jpeg": {"quality": range(30, 71)},
    "rain": {"amount": range(50, 100), "length": range(20, 41), "angle": range(-45, 45), "width": range(3, 12, 2)},
    "haze": {"airlight": (0.8, 1), "density": (0.5, 2.5)},
    "dark": {"gamma": (1, 3)},
    "snow": {"amount": (0.02, 0.1), "size": (2, 4), "length": range(0, 25), "angle": range(-45, 45)},
}
HARDER: dict[str, dict[str, range | Interval]] = {
    "blur": {"sigma": (3, 5)},
    "noise": {"sigma": range(50, 71)},
    "jpeg": {"quality": range(10, 31)},
    "rain": {"amount": range(100, 150)},
    "haze": {"density": (2.5, 3)},
    "dark": {"gamma": (3, 4)},
    "snow": {"amount": (0.1, 0.2)},
}
RANGES = {
    "train": TRAIN,
    "test": TRAIN,
    "out-of-distribution": {task: {**ranges, **HARDER.get(task, {})} for task, ranges in TRAIN.items()},
}
TASKS = tuple(TRAIN)

# What the borders' reflection of the largest kernel, and the shrinking of sr, need.
SMALLEST_SIDE = {"sr": 4, "blur": 11, "rain": 21, "snow": 25}


def degrade(
    images: Tensor,
    task: str,
    seeds: Sequence[int],
    depth: Tensor | None = None,
    levels: str | Mapping[str, float] = "train",
) -> Tensor:
    """Degrade each image of a batch by its own seed: uint8 [B, 3, H, W], on the device of ``images``.

    An image's result depends on the image, its seed and its depth alone, not on the rest of the batch.

    - ``images``: uint8 [B, 3, H, W], clean.
    - ``task``: one of ``TASKS``.
    - ``seeds``: B integers.
    - ``depth``: float32 [B, H, W], 0 (near) to 1 (far), which haze uses; ``plausible_depth`` if None.
    - ``levels``: what each image's levels are drawn from, see ``draw``; or the levels themselves, for the whole batch:
      ``degrade(images, "noise", seeds, levels={"sigma": 25})``.
    """
    draw(task, Generator(), levels)  # refuses a task or levels that are unknown
    shape, smallest = tuple(images.shape), SMALLEST_SIDE.get(task, 1)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < smallest:
        raise ValueError(
            f"degrade was given images of shape {shape}, {images.dtype}; {task} wants torch.uint8 [B, 3, H, W] with "
            f"sides of at least {smallest} pixels: stack RGB images of one size"
        )
    if len(seeds) != len(images):
        raise ValueError(
            f"degrade was given {len(seeds)} seeds for {len(images)} images; it wants one an image: give as many seeds"
        )
    if depth is not None and depth.shape != images[:, 0].shape:
        raise ValueError(
            f"degrade was given a depth of shape {tuple(depth.shape)} for images of shape {shape}; it wants [B, H, W]: "
            "resize the depth to the images, or leave it out"
        )
    degraded = []
    for index, seed in enumerate(seeds):
        generator = Generator().manual_seed(seed)
        drawn = draw(task, generator, levels)
        distance = None if depth is None else depth[index]
        degraded.append(to_uint8(apply(images[index] / 255, task, drawn, generator, distance)))
    return torch.stack(degraded)


def draw(task: str, generator: Generator, levels: str | Mapping[str, float] = "train") -> dict[str, float]:
    """Draw the levels of one image: the keyword arguments of the task's function.

    ``draw(task, Generator().manual_seed(seed), levels)`` is what ``degrade`` draws for that seed.

    - ``levels="train"``: MiOIR's training ranges.
    - ``levels="test"``: the same ranges, as MiOIR draws the levels of its test images, too, from those of training. A
      test is held out by its photographs and its seeds: give seeds that training does not use.
    - ``levels="out-of-distribution"``: harder than any level of training (``HARDER``), from MiOIR's script for its test
      images; sr has one level and stays as it is.
    - a mapping: these levels; nothing is drawn.

    MiOIR rounds real levels to two decimals; here they are not rounded. The ranges of snow are ours.
    """
    if task not in TASKS:
        raise ValueError(f"degrade was given the task {task!r}; it knows {', '.join(TASKS)}: choose one of them")
    if isinstance(levels, str):
        if levels not in RANGES:
            raise ValueError(
                f"degrade was given the levels {levels!r}; it knows {', '.join(RANGES)}: choose one of them, or give a "
                "mapping from the names of the levels to their values"
            )
        return {name: _draw(possible, generator) for name, possible in RANGES[levels][task].items()}
    if levels.keys() != TRAIN[task].keys():
        raise ValueError(
            f"degrade was given the levels {', '.join(levels) or 'none'} of {task}; it wants exactly "
            f"{', '.join(TRAIN[task]) or 'none'}: name each level once"
        )
    return dict(levels)


def _draw(possible: range | Interval, generator: Generator) -> float:
    if isinstance(possible, range):
        return possible[int(torch.randint(len(possible), (), generator=generator))]
    low, high = possible
    return low + (high - low) * torch.rand((), generator=generator).item()


def apply(
    image: Tensor, task: str, levels: Mapping[str, float], generator: Generator, depth: Tensor | None = None
) -> Tensor:
    """Degrade one image at the given levels: float32 [3, H, W], neither clipped nor rounded."""
    return _FUNCTIONS[task](image, dict(levels), generator, depth)


def to_uint8(image: Tensor) -> Tensor:
    """Clip to 0..1 and round to 0..255."""
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def sr(image: Tensor) -> Tensor:
    """A quarter of the size and back, both bicubic, without antialiasing."""
    small = F.interpolate(image[None], scale_factor=0.25, mode="bicubic")
    return F.interpolate(small, size=image.shape[-2:], mode="bicubic")[0]


def blur(image: Tensor, size: int, sigma: float) -> Tensor:
    """Isotropic Gaussian of ``sigma`` pixels, cut to ``size`` x ``size`` (odd)."""
    return _convolve(image, gaussian(size, sigma))


def gaussian(size: int, sigma: float) -> Tensor:
    """A Gaussian kernel [size, size] (odd) of ``sigma`` pixels, whose sum is 1."""
    offsets = torch.arange(size) - size // 2
    profile = torch.exp(-(offsets**2) / (2 * sigma**2))
    return profile.outer(profile) / profile.sum() ** 2


def noise(image: Tensor, sigma: float, generator: Generator) -> Tensor:
    """``I + sigma / 255 * n``, n standard normal, independent in each pixel and channel."""
    return image + sigma / 255 * torch.randn(image.shape, generator=generator).to(image.device)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Pillow's JPEG, chroma at half the resolution (4:2:0); by way of the CPU.

    It is 0.24 to 0.38 dB closer to the clean image than the DiffJPEG of MiOIR.
    """
    file = BytesIO()
    Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous()
    return decoded.to(image.device) / 255


def rain(image: Tensor, amount: float, length: int, angle: float, width: int, generator: Generator) -> Tensor:
    """``I + S``: drops, drawn out to grey streaks S that span 0..1.

    The drops are uniform noise in 0..256, kept from ``256 - amount / 100`` on and slightly softened; the streaks are
    ``length`` pixels long before the shrinking of ``streak``, and lean ``angle`` degrees anticlockwise.
    """
    field = 256 * torch.rand(1, *image.shape[1:], generator=generator).to(image.device)
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
    transmission = torch.exp(-density * depth.to(image.device))
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


def snow(image: Tensor, amount: float, size: float, length: float, angle: float, generator: Generator) -> Tensor:
    """``I (1 - M) + M``: soft white flakes of three sizes, the near ones drawn out by motion. A stand-in of our own.

    It takes the place of Snow100K (Liu et al., 2018), whose masks are not at hand, and imitates none of its images.
    M = 1 - (1 - M_1)(1 - M_1/2)(1 - M_1/4), near to far: the flakes of M_s are ``flake(s * size, s * length, angle)``,
    their opacity is uniform in 0.5..1, and there are so many that they would cover the share ``amount`` side by side.
    """
    clear = torch.ones_like(image[:1])
    for scale in (1.0, 0.5, 0.25):
        kernel = flake(scale * size, scale * length, angle)
        share = amount / kernel.sum().item()
        field = torch.rand(1, *image.shape[1:], generator=generator).to(image.device)
        flakes = (1 - field / (2 * share)).where(field < share, 0)
        clear = clear * (1 - _convolve(flakes, kernel).clamp(0, 1))
    return image * clear + (1 - clear)


def flake(sigma: float, length: float, angle: float) -> Tensor:
    """A flake as a square kernel of odd size, 1 at its centre.

    A Gaussian of ``sigma`` pixels in the distance from a segment of ``length`` pixels, which leans ``angle`` degrees
    anticlockwise from upright.
    """
    reach = math.ceil(3 * sigma + length / 2)
    offsets = torch.arange(-reach, reach + 1).float()
    right, down = offsets[None, :], offsets[:, None]
    turn = math.radians(angle)
    along = right * math.sin(turn) + down * math.cos(turn)
    across = right * math.cos(turn) - down * math.sin(turn)
    beyond = (along.abs() - length / 2).clamp_min(0)
    return torch.exp(-(across**2 + beyond**2) / (2 * sigma**2))


def _convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """[C, H, W] with [h, w], of the image's size, the borders reflected; by FFT, as streaks are up to 40 x 40."""
    height, width = kernel.shape
    padded = F.pad(image, ((width - 1) // 2, width // 2, (height - 1) // 2, height // 2), mode="reflect")
    size = padded.shape[1:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel.to(image.device), s=size)
    convolved: Tensor = torch.fft.irfft2(spectrum, s=size)
    return convolved[:, height - 1 :, width - 1 :]


_FUNCTIONS: dict[str, Callable[[Tensor, dict, Generator, Tensor | None], Tensor]] = {
    "sr": lambda image, levels, generator, depth: sr(image),
    "blur": lambda image, levels, generator, depth: blur(image, **levels),
    "noise": lambda image, levels, generator, depth: noise(image, **levels, generator=generator),
    "jpeg": lambda image, levels, generator, depth: jpeg(image, **levels),
    "rain": lambda image, levels, generator, depth: rain(image, **levels, generator=generator),
    "haze": lambda image, levels, generator, depth: haze(
        image, plausible_depth(image.shape[1:], generator) if depth is None else depth, **levels
    ),
    "dark": lambda image, levels, generator, depth: dark(image, **levels),
    "snow": lambda image, levels, generator, depth: snow(image, **levels, generator=generator),
}
