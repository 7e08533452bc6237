from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from benchmarks.restoration.degradations import blur, noise, to_uint8
from benchmarks.restoration.metrics import psnr, ssim
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


def test_psnr_of_a_known_error():
    black = torch.zeros(3, 4, 5, dtype=torch.uint8)
    assert psnr(black + 255, black) == pytest.approx(0, abs=1e-5)
    assert psnr(black + 51, black) == pytest.approx(20 * math.log10(5))
    one_value = black.clone()
    one_value[2, 3, 4] = 255
    assert psnr(one_value, black) == pytest.approx(10 * math.log10(black.numel()))


def test_equal_images(truth):
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["noisy", "blurred"])
def test_agreement_with_skimage(truth, kind, request):
    degraded = request.getfixturevalue(kind)[:, :200, :151]
    clean = truth[:, :200, :151]
    # Its mean leaves out a border of half the window, the 5 pixels where the window leaves the image.
    expected = structural_similarity(
        clean.numpy(),
        degraded.numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=0,
        data_range=255,
    )
    assert ssim(degraded, clean) == pytest.approx(expected, abs=5e-5)
    assert psnr(degraded, clean) == pytest.approx(peak_signal_noise_ratio(clean.numpy(), degraded.numpy()), abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_symmetric(metric, truth, blurred):
    assert metric(blurred, truth) == pytest.approx(metric(truth, blurred))


@pytest.mark.parametrize("metric", [psnr, ssim])
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
def test_anything_but_a_pair_of_8_bit_images_is_refused(metric, pair, truth):
    with pytest.raises(ValueError, match=rf"{metric.__name__} was given .* it wants two uint8 images"):
        metric(*pair(truth))


def test_images_smaller_than_the_window_are_refused(truth):
    assert ssim(truth[:, :11, :11], truth[:, :11, :11]) == pytest.approx(1)
    with pytest.raises(ValueError, match="sides of at least 11"):
        ssim(truth[:, :10, :40], truth[:, :10, :40])
