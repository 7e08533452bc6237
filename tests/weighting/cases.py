"""Weightings to state properties of: every registered one, and configurations that take another path.

A hyperparameter that is a tuple with one number a task follows its task when tasks are permuted or left out.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from art_optim import Art, Weighting
from art_optim.weighting import available, create

NUM_TASKS = 4
REQUIRED = {"fixed": {"weights": (0.5, 1.0, 2.0, 0.0)}}

CONFIGURATIONS = [
    Art.reference(3.0),
    Art(rate="raw", correction="none"),
    Art(rate="none", correction="ratio"),
    Art(rate="none", correction="log_ratio", decay=0.5),
    Art(rate="none", correction="none"),
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


def run(weighting: Weighting, losses: Tensor, present: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights [T, K] of T steps from a fresh state, and the state they end in."""
    state = weighting.init(losses.shape[1], losses.device)
    weights = [weighting(*step, state) for step in zip(losses, present, strict=True)]
    return torch.stack(weights), state
