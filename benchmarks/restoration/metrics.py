"""Quality of one restored 8-bit RGB image; a test set is scored by the mean of the values over its images."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(restored: Tensor, truth: Tensor) -> float:
    """``10 log10(255^2 / MSE)`` in dB, the MSE over pixels and channels: uint8 [3, H, W]; inf for equal images."""
    _check("psnr", restored, truth)
    return peak_signal_noise_ratio(restored.double(), truth.double(), data_range=255.0).item()


def ssim(restored: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al., 2004), its mean over pixels and channels: uint8 [3, H, W]; at most 1.

    The window is Gaussian, sigma 1.5, 11 x 11, and counts only where it lies inside the image.

    .. note:: AirNet and PromptIR report the uniform 7 x 7 window instead. The values do not compare.
    """
    _check("ssim", restored, truth)
    if min(truth.shape[1:]) < 11:
        raise ValueError(
            f"ssim was given images {list(truth.shape)}; it wants sides of at least 11, its window: give larger images"
        )
    _, similarity = structural_similarity_index_measure(
        restored[None].float(), truth[None].float(), sigma=1.5, data_range=255.0, return_full_image=True
    )
    return similarity[..., 5:-5, 5:-5].mean().item()


def _check(metric: str, restored: Tensor, truth: Tensor) -> None:
    for image in (restored, truth):
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3 or image.shape != truth.shape:
            raise ValueError(
                f"{metric} was given {restored.dtype} {list(restored.shape)} and {truth.dtype} {list(truth.shape)}; "
                "it wants two uint8 images [3, H, W] of one size: round to 0..255 and pass one image at a time"
            )
