"""PromptIR: Restormer with learned prompts injected into its decoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .padding import pad_to_multiple


class PromptIR(nn.Module):
    """PromptIR.

    Potlapalli et al., "PromptIR: Prompting for All-in-One Image Restoration" (2023). Three learned sets of prompts,
    mixed by the decoder's features, join these on the way up. Parameters are named as in the official code, so that
    its checkpoints load.

    The official code constructs six 1x1 convolutions that it never calls: 215,296 parameters at the official size,
    which get no gradient. MiOIR's copy drops them, and computes the same.

    Args:
        width: Channels of the features at full resolution, doubled with each of three halvings.
        blocks: Numbers of transformer blocks at the four resolutions, from full to an eighth.
        refinement: Number of transformer blocks at the end.
        prompts: Channels and side of the prompts, from half to an eighth of the resolution.
        unused: Whether to construct the convolutions that are never called.
    """

    def __init__(
        self,
        width: int = 48,
        blocks: tuple[int, int, int, int] = (4, 6, 6, 8),
        refinement: int = 4,
        prompts: tuple[tuple[int, int], ...] = ((64, 64), (128, 32), (320, 16)),
        unused: bool = True,
    ) -> None:
        super().__init__()
        double, fourfold, eightfold = 2 * width, 4 * width, 8 * width
        (prompt1, side1), (prompt2, side2), (prompt3, side3) = prompts
        self.patch_embed = nn.Sequential(OrderedDict(proj=_conv(3, width, 3)))
        self.prompt1 = Prompt(double, prompt1, side1)
        self.prompt2 = Prompt(fourfold, prompt2, side2)
        self.prompt3 = Prompt(eightfold, prompt3, side3)
        if unused:
            reduced = 4 * prompt3 // 5
            self.chnl_reduce1 = _conv(prompt1, prompt1, 1)
            self.chnl_reduce2 = _conv(prompt2, prompt2, 1)
            self.chnl_reduce3 = _conv(prompt3, reduced, 1)
            self.reduce_noise_channel_1 = _conv(width + prompt1, width, 1)
            self.reduce_noise_channel_2 = _conv(double + prompt2, double, 1)
            self.reduce_noise_channel_3 = _conv(fourfold + reduced, fourfold, 1)

        self.encoder_level1 = _level(width, 1, blocks[0])
        self.down1_2 = _down(width)
        self.encoder_level2 = _level(double, 2, blocks[1])
        self.down2_3 = _down(double)
        self.encoder_level3 = _level(fourfold, 4, blocks[2])
        self.down3_4 = _down(fourfold)
        self.latent = _level(eightfold, 8, blocks[3])

        self.noise_level3 = TransformerBlock(eightfold + prompt3, 4)
        self.reduce_noise_level3 = _conv(eightfold + prompt3, fourfold, 1)
        self.up4_3 = _up(fourfold)
        self.reduce_chan_level3 = _conv(double + fourfold, fourfold, 1)
        self.decoder_level3 = _level(fourfold, 4, blocks[2])

        self.noise_level2 = TransformerBlock(fourfold + prompt2, 4)
        self.reduce_noise_level2 = _conv(fourfold + prompt2, fourfold, 1)
        self.up3_2 = _up(fourfold)
        self.reduce_chan_level2 = _conv(double + double, double, 1)
        self.decoder_level2 = _level(double, 2, blocks[1])

        self.noise_level1 = TransformerBlock(double + prompt1, 4)
        self.reduce_noise_level1 = _conv(double + prompt1, double, 1)
        self.up2_1 = _up(double)
        self.decoder_level1 = _level(double, 1, blocks[0])
        self.refinement = _level(double, 1, refinement)
        self.output = _conv(double, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] in 0..1."""
        height, width = x.shape[2:]
        x = pad_to_multiple(x, 8)
        full = self.encoder_level1(self.patch_embed(x))
        half = self.encoder_level2(self.down1_2(full))
        quarter = self.encoder_level3(self.down2_3(half))
        y = self.latent(self.down3_4(quarter))

        y = self.reduce_noise_level3(self.noise_level3(torch.cat([y, self.prompt3(y)], 1)))
        y = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(y), quarter], 1)))
        y = self.reduce_noise_level2(self.noise_level2(torch.cat([y, self.prompt2(y)], 1)))
        y = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(y), half], 1)))
        y = self.reduce_noise_level1(self.noise_level1(torch.cat([y, self.prompt1(y)], 1)))
        y = self.decoder_level1(torch.cat([self.up2_1(y), full], 1))
        return (x + self.output(self.refinement(y)))[..., :height, :width]


class Prompt(nn.Module):
    """Five learned prompts, mixed by the mean of the features and resized to them."""

    def __init__(self, width: int, channels: int, side: int) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, 5, channels, side, side))
        self.linear_layer = nn.Linear(width, 5)
        self.conv3x3 = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prompt [B, channels, H, W] for features [B, width, H, W]."""
        shares = self.linear_layer(x.mean((2, 3))).softmax(1)
        prompt = torch.einsum("bn,nchw->bchw", shares, self.prompt_param[0])
        return self.conv3x3(F.interpolate(prompt, x.shape[2:], mode="bilinear"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Prompt:
        # Module.to(memory_format=torch.channels_last) fails on five dimensions.
        return super()._apply(lambda tensor: fn(tensor[0])[None] if tensor.dim() == 5 else fn(tensor), recurse)


class TransformerBlock(nn.Module):
    """Attention among channels, then a gated feed-forward network, each behind a norm and inside a skip.

    Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration" (2022).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(width)
        self.attn = ChannelAttention(width, heads)
        self.norm2 = ChannelNorm(width)
        self.ffn = GatedFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, width, H, W]."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features [B, width, H, W]."""
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Attention whose tokens are the channels of a head, compared by their cosine over all pixels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = _conv(width, 3 * width, 1)
        self.qkv_dwconv = _depthwise(3 * width)
        self.project_out = _conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of features [B, width, H, W]."""
        heads = len(self.temperature)
        qkv = self.qkv_dwconv(self.qkv(x)).unflatten(1, (3, heads, -1)).flatten(4)
        query, key, value = qkv.unbind(1)
        cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
        mixed = (cosine * self.temperature).softmax(-1) @ value
        return self.project_out(mixed.flatten(1, 2).unflatten(2, x.shape[2:]))


class GatedFeedForward(nn.Module):
    """Two halves of the hidden features, one gating the other through a GELU."""

    def __init__(self, width: int, expansion: float = 2.66) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.project_in = _conv(width, 2 * hidden, 1)
        self.dwconv = _depthwise(2 * hidden)
        self.project_out = _conv(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, width, H, W]."""
        gate, hidden = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * hidden)


def _level(width: int, heads: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(TransformerBlock(width, heads) for _ in range(blocks)))


def _down(width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(body=nn.Sequential(_conv(width, width // 2, 3), nn.PixelUnshuffle(2))))


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(body=nn.Sequential(_conv(width, 2 * width, 3), nn.PixelShuffle(2))))


def _conv(channels: int, width: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, side, padding=side // 2, bias=False)


def _depthwise(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
