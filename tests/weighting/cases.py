"""Weightings to state properties of: every registered one, and configurations that take another path.

A hyperparameter that is a tuple with one number a task follows its task when tasks are permuted or left out, and so
does the random stream in which a task begins.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from art_optim import (
    FAMO,
    Art,
    ArtAblation,
    DynamicWeightAverage,
    ImprovableGap,
    RandomWeighting,
    ReLoBRaLo,
    SmoothTchebycheff,
    UncertaintyWeighting,
    Weighting,
)
from art_optim.weighting import available, create

NUM_TASKS = 4
REQUIRED = {"fixed": {"weights": (0.5, 1.0, 2.0, 0.0)}}

CONFIGURATIONS = [
    Art.reference(3.0),
    ArtAblation(rate="raw", correction="none"),
    ArtAblation(rate="none", correction="ratio"),
    ArtAblation(rate="none", correction="log_ratio", decay=0.5),
    ArtAblation(rate="none", correction="none"),
    DynamicWeightAverage(temperature=0.5, period=3),
    FAMO(weight_decay=0.0, min_losses=(0.0, -1.0, 5e-5, -0.1)),
    ImprovableGap(warmup=0, period=2),
    RandomWeighting("dirichlet", seed=7),
    ReLoBRaLo(alpha=0.5, beta=0.5, temperature=2.0, seed=3),
    SmoothTchebycheff(mu=0.5, warmup=1, period=2),
    UncertaintyWeighting("classification", initial_log_variance=-0.5),
    UncertaintyWeighting("revised"),
]


EVERY = [create(name, **REQUIRED.get(name, {})) for name in available()] + CONFIGURATIONS


def select(weighting: Weighting, tasks: list[int]) -> Weighting:
    """The same weighting for these tasks, in this order."""
    per_task = {
        field.name: tuple(value[task] for task in tasks)
        for field in fields(weighting)
        if isinstance(value := getattr(weighting, field.name), tuple) and len(value) == NUM_TASKS
    }
    return replace(weighting, **per_task)


def start(weighting: Weighting, tasks: list[int]) -> dict[str, Tensor]:
    """The fresh state of these tasks, in this order, each with the random stream that it has among all of them."""
    state = select(weighting, tasks).init(len(tasks))
    if "stream" in state:
        stream = weighting.init(NUM_TASKS)["stream"]
        state["stream"] = stream[tasks] if stream.ndim else stream
    return state


def run(
    weighting: Weighting, losses: Tensor, present: Tensor, state: dict[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights [T, K] of T steps, from a fresh state unless one is given, and the state they end in."""
    state = weighting.init(losses.shape[1], losses.device) if state is None else state
    weights = [weighting(*step, state) for step in zip(losses, present, strict=True)]
    return torch.stack(weights), state
