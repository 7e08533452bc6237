"""SRResNet as MiOIR trains it: a plain residual network at full resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SRResNet(nn.Module):
    """SRResNet without batch norm and without upsampling.

    Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network" (2017), in the
    form of MiOIR's official code: the only skip around the residual blocks is that of the image itself. Parameters are
    named as there, so that its checkpoints load.

    Args:
        width: Channels of the features.
        blocks: Number of residual blocks.
    """

    def __init__(self, width: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] in 0..1."""
        features = self.body(F.leaky_relu(self.conv_first(x), 0.1))
        return x + self.conv_last(F.leaky_relu(self.conv_hr(features), 0.1))


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, C, H, W]."""
        return x + self.conv2(F.relu(self.conv1(x)))


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight).mul_(0.1)
        nn.init.zeros_(module.bias)
