"""Modulated deformable convolution (DCNv2) in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def modulated_deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """Convolve features sampled next to the taps of the kernel, each sample scaled by its mask.

    Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results" (2019); equal to ``modulated_deform_conv2d``
    of mmcv and ``deform_conv2d`` of torchvision with stride 1, dilation 1, one group and no bias. Samples are bilinear,
    and zero outside ``x``. With zero offsets and a mask of ones it is :func:`torch.nn.functional.conv2d`.

    The backward pass keeps 2 * kh * kw features for each of ``x``, where a fused operator samples them again.

    Args:
        x: Features [B, C, H, W].
        offset: Displacements in pixels [B, 2 * kh * kw, H', W']: (y, x) of one tap after the other, row by row.
        mask: Factors [B, kh * kw, H', W'].
        weight: Kernel [O, C, kh, kw].
        padding: Rows and columns added on each side, H' = H + 2 * padding - kh + 1.

    Returns:
        Features [B, O, H', W'].

    Raises:
        ValueError: ``offset`` or ``mask`` does not have the shape above.
    """
    height, width = x.shape[2:]
    kernel_height, kernel_width = weight.shape[2:]
    taps = kernel_height * kernel_width
    out_height, out_width = height + 2 * padding - kernel_height + 1, width + 2 * padding - kernel_width + 1
    for name, given, channels in (("offset", offset, 2 * taps), ("mask", mask, taps)):
        expected = (len(x), channels, out_height, out_width)
        if given.shape != expected:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; features of shape {tuple(x.shape)} and a kernel of shape "
                f"{tuple(weight.shape)} with padding {padding} need {expected}: compute it with that kernel and padding"
            )

    # Positions need 32 bits: bfloat16 cannot tell pixel 257 from 256.
    dtype = torch.promote_types(offset.dtype, torch.float32)
    down, right = offset.unflatten(1, (kernel_height, kernel_width, 2)).unbind(3)
    row, column = (torch.arange(-padding, side + padding, dtype=dtype, device=x.device) for side in (height, width))
    row = row.unfold(0, out_height, 1)[:, None, :, None] + down
    column = column.unfold(0, out_width, 1)[:, None, :] + right

    # grid_sample takes (x, y), with -1 and 1 at the outer edges of the first and the last pixel.
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
    samples = F.grid_sample(x.to(dtype), grid.flatten(1, 3), align_corners=False)
    samples = samples.unflatten(2, (taps, out_height)) * mask[:, None]
    return F.conv2d(samples.flatten(1, 2).to(weight.dtype), weight.flatten(1)[:, :, None, None])
