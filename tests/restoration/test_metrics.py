from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from benchmarks.restoration.degradations import blur, noise, to_uint8
from benchmarks.restoration.metrics import METRICS, luma, mean, psnr, psnr_y, ssim, ssim_uniform, ssim_y
from benchmarks.restoration.photographs import packaged


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return packaged()[0].image


@pytest.fixture(scope="module")
def noisy(truth) -> Tensor:
    return to_uint8(noise(truth / 255, sigma=25, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def blurred(truth) -> Tensor:
    return to_uint8(blur(truth / 255, size=13, sigma=2))


def test_noise_of_25_on_astronaut(truth, noisy):
    """20.863 dB and 0.3353 by an independent implementation and draw; 16 draws span 20.852-20.871 and 0.3342-0.3354."""
    assert psnr(noisy, truth) == pytest.approx(20.863, abs=0.02)
    assert ssim(noisy, truth) == pytest.approx(0.3353, abs=0.0015)


def test_the_reference_draw_of_noise_on_astronaut(truth):
    """The numbers that an independent implementation gave for one draw, in all their digits."""
    draw = np.random.default_rng(0).standard_normal((512, 512, 3))
    unrounded = (truth + 25 * torch.from_numpy(draw).permute(2, 0, 1)).clamp(0, 255)
    noisy = unrounded.round().to(torch.uint8)
    assert psnr(noisy, truth) == pytest.approx(20.86283, abs=1e-5)
    assert ssim(noisy, truth) == pytest.approx(0.335272, abs=5e-7)
    assert ssim_uniform(noisy, truth) == pytest.approx(0.364807, abs=5e-7)
    # What AirNet and PromptIR print.
    before_rounding = structural_similarity(unrounded.numpy(), truth.double().numpy(), channel_axis=0, data_range=255)
    assert before_rounding == pytest.approx(0.364824, abs=5e-7)
    assert ssim_uniform(noisy, truth) == pytest.approx(before_rounding, abs=2e-5)


def test_psnr_of_a_known_error():
    black = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert psnr(black + 255, black) == pytest.approx(0, abs=1e-5)
    assert psnr(black + 51, black) == pytest.approx(20 * math.log10(5))
    one_value = black.clone()
    one_value[2, 3, 4] = 255
    assert psnr(one_value, black) == pytest.approx(10 * math.log10(black.numel()))


@pytest.mark.parametrize("name", METRICS)
def test_equal_images(name, truth):
    flat = torch.full((3, 20, 20), 250, dtype=torch.uint8)
    for image in (truth[:, :200, :151], flat):
        assert METRICS[name].measure(image, image) == (
            math.inf if name.startswith("psnr") else pytest.approx(1, abs=1e-9)
        )


@pytest.mark.parametrize("kind", ["noisy", "blurred"])
def test_agreement_with_another_implementation(truth, kind, request):
    degraded = request.getfixturevalue(kind)[:, :200, :151]
    clean = truth[:, :200, :151]
    images = degraded[None].double(), clean[None].double()
    _, gaussian = structural_similarity_index_measure(*images, sigma=1.5, data_range=255.0, return_full_image=True)
    # A sample covariance over 49 pixels is 49/48 of the plain one, as if the constant beside it were 48/49 of its size.
    _, uniform = structural_similarity_index_measure(
        *images,
        gaussian_kernel=False,
        kernel_size=7,
        k2=0.03 * (48 / 49) ** 0.5,
        data_range=255.0,
        return_full_image=True,
    )
    assert ssim(degraded, clean) == pytest.approx(gaussian[..., 5:-5, 5:-5].mean().item(), abs=1e-9)
    assert ssim_uniform(degraded, clean) == pytest.approx(uniform[..., 3:-3, 3:-3].mean().item(), abs=1e-9)
    assert psnr(degraded, clean) == pytest.approx(peak_signal_noise_ratio(clean.numpy(), degraded.numpy()), abs=1e-5)


def test_luma_is_that_of_matlab(truth, noisy):
    assert luma(truth)[0].numpy() == pytest.approx(rgb2ycbcr(truth.permute(1, 2, 0).numpy())[..., 0], abs=1e-9)
    corners = torch.tensor([[0, 255, 255, 0, 0], [0, 255, 0, 255, 0], [0, 255, 0, 0, 255]], dtype=torch.uint8)
    assert luma(corners[:, None]).flatten().tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966])


def test_metrics_of_luma(truth, noisy):
    planes = luma(noisy)[0].numpy(), luma(truth)[0].numpy()
    expected = structural_similarity(
        *planes, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert psnr_y(noisy, truth) == pytest.approx(peak_signal_noise_ratio(*planes, data_range=255), abs=1e-5)
    assert ssim_y(noisy, truth) == pytest.approx(expected, abs=1e-9)
    # A change of colour alone is not seen: 24.966 R = 65.481 B.
    red, blue = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    red[0], blue[2] = 76, 200
    assert psnr_y(red, blue) > 60 > 20 > psnr(red, blue)


def test_the_mean_leaves_out_what_is_not_finite_and_counts_it():
    assert mean([20, math.inf, 25, math.inf]) == (22.5, 2)
    assert mean([math.inf]) == (None, 1)
    assert mean([]) == (None, 0)


@pytest.mark.parametrize("name", METRICS)
def test_symmetric(name, truth, blurred):
    measure = METRICS[name].measure
    assert measure(blurred, truth) == pytest.approx(measure(truth, blurred))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "pair",
    [
        lambda image: (image / 255, image),
        lambda image: (image, image / 255),
        lambda image: (image / 255, image / 255),
        lambda image: (image[:, 1:], image),
        lambda image: (image[None], image[None]),
        lambda image: (image[:1], image[:1]),
    ],
    ids=["float restored", "float truth", "both float", "two sizes", "batch", "one channel"],
)
def test_anything_but_a_pair_of_8_bit_images_is_refused(name, pair, truth):
    with pytest.raises(ValueError, match=f"{name} was given .* it wants two uint8 images"):
        METRICS[name].measure(*pair(truth))


@pytest.mark.parametrize(("name", "window"), [("ssim", 11), ("ssim-y", 11), ("ssim-uniform", 7)])
def test_images_smaller_than_the_window_are_refused(name, window, truth):
    measure = METRICS[name].measure
    assert measure(truth[:, :window, :window], truth[:, :window, :window]) == pytest.approx(1)
    with pytest.raises(ValueError, match=f"^{name} was given .* sides of at least {window}"):
        measure(truth[:, : window - 1, :40], truth[:, : window - 1, :40])
