"""A small network for many degradations at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GlobalSRResNet(nn.Module):
    """SRResNet without upsampling or batch norm, and a head that sees the whole image.

    The residual blocks of SRResNet (Ledig et al., 2017) are local: alone they stay close to the identity on haze and
    low light, which want a change of all pixels at once. So the features, averaged over the image, give a gain and an
    offset for each colour: ``gain * x + offset + residual(x)``. Both start as the identity.

    Args:
        width: Channels of the features.
        blocks: Number of residual blocks.
    """

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.colour = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 6))
        for head in (self.last, self.colour[-1]):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] in 0..1."""
        features = self.first(x)
        for block in self.blocks:
            features = features + block(features)
        statistics = torch.cat([features.mean((2, 3)), features.std((2, 3))], 1)
        gain, offset = self.colour(statistics)[..., None, None].chunk(2, 1)
        return (1 + gain) * x + offset + self.last(features)
