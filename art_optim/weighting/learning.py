"""Learned parameters of a weighting: one number a task, updated by Adam on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .functional import LARGEST


def init_learned(name: str, start: float, num_tasks: int, device: torch.device | str | None) -> dict[str, Tensor]:
    """Return the state of a learned [K] tensor: its value under ``name``, its moments and its number of steps."""
    state = {name: torch.full((num_tasks,), start, dtype=torch.float32, device=device)}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        state[moment] = torch.zeros(num_tasks, dtype=torch.float32, device=device)
    return state


def adam_step(
    state: dict[str, Tensor], name: str, gradient: Tensor, moving: Tensor, lr: float, weight_decay: float = 0.0
) -> None:
    """Take one step of Adam, in place, for the tasks in ``moving``; the others keep value, moments and step count.

    If all tasks move, it is ``torch.optim.Adam`` with its default betas and eps, and its coupled weight decay. Torch's
    functional ``adam`` counts the steps of a tensor as a whole, so a task that was absent for a while would have the
    bias correction of the others, and its moments would have decayed.

    A gradient is clamped to the finite numbers (see :func:`~.functional.finite`): the square of a larger one would make
    its second moment infinite for the rest of the run. The gradients of tasks that do not move are ignored.
    """
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    if weight_decay != 0:
        gradient = gradient + weight_decay * state[name]
    gradient = gradient.clamp(-LARGEST, LARGEST)
    step = state["step"] + 1
    exp_avg = state["exp_avg"].lerp(gradient, 1 - beta1)
    exp_avg_sq = state["exp_avg_sq"].lerp(gradient.square(), 1 - beta2)
    descent = exp_avg / torch.expm1(step * math.log(beta1))  # beta^step - 1, computed without cancellation
    second = exp_avg_sq / -torch.expm1(step * math.log(beta2))
    moved = state[name] + lr * descent / (second.sqrt() + eps)
    for key, value in ((name, moved), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("step", step)):
        torch.where(moving, value, state[key], out=state[key])
