"""Quality of one restored 8-bit RGB image; a test set is scored by the mean of the values over its images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio


@dataclass(frozen=True)
class Metric:
    """How to compare two images, and what the number means.

    - ``measure``: ``(restored, truth)``, uint8 [3, H, W] both, to the value.
    - ``meaning``: what sets it apart from its look-alikes.
    - ``digits``: how many decimals are worth printing.
    """

    measure: Callable[[Tensor, Tensor], float]
    meaning: str
    digits: int


def psnr(restored: Tensor, truth: Tensor) -> float:
    """Return ``10 log10(255^2 / MSE)`` in dB, the MSE over pixels and channels: uint8 [3, H, W]; inf for equal images.

    >>> black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    >>> round(psnr(black, black + 51), 4)  # an error of a fifth of the range
    13.9794
    """
    _check("psnr", restored, truth)
    return _psnr(restored.double(), truth.double())


def psnr_y(restored: Tensor, truth: Tensor) -> float:
    """Return the PSNR of the luma, see :func:`luma`, against a peak of 255: uint8 [3, H, W]; inf for equal luma."""
    _check("psnr-y", restored, truth)
    return _psnr(luma(restored), luma(truth))


def ssim(restored: Tensor, truth: Tensor) -> float:
    """Return the SSIM (Wang et al., 2004), the mean over pixels and channels: uint8 [3, H, W]; at most 1.

    The window is Gaussian, sigma 1.5, 11 x 11, and counts only where it lies inside the image. By scikit-image, in
    float64: torchmetrics' difference of squares is off by 1e-3 in float32 where an image is bright and flat.

    .. note:: AirNet and PromptIR report :func:`ssim_uniform` instead. The values do not compare.
    """
    _check("ssim", restored, truth, window=11)
    return _ssim(restored, truth, **GAUSSIAN)


def ssim_y(restored: Tensor, truth: Tensor) -> float:
    """Return :func:`ssim` of the luma, see :func:`luma`: uint8 [3, H, W]; at most 1."""
    _check("ssim-y", restored, truth, window=11)
    return _ssim(luma(restored), luma(truth), **GAUSSIAN)


def ssim_uniform(restored: Tensor, truth: Tensor) -> float:
    """Return the SSIM with a uniform 7 x 7 window and sample covariances: uint8 [3, H, W]; at most 1.

    This is scikit-image's default, which AirNet and PromptIR report; they call it before the output is rounded to
    8 bits, where values differ in the fifth decimal.
    """
    _check("ssim-uniform", restored, truth, window=7)
    return _ssim(restored, truth)


def luma(image: Tensor) -> Tensor:
    """Return Y of BT.601 as MATLAB's ``rgb2ycbcr``, not rounded: uint8 [3, H, W] to float64 [1, H, W] in 16..235.

    MATLAB rounds the luma of an 8-bit image to 8 bits; BasicSR, and so MiOIR, does not.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=image.device) / 255
    return 16 + torch.einsum("c,chw->hw", weights, image.double())[None]


def mean(values: Iterable[float]) -> tuple[float | None, int]:
    """Return the mean of the finite values, None if there are none, and how many are not finite.

    The PSNR of two equal images is infinite, and so would be the mean of a test set that holds one such pair.

    >>> mean([20.0, math.inf, 30.0])
    (25.0, 1)
    """
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    return (math.fsum(finite) / len(finite) if finite else None), len(values) - len(finite)


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

METRICS: dict[str, Metric] = {
    "psnr": Metric(psnr, "8-bit RGB, per image, dB", 2),
    "ssim": Metric(ssim, "8-bit RGB, per image, 11x11 Gaussian window of sigma 1.5 inside the image", 4),
    "psnr-y": Metric(psnr_y, "BT.601 luma of 8-bit RGB, per image, dB", 2),
    "ssim-y": Metric(
        ssim_y, "BT.601 luma of 8-bit RGB, per image, 11x11 Gaussian window of sigma 1.5 inside the image", 4
    ),
    "ssim-uniform": Metric(
        ssim_uniform, "8-bit RGB, per image, 7x7 uniform window inside the image (AirNet, PromptIR)", 4
    ),
}


def _psnr(restored: Tensor, truth: Tensor) -> float:
    return peak_signal_noise_ratio(restored, truth, data_range=255.0).item()


def _ssim(restored: Tensor, truth: Tensor, **window: Any) -> float:
    similarity = structural_similarity(
        restored.cpu().numpy(), truth.cpu().numpy(), channel_axis=0, data_range=255, **window
    )
    return float(similarity)


def _check(metric: str, restored: Tensor, truth: Tensor, window: int = 1) -> None:
    for image in (restored, truth):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or image.shape != truth.shape:
            raise ValueError(
                f"{metric} was given {restored.dtype} {list(restored.shape)} and {truth.dtype} {list(truth.shape)}; "
                "it wants two uint8 images [3, H, W] of one size: round to 0..255 and pass one image at a time"
            )
    if min(truth.shape[1:]) < window:
        raise ValueError(
            f"{metric} was given images {list(truth.shape)}; it wants sides of at least {window}, its window: "
            "give larger images"
        )
