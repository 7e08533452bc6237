from __future__ import annotations

import pytest
import torch

from benchmarks.restoration.models.global_srresnet import GlobalSRResNet


@pytest.mark.parametrize("size", [(16, 16), (17, 31)])
def test_it_starts_as_the_identity_on_any_size(size):
    x = torch.rand(2, 3, *size)
    assert torch.equal(GlobalSRResNet()(x), x)


def test_it_learns_a_change_of_all_pixels_from_the_whole_image():
    """A gain a colour, which a local network could only approach pixel by pixel: all of it in the colour head."""
    torch.manual_seed(0)
    network = GlobalSRResNet(width=8, blocks=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    gains = torch.tensor([0.5, 1.0, 1.4])[:, None, None]
    for _ in range(150):
        x = 0.6 * torch.rand(4, 3, 12, 12)
        loss = (network(x * gains) - x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    assert network.colour[-1].bias.abs().max() > 0.01
