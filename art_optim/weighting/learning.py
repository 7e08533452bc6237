"""What a weighting learns: one number a task, stepped by Adam on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def init_learned(name: str, start: float, num_tasks: int, device: torch.device | str | None) -> dict[str, Tensor]:
    """Return the state of a learned [K] tensor: itself under ``name``, its moments, and its number of steps."""
    state = {name: torch.full((num_tasks,), start, dtype=torch.float32, device=device)}
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        state[moment] = torch.zeros(num_tasks, dtype=torch.float32, device=device)
    return state


def adam_step(
    state: dict[str, Tensor], name: str, gradient: Tensor, moving: Tensor, lr: float, weight_decay: float = 0.0
) -> None:
    """Take one step of Adam, in place, for the tasks that are ``moving``; the others keep value, moments and count.

    It is ``torch.optim.Adam`` with its default betas and eps (and its coupled weight decay) where all tasks move. It
    is written out because torch's functional ``adam`` counts the steps of a tensor as a whole: there a task that was
    absent for a while would come back with the bias correction of the others, and its moments would have decayed.
    The gradients of tasks that are not moving may be anything.
    """
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    if weight_decay != 0:
        gradient = gradient + weight_decay * state[name]
    step = state["step"] + 1
    exp_avg = state["exp_avg"].lerp(gradient, 1 - beta1)
    exp_avg_sq = state["exp_avg_sq"].lerp(gradient.square(), 1 - beta2)
    descent = exp_avg / torch.expm1(step * math.log(beta1))  # by beta^step - 1, without its rounding
    second = exp_avg_sq / -torch.expm1(step * math.log(beta2))
    moved = state[name] + lr * descent / (second.sqrt() + eps)
    for key, value in ((name, moved), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("step", step)):
        torch.where(moving, value, state[key], out=state[key])
