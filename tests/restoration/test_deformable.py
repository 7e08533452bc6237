"""Modulated deformable convolution against a loop over pixels and taps."""

from __future__ import annotations

from math import floor

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.restoration.models.deformable import modulated_deform_conv2d


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Sample an image [C, H, W] at one position, zero outside."""
    top, left = floor(y), floor(x)
    value = torch.zeros(len(image), dtype=image.dtype)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return value


def loop(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, padding: int) -> Tensor:
    (images, _, height, width), (out, _, kernel_height, kernel_width) = x.shape, weight.shape
    y = torch.zeros(
        images, out, height + 2 * padding - kernel_height + 1, width + 2 * padding - kernel_width + 1, dtype=x.dtype
    )
    for image in range(images):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        tap = i * kernel_width + j
                        down, right = offset[image, 2 * tap : 2 * tap + 2, row, column].tolist()
                        sample = bilinear(x[image], row - padding + i + down, column - padding + j + right)
                        y[image, :, row, column] += weight[:, :, i, j] @ sample * mask[image, tap, row, column]
    return y


def arguments(
    size: tuple[int, int] = (5, 4), kernel: tuple[int, int] = (3, 3), padding: int = 1, scale: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features of two images, offsets of ``scale`` pixels, a mask and a kernel, in double precision."""
    generator = torch.Generator().manual_seed(0)
    taps = kernel[0] * kernel[1]
    out = [side + 2 * padding - length + 1 for side, length in zip(size, kernel, strict=True)]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return normal(2, 2, *size), scale * normal(2, 2 * taps, *out), normal(2, taps, *out), normal(3, 2, *kernel)


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [((5, 4), (3, 3), 1), ((4, 6), (2, 3), 0), ((1, 5), (3, 3), 1), ((3, 3), (1, 1), 0), ((4, 4), (5, 5), 2)],
)
def test_equals_the_loop(size, kernel, padding):
    given = arguments(size, kernel, padding)
    torch.testing.assert_close(modulated_deform_conv2d(*given, padding), loop(*given, padding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), 1), ((3, 3), 0), ((2, 5), 2)])
def test_without_offsets_and_with_a_mask_of_ones_is_the_convolution(kernel, padding):
    x, offset, mask, weight = arguments((6, 7), kernel, padding)
    y = modulated_deform_conv2d(x, torch.zeros_like(offset), torch.ones_like(mask), weight, padding)
    torch.testing.assert_close(y, F.conv2d(x, weight, padding=padding))


def test_whole_offsets_shift_the_image_and_leave_zeros():
    x, offset, mask, weight = arguments((6, 5), (1, 1), 0)
    offset[:, 0], offset[:, 1] = 2, -1
    y = modulated_deform_conv2d(x, offset, torch.ones_like(mask), weight)
    shifted = F.pad(x, (1, 0, 0, 2))[:, :, 2:, :5]
    torch.testing.assert_close(y, F.conv2d(shifted, weight))


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_samples_outside_the_image_are_zero_without_a_gradient(far):
    x, offset, mask, weight = arguments()
    x.requires_grad_()
    y = modulated_deform_conv2d(x, torch.full_like(offset, far), mask, weight, padding=1)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


def test_samples_fade_towards_the_pixel_outside():
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    weight = mask = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for down, expected in ((0.0, 1.0), (0.25, 0.75), (-0.75, 0.25), (1.0, 0.0), (-1.5, 0.0)):
        offset = torch.tensor([down, 0.0], dtype=torch.float64).view(1, 2, 1, 1)
        assert modulated_deform_conv2d(x, offset, mask, weight).item() == pytest.approx(expected, abs=1e-15)


def test_the_first_of_two_offsets_goes_down():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    one = torch.ones(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 0] = 1
    y = modulated_deform_conv2d(x, offset, one, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(y[0, 0, 0], x[0, 0, 1])


def test_gradients():
    given = arguments((3, 4), (3, 2))
    assert torch.autograd.gradcheck(
        lambda *tensors: modulated_deform_conv2d(*tensors, padding=1), [tensor.requires_grad_() for tensor in given]
    )


def test_positions_keep_their_pixel_in_half_precision():
    x = torch.arange(600.0).expand(1, 1, 1, 600) / 600
    offset, mask = torch.zeros(1, 2, 1, 600, dtype=torch.bfloat16), torch.ones(1, 1, 1, 600, dtype=torch.bfloat16)
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    y = modulated_deform_conv2d(x.bfloat16(), offset, mask, weight)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, x.bfloat16())


@pytest.mark.parametrize("name", ["offset", "mask"])
def test_a_shape_that_does_not_fit_is_refused(name):
    x, offset, mask, weight = arguments()
    if name == "offset":
        offset = offset[..., 1:]
    else:
        mask = mask[:, 1:]
    with pytest.raises(ValueError, match=rf"^{name} has shape \(2, \d+, 5, \d\); features of shape \(2, 2, 5, 4\) and"):
        modulated_deform_conv2d(x, offset, mask, weight, padding=1)
