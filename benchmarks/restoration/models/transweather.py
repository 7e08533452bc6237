"""TransWeather: a transformer encoder, task queries in the decoder, a convolutional tail."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drop_path import DropPath
from .padding import pad_to_multiple

_HEADS = (1, 2, 4, 4)
_REDUCTIONS = (4, 2, 2, 1)
_DROP_PATH = 0.1


class TransWeather(nn.Module):
    """TransWeather, all weather conditions by one encoder and one decoder.

    Valanarasu et al., "TransWeather: Transformer-based Restoration of Images Degraded by Adverse Weather Conditions"
    (2022). The official network takes images in -1..1 and is trained against targets in 0..1; the input is converted
    here. Images are padded to a multiple of 16 and to at least 48 x 48, the smallest that the encoder can halve.

    Args:
        dims: Channels of the four stages, at a quarter of the resolution and then half of it each.
        depths: Number of blocks of each encoder stage.
        decoder_depth: Number of blocks of the decoder.
        unused: Keep the 296,667 parameters that the official code constructs and never uses. They get no gradient;
            the copies in MiOIR and in the code of Art leave them out.
    """

    def __init__(
        self,
        dims: tuple[int, int, int, int] = (64, 128, 320, 512),
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        decoder_depth: int = 3,
        unused: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(dims, depths)
        self.decoder = Decoder(dims[-1], decoder_depth)
        self.encoder.apply(_initialise)
        self.decoder.apply(_initialise)
        self.tail = Tail(dims)
        self.unused = nn.ModuleList()
        if unused:
            self.unused.append(PatchEmbedding(dims[0], dims[-1]).apply(_initialise))
            self.unused.append(nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Restore images [B, 3, H, W] in 0..1."""
        height, width = image.shape[-2:]
        features = self.encoder(2 * pad_to_multiple(image, 16, minimum=48) - 1)
        return self.tail(features, self.decoder(features[-1]))[..., :height, :width]


class Encoder(nn.Module):
    """Four stages of transformer blocks; between them a branch embeds smaller patches and joins the next stage."""

    def __init__(self, dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        rates = torch.linspace(0, _DROP_PATH, sum(depths), device="cpu").split(depths)
        self.embeddings = nn.ModuleList([PatchEmbedding(3, dims[0], kernel=7, stride=4)])
        self.stages, self.fine_embeddings, self.fine_stages = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for dim, heads, reduction, stage_rates in zip(dims, _HEADS, _REDUCTIONS, rates, strict=True):
            self.stages.append(Stage(dim, heads, reduction, stage_rates.tolist()))
        # The branches take the heads of stages 1, 2 and, as the official code has it, 2 again.
        for index, heads in enumerate((_HEADS[0], _HEADS[1], _HEADS[1])):
            dim, wider = dims[index : index + 2]
            self.embeddings.append(PatchEmbedding(dim, wider))
            self.fine_embeddings.append(PatchEmbedding(dim, wider))
            self.fine_stages.append(Stage(wider, heads, _REDUCTIONS[index], rates[index][:1].tolist()))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of the four stages, [B, C, H / 4, W / 4] to [B, C, H / 32, W / 32]."""
        features = []
        fine: Tensor | None = None
        for index, (embed, stage) in enumerate(zip(self.embeddings, self.stages, strict=True)):
            x = embed(x)
            if fine is not None:
                x = x + fine
            if index < len(self.fine_stages):
                fine = self.fine_stages[index](self.fine_embeddings[index](x))
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Blocks whose queries are learnt vectors of the weather, on the encoder's last features at half their size."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(dim, dim)
        # The official rates are those of a decoder of 16 blocks, of which it constructs the first three.
        rates = [_DROP_PATH * index / 15 for index in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, QueryAttention(dim, 8), 4 * dim, rate) for rate in rates))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, C, H / 64, W / 64] from [B, C, H / 32, W / 32]."""
        x = self.embedding(x).permute(0, 2, 3, 1)
        return self.norm(self.blocks(x)).permute(0, 3, 1, 2)


class Tail(nn.Module):
    """Transposed convolutions back to the image, with the encoder's features added on the way up."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        widths = (dims[-1], *dims[::-1], 16, 8)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 4, stride=2, padding=1) for below, above in pairwise(widths)
        )
        self.refine = nn.ModuleList(ResidualBlock(width) for width in (*dims[-2::-1], 16))
        self.output = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, features: list[Tensor], x: Tensor) -> Tensor:
        """Return images [B, 3, H, W] from the features of the encoder and of the decoder."""
        for index, skip in enumerate(reversed(features)):
            x = self.up[index](x)[..., : skip.shape[-2], : skip.shape[-1]]
            x = skip + (self.refine[index - 1](x) if index else x)
        x = self.refine[-1](self.up[-2](x))
        return torch.tanh(self.output(self.up[-1](x)))


class Stage(nn.Module):
    """Blocks at one resolution, and a norm."""

    def __init__(self, dim: int, heads: int, reduction: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(dim, SelfAttention(dim, heads, reduction), 2 * dim, drop_path) for drop_path in drop_paths)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, C, H, W]."""
        return self.norm(self.blocks(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention, then a feed-forward network with a depthwise convolution after its first layer."""

    def __init__(self, dim: int, attention: nn.Module, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.reduce = nn.Linear(hidden, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, H, W, C]."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        hidden = self.mix(self.expand(self.norm2(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path(self.reduce(F.gelu(hidden)))


class SelfAttention(nn.Module):
    """Attention over the whole image, whose keys and values are taken at a resolution lower by ``reduction``."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)
        if reduction > 1:
            self.lower = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)
        else:
            self.lower = None

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside features [B, H, W, C]."""
        low = x if self.lower is None else self.norm(self.lower(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        query, key, value = (
            _heads(part.flatten(1, 2), self.heads) for part in (self.query(x), *self.key_value(low).chunk(2, -1))
        )
        return self.projection(_join(F.scaled_dot_product_attention(query, key, value)).view_as(x))


class QueryAttention(nn.Module):
    """Attention of 48 learnt queries, repeated over the pixels by nearest neighbours, on the image."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.task_queries = nn.Parameter(torch.randn(1, 48, dim))
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to features [B, H, W, C]."""
        key, value = (_heads(part, self.heads) for part in self.key_value(x.flatten(1, 2)).chunk(2, -1))
        query = F.interpolate(_heads(self.query(self.task_queries), self.heads), key.shape[-2:])
        attended = F.scaled_dot_product_attention(query.expand_as(key), key, value)
        return self.projection(_join(attended).view_as(x))


class PatchEmbedding(nn.Module):
    """A convolution with a stride, and a norm over the channels."""

    def __init__(self, channels: int, dim: int, kernel: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, dim, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, C, H / stride, W / stride], rounded up."""
        return self.norm(self.projection(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """``x + 0.1 conv(relu(conv(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features [B, C, H, W]."""
        return x + 0.1 * self.conv2(F.relu(self.conv1(x)))


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, C] to [B, heads, T, C / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """[B, heads, T, C / heads] to [B, T, C]."""
    return x.transpose(1, 2).flatten(2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)
