"""Uformer: a U-Net of transformer blocks with attention inside windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drop_path import DropPath
from .padding import pad_to_multiple


class Uformer(nn.Module):
    """Uformer with modulators in the decoder.

    Wang et al., "Uformer: A General U-Shaped Transformer for Image Restoration" (2022). The official code builds the
    network for images of 128 x 128 and takes square ones; here any image is padded to a multiple of
    ``window * 2 ** levels``.

    Args:
        dim: Channels at full resolution, and of one attention head.
        depths: Number of blocks in each stage from full resolution to the bottleneck; the decoder mirrors them.
        window: Side of an attention window.
        drop_path: Largest drop path probability.
    """

    def __init__(self, dim: int, depths: tuple[int, ...], window: int = 8, drop_path: float = 0.1) -> None:
        super().__init__()
        levels = len(depths) - 1
        widths = [dim * 2**level for level in range(levels + 1)]
        rates = torch.linspace(0, drop_path, sum(depths[:-1]), device="cpu").split(depths[:-1])

        self.multiple = window * 2**levels
        self.input = nn.Conv2d(3, dim, 3, padding=1)
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for width, stage_rates in zip(widths[:-1], rates, strict=True):
            self.encoder.append(Stage(width, width // dim, window, stage_rates.tolist()))
            self.down.append(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1))
        # For an image of 128 x 128 the bottleneck is a single window, which cannot shift.
        self.bottleneck = Stage(widths[-1], 2**levels, window, [drop_path] * depths[-1], shifted=False)
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        below = widths[-1]
        for width, stage_rates in zip(widths[-2::-1], rates[::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(below, width, 2, stride=2))
            below = 2 * width
            self.decoder.append(Stage(below, below // dim, window, stage_rates.flip(0).tolist(), modulated=True))
        self.output = nn.Conv2d(below, 3, 3, padding=1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] in 0..1."""
        padded = pad_to_multiple(image, self.multiple)
        x = F.leaky_relu(self.input(padded), 0.01)
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            x = stage(x)
            skips.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], 1))
        height, width = image.shape[-2:]
        return image + self.output(x)[..., :height, :width]


class Stage(nn.Module):
    """Blocks at one resolution; every second one shifts its windows by half their side."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        drop_paths: list[float],
        modulated: bool = False,
        shifted: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(dim, heads, window, window // 2 if shifted and index % 2 else 0, drop_path, modulated)
                for index, drop_path in enumerate(drop_paths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, C, H, W]."""
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention inside windows, then a feed-forward network that sees the pixels around (LeWin block)."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float, modulated: bool) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.modulator = nn.Parameter(torch.randn(window**2, dim)) if modulated else None
        self.attention = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = LeFF(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, H, W, C]."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.feed_forward(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = shift_mask(height, width, self.window, self.shift, x.device).to(x.dtype)
        windows = split(x, self.window)
        if self.modulator is not None:
            windows = windows + self.modulator
        x = merge(self.attention(windows, mask), height, width)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learnt bias for each head and relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))
        self.projection = nn.Linear(dim, dim)
        rows, columns = torch.arange(window**2) // window, torch.arange(window**2) % window
        distance = [along[:, None] - along + window - 1 for along in (rows, columns)]
        self.register_buffer("position", distance[0] * (2 * window - 1) + distance[1], persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend inside each of the windows [B, W, T, C]; ``mask`` [W, T, T] is added to the scores."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in (self.query(x), *self.key_value(x).chunk(2, -1))
        )
        bias = self.bias[self.position].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask[:, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.projection(attended.transpose(2, 3).flatten(3))


class LeFF(nn.Module):
    """Feed-forward network with a depthwise convolution between its two layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.reduce = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features [B, H, W, C]."""
        x = F.gelu(self.expand(x)).permute(0, 3, 1, 2)
        return self.reduce(F.gelu(self.mix(x)).permute(0, 2, 3, 1))


def split(x: Tensor, window: int) -> Tensor:
    """Cut features [B, H, W, C] into windows [B, H W / window², window², C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window**2, channels)


def merge(windows: Tensor, height: int, width: int) -> Tensor:
    """Put windows [B, W, T, C] together to features [B, H, W, C]: the inverse of :func:`split`."""
    batch, _, tokens, channels = windows.shape
    window = round(tokens**0.5)
    x = windows.reshape(batch, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(batch, height, width, channels)


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Return [W, T, T]: -100 between pixels that are neighbours only because a roll by ``shift`` wrapped around."""

    def region(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).int() + (position >= size - shift).int()

    regions = 3 * region(height)[:, None] + region(width)
    regions = split(regions[None, :, :, None], window)[0, :, :, 0]
    return -100.0 * (regions[:, :, None] != regions[:, None, :])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
