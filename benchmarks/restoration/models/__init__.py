"""The paper's restoration networks, by name and size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from .airnet import AirNet
from .global_srresnet import GlobalSRResNet
from .promptir import PromptIR
from .srresnet import SRResNet
from .transweather import TransWeather
from .uformer import Uformer

SCALES = ("tiny", "small", "paper")


def _promptir(unused: bool) -> dict[str, Callable[[], nn.Module]]:
    small = {"width": 24, "blocks": (1, 2, 2, 2), "refinement": 1, "prompts": ((32, 64), (64, 32), (160, 16))}
    tiny = {"width": 8, "blocks": (1, 1, 1, 1), "refinement": 1, "prompts": ((8, 16), (16, 8), (40, 4))}
    return {
        "tiny": partial(PromptIR, **tiny, unused=unused),
        "small": partial(PromptIR, **small, unused=unused),
        "paper": partial(PromptIR, unused=unused),
    }


def _transweather(unused: bool) -> dict[str, Callable[[], nn.Module]]:
    shallow = {"depths": (1, 1, 1, 1), "decoder_depth": 1}
    return {
        "tiny": partial(TransWeather, dims=(8, 16, 40, 64), **shallow, unused=unused),
        "small": partial(TransWeather, dims=(32, 64, 160, 256), **shallow, unused=unused),
        "paper": partial(TransWeather, unused=unused),
    }


_NETWORKS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "airnet": {
        "tiny": partial(AirNet, width=16, groups=1, blocks=2, queue=64),
        "small": partial(AirNet, width=32, groups=3, blocks=3),
        "paper": AirNet,
    },
    "global-srresnet": {
        "tiny": partial(GlobalSRResNet, width=16, blocks=2),
        "small": partial(GlobalSRResNet, width=32, blocks=6),
        "paper": partial(GlobalSRResNet, width=64, blocks=16),
    },
    "promptir": _promptir(unused=True),
    "promptir-mioir": _promptir(unused=False),
    "srresnet": {
        "tiny": partial(SRResNet, width=16, blocks=2),
        "small": partial(SRResNet, width=32, blocks=6),
        "paper": partial(SRResNet, width=64, blocks=16),
    },
    "transweather": _transweather(unused=True),
    "transweather-art": _transweather(unused=False),
    "uformer-b": {
        "tiny": partial(Uformer, dim=8, depths=(1, 2, 1)),
        "small": partial(Uformer, dim=16, depths=(1, 1, 1, 1, 1)),
        "paper": partial(Uformer, dim=32, depths=(1, 2, 8, 8, 2)),
    },
    "uformer-t": {
        "tiny": partial(Uformer, dim=8, depths=(1, 1, 1)),
        "small": partial(Uformer, dim=8, depths=(1, 1, 1, 1, 1)),
        "paper": partial(Uformer, dim=16, depths=(2, 2, 2, 2, 2)),
    },
}


def create(name: str, scale: str = "paper") -> nn.Module:
    """Construct a restoration network by name, initialised as its official code does.

    Each takes images [B, 3, H, W] in 0..1, of any size, and returns the restored images in the same shape and range
    (not clipped).

    Args:
        name: One of :func:`available`.
        scale: ``"paper"`` for the official size, ``"small"`` for a tenth to a quarter of its cost, ``"tiny"`` for
            tests.

    Raises:
        ValueError: The name or the scale is not known.

    Example:
        >>> from benchmarks.restoration import models
        >>> sum(p.numel() for p in models.create("srresnet").parameters())
        1222147
    """
    if name not in _NETWORKS:
        raise ValueError(f"model {name!r} is not known; choose one of {', '.join(available())}")
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not known; choose one of {', '.join(SCALES)}")
    return _NETWORKS[name][scale]()


def available() -> tuple[str, ...]:
    """Return the names of the networks, sorted.

    Example:
        >>> from benchmarks.restoration import models
        >>> "srresnet" in models.available()
        True
    """
    return tuple(sorted(_NETWORKS))
