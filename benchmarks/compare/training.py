"""One training: a problem, a method, a seed. It goes on where it was interrupted, to the same bits."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_optim import TaskLosses, TaskReweightedOptimizer
from benchmarks.loops import Loop, as_vectors
from benchmarks.methods import Method
from benchmarks.problems import Losses, Problem

SAVE_EVERY = 60.0  # seconds


@dataclass(frozen=True)
class Run:
    """What a training depends on, beside data and code.

    Attributes:
        problem: The text that names the problem.
        method: The text that names the method.
        seed: Of the network, the batches, and of a method that draws.
        steps: Its length.
        learning_rate: Of Adam; it falls to 0 along a cosine.
        device: Where the network is.
        weights: The weights of a control, None for other methods.
        task: The task that is trained alone, empty where all are.
    """

    problem: str
    method: str
    seed: int
    steps: int
    learning_rate: float
    device: str = "cpu"
    weights: tuple[float, ...] | None = None
    task: str = ""


@dataclass(frozen=True)
class Trained:
    """What came of it: ``losses`` (NaN where absent) and ``weights`` [steps, K] in each step."""

    network: nn.Module
    losses: Tensor
    weights: Tensor
    seconds: float


def train(problem: Problem, run: Run, checkpoint: Path) -> Trained:
    """Train, or go on from the checkpoint; a plain loop starts anew, since a scalarizer cannot be saved."""
    torch.manual_seed(run.seed)
    network = problem.network().to(run.device)
    inner = torch.optim.Adam(network.parameters(), lr=run.learning_rate)
    tasks = [run.task] if run.task else [*problem.tasks]
    optimizer = Method.parse(run.method).start(
        inner, tasks, run.seed, problem.epoch, problem.shared(network), run.weights
    )
    losses, weights = torch.full((run.steps, len(tasks)), torch.nan), torch.zeros(run.steps, len(tasks))
    start, seconds = 0, 0.0
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=run.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        start, seconds = saved["step"], saved["seconds"]
        losses[:start], weights[:start] = saved["losses"], saved["weights"]

    began = last_saved = time.perf_counter()
    for step in range(start, run.steps):
        for group in inner.param_groups:
            group["lr"] = run.learning_rate * (1 + math.cos(math.pi * step / run.steps)) / 2
        given = _of_task(problem.losses(network, run.seed, step), problem, run.task)
        if given is not None:
            losses[step], weights[step] = _step(optimizer, given)
        if isinstance(optimizer, Loop):
            optimizer.after(lambda step=step: problem.losses(network, run.seed, step))
        now = time.perf_counter()
        if now - last_saved > SAVE_EVERY and isinstance(optimizer, TaskReweightedOptimizer):
            last_saved = now
            states = {name: part.state_dict() for name, part in parts.items()}
            done = {"losses": losses[: step + 1].clone(), "weights": weights[: step + 1].clone(), "step": step + 1}
            torch.save({**states, **done, "seconds": seconds + now - began}, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)  # never half a checkpoint
    return Trained(network, losses, weights, seconds + time.perf_counter() - began)


def _step(optimizer: TaskReweightedOptimizer | Loop, losses: Losses) -> tuple[Tensor, Tensor]:
    """Step, and return the losses (NaN where absent) and their weights."""
    optimizer.zero_grad()
    weights = optimizer.step(losses)
    if isinstance(optimizer, TaskReweightedOptimizer):
        weights = torch.stack([*optimizer.weights.values()])
    values, counts = as_vectors(losses, optimizer.tasks)
    return values.detach().where(counts > 0, torch.nan), weights


def _of_task(losses: Losses, problem: Problem, task: str) -> Losses | None:
    """Return the loss of one task, None where it is absent; all losses where no task is named."""
    if not task:
        return losses
    if not isinstance(losses, TaskLosses):
        return {task: losses[task]} if losses.get(task) is not None else None
    values, counts = as_vectors(losses, tuple(problem.tasks))
    index = [*problem.tasks].index(task)
    return {task: values[index]} if counts[index] > 0 else None
