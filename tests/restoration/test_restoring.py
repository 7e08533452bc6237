from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.restoration import models
from benchmarks.restoration.restoring import restore_bands, restore_tensor


@pytest.fixture
def local() -> nn.Module:
    """Sees 3 pixels far, and feels every border: a convolution of zeros beyond."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 5, padding=2)).eval()


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", [(5, 7), (32, 32), (32, 33), (33, 32), (47, 150), (97, 61), (128, 20)])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_of_a_local_network_leave_no_trace(local, size, batch):
    image = picture(*size)
    expected = local(image[None])[0]
    restored = restore_tensor(local, image, tile=32, overlap=12, batch=batch)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)


def test_tiles_that_share_too_little_do(local):
    image = picture(64, 64)
    assert (restore_tensor(local, image, tile=32, overlap=0) - local(image[None])[0]).abs().max() > 0.01


def test_tiles_of_srresnet_leave_no_trace():
    network = models.create("srresnet", "tiny").eval()
    radius = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    image = picture(100, 130)
    restored = restore_tensor(network, image, tile=64, overlap=4 * radius, batch=2)
    torch.testing.assert_close(restored, network(image[None])[0], rtol=0, atol=1e-6)


class Brightness(nn.Module):
    """Gives each tile one value: the mean of what it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3), keepdim=True).expand_as(x)


@pytest.mark.parametrize("overlap", [8, 32, 64])
def test_tiles_that_disagree_fade_into_each_other(overlap):
    """Seams are what the eye sees first: the step from pixel to pixel is a share of the difference of two tiles."""
    image = torch.linspace(0, 1, 300).expand(3, 140, 300)
    restored = restore_tensor(Brightness(), image, tile=128, overlap=overlap)
    values = restored[0, 0]
    assert (values.diff() >= -1e-6).all()
    assert values.diff().max() <= 1.2 * (128 - overlap) / 300 / (overlap / 2)
    assert restored.amin() >= 0
    assert restored.amax() <= 1
    torch.testing.assert_close(restored, values.expand_as(restored))


@pytest.mark.parametrize("overlap", [0, 1, 5, 16])
@pytest.mark.parametrize("size", [(1, 1), (31, 65), (33, 64), (100, 129), (34, 34)])
def test_the_identity_is_kept(size, overlap):
    image = picture(*size)
    torch.testing.assert_close(restore_tensor(nn.Identity(), image, tile=32, overlap=overlap), image)
    rounded = (255 * image).to(torch.uint8)
    torch.testing.assert_close(restore_tensor(nn.Identity(), rounded, tile=32, overlap=overlap), rounded / 255)


def test_rows_are_read_once_and_before_they_are_written():
    image, written, asked = picture(150, 20), [0], [0]

    def rows(top: int, bottom: int) -> torch.Tensor:
        assert top == asked[-1] >= written[-1]
        asked.append(bottom)
        return image[:, top:bottom]

    bands = []
    for band in restore_bands(nn.Identity(), rows, (150, 20), tile=32, overlap=8):
        bands.append(band)
        written.append(written[-1] + band.shape[1])
        assert asked[-1] - written[-1] <= 32
        assert band.shape[1] <= 32
    assert asked[-1] == written[-1] == 150
    torch.testing.assert_close(torch.cat(bands, 1), image)


def test_a_network_that_fails_is_refused():
    with pytest.raises(ValueError, match=r"not finite"):
        restore_tensor(nn.Threshold(0.5, float("nan")), picture(8, 8))
    with pytest.raises(ValueError, match=r"returned \[1, 3, 4, 4\] for images \[1, 3, 8, 8\]"):
        restore_tensor(nn.AvgPool2d(2), picture(8, 8))


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        ({"tile": 0}, "tile is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"tile": 16, "overlap": 9}, r"overlap is 9 for tiles of 16; it must be in 0\.\.8"),
        ({"overlap": -1}, "overlap is -1"),
    ],
)
def test_tilings_that_cannot_cover_an_image_are_refused(tiling, message):
    with pytest.raises(ValueError, match=message):
        restore_tensor(nn.Identity(), picture(8, 8), **tiling)
