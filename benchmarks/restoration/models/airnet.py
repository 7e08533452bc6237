"""AirNet: a restoration network guided by what a contrastive encoder sees of the degradation."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from .deformable import modulated_deform_conv2d


class AirNet(nn.Module):
    """AirNet, with its contrastive encoder, momentum encoder and queue of keys.

    Li et al., "All-In-One Image Restoration for Unknown Corruption" (2022). An encoder learns, by momentum contrast,
    to tell the degradation of one image from that of others; its first features guide the network that restores.
    Parameters and buffers are named as in the official code, so that its checkpoints load.

    Beyond the official code, the queue takes batches of any size and, where ``torch.distributed`` is initialised, the
    keys of all ranks, whose batches are equally large.

    Args:
        width: Channels of the features.
        groups: Number of degradation-guided groups.
        blocks: Number of degradation-guided blocks in a group.
        queue: Number of keys in the queue; the official one is 256 times the batch size.
    """

    def __init__(self, width: int = 64, groups: int = 5, blocks: int = 5, queue: int = 1280) -> None:
        super().__init__()
        self.R = GuidedRestoration(width, groups, blocks)
        self.E = nn.ModuleDict({"E": MomentumContrast(width, queue)})

    def forward(self, x: Tensor, key: Tensor | None = None, restore: bool = True) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images, contrast their degradations, or both.

        Args:
            x: Images [B, 3, H, W] in 0..1.
            key: A second crop of each of the images [B, 3, H', W'], of the same degradation. In training mode it moves
                the momentum encoder and enters the queue.
            restore: Whether to restore; False is for the first phase of training, which trains the encoder alone.

        Returns:
            The restored images without ``key``; the logits [B, 1 + queue], whose right class is 0, if not ``restore``;
            else the pair (restored, logits).

        Raises:
            ValueError: ``restore`` is False and there is no ``key``.
        """
        contrast = self.E["E"]
        if key is None:
            if not restore:
                raise ValueError("restore is False and key is None; logits need keys: pass a second crop of each image")
            return self.R(x, contrast.encoder_q.E_pre(x))
        guide, logits = contrast(x, key)
        return (self.R(x, guide), logits) if restore else logits


class MomentumContrast(nn.Module):
    """Momentum contrast of degradations: each query against its own key and a queue of earlier keys.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (2020). The encoder of the keys is
    the exponential moving average of that of the queries.

    Args:
        width: Channels of the encoder's first features.
        size: Number of keys in the queue.
        momentum: Share that the key encoder keeps of itself in each step.
        temperature: Divisor of the cosine similarities.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, width: int, size: int, momentum: float = 0.999, temperature: float = 0.07) -> None:
        super().__init__()
        self.momentum = momentum
        self.temperature = temperature
        self.encoder_q = DegradationEncoder(width)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(4 * width, size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the guiding features [B, C, H, W] of ``x`` and the logits [B, 1 + size]."""
        guide, query = self.encoder_q(x)
        with torch.no_grad():
            if self.training:
                self._follow()
            _, keys = self.encoder_k(key)
        # The temperature magnifies rounding.
        with torch.autocast(x.device.type, enabled=False):
            query, keys = (F.normalize(embedding.to(self.queue.dtype)) for embedding in (query, keys))
            own = (query * keys).sum(1, keepdim=True)
            # The queue changes before the backward pass.
            others = query @ self.queue.clone()
            logits = torch.cat([own, others], 1) / self.temperature
        if self.training:
            self._enqueue(keys)
        return guide, logits

    @torch.no_grad()
    def _follow(self) -> None:
        for key, query in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        size = self.queue.shape[1]
        keys = _of_all_ranks(keys)[-size:]
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue.index_copy_(1, places, keys.T)
        self.queue_ptr.add_(len(keys)).remainder_(size)


def _of_all_ranks(keys: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return keys
    gathered = keys.new_empty(dist.get_world_size() * len(keys), *keys.shape[1:])
    dist.all_gather_into_tensor(gathered, keys)
    return gathered


class DegradationEncoder(nn.Module):
    """Residual blocks of 1, 2 and 4 times ``width`` channels, the last two of stride 2, pooled into an embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.E_pre = ResidualBlock(3, width)
        self.E = nn.Sequential(ResidualBlock(width, 2 * width, stride=2), ResidualBlock(2 * width, 4 * width, stride=2))
        self.mlp = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.LeakyReLU(0.1), nn.Linear(4 * width, 4 * width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first features [B, width, H, W] and the embedding [B, 4 * width] of images [B, 3, H, W]."""
        features = self.E_pre(x)
        return features, self.mlp(self.E(features).mean((2, 3)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 convolution, each with batch norm."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, channels, H, W] to [B, width, ceil(H / stride), ceil(W / stride)]."""
        return F.leaky_relu(self.backbone(x) + self.shortcut(x), 0.1)


class GuidedRestoration(nn.Module):
    """The degradation-guided restoration network: groups of guided blocks, without a skip of the image."""

    def __init__(self, width: int, groups: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(_conv(3, width))
        self.body = nn.ModuleList([*(GuidedGroup(width, blocks) for _ in range(groups)), _conv(width, width)])
        self.tail = nn.Sequential(_conv(width, 3))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] with guiding features [B, width, H, W]."""
        features = self.head(x)
        return self.tail(features + _through(self.body, features, guide))


class GuidedGroup(nn.Module):
    """Guided blocks and a convolution, with a skip around them."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([*(GuidedBlock(width) for _ in range(blocks)), _conv(width, width)])

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Refine features [B, width, H, W]."""
        return x + _through(self.body, x, guide)


def _through(body: nn.ModuleList, x: Tensor, guide: Tensor) -> Tensor:
    *guided, last = body
    for module in guided:
        x = module(x, guide)
    return last(x)


class GuidedBlock(nn.Module):
    """Two guided modules and two convolutions in turn, with a skip around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dgm1, self.dgm2 = GuidedModule(width), GuidedModule(width)
        self.conv1, self.conv2 = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Refine features [B, width, H, W]."""
        y = F.leaky_relu(self.dgm1(x, guide), 0.1)
        y = F.leaky_relu(self.conv1(y), 0.1)
        y = F.leaky_relu(self.dgm2(y, guide), 0.1)
        return x + self.conv2(y)


class GuidedModule(nn.Module):
    """``x + deformable convolution(x) + gamma(guide) * x + beta(guide)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dcn = GuidedDeformableConv(width)
        self.sft = SpatialFeatureTransform(width)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Refine features [B, width, H, W]."""
        return x + self.dcn(x, guide) + self.sft(x, guide)


class GuidedDeformableConv(nn.Module):
    """A deformable 3x3 convolution whose offsets and mask come from the features and the guide.

    The convolution of offsets and mask starts at zero: no displacement, and a mask of one half.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(width, width, 3, bias=False).weight.detach())
        self.conv_offset_mask = _conv(2 * width, 27)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Convolve features [B, width, H, W]."""
        offset, mask = self.conv_offset_mask(torch.cat([x, guide], 1)).split([18, 9], 1)
        return modulated_deform_conv2d(x, offset, mask.sigmoid(), self.weight, padding=1)


class SpatialFeatureTransform(nn.Module):
    """``gamma(guide) * x + beta(guide)``, each a pair of 1x1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_gamma, self.conv_beta = (
            nn.Sequential(
                nn.Conv2d(width, width, 1, bias=False), nn.LeakyReLU(0.1), nn.Conv2d(width, width, 1, bias=False)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Scale and shift features [B, width, H, W]."""
        return self.conv_gamma(guide) * x + self.conv_beta(guide)


def _conv(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)
