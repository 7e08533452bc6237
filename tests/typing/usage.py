"""A program that uses the library as its documentation says: it type-checks, and runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

from art_optim import (
    Art,
    FixedWeighting,
    Losses,
    NonFinite,
    Normalization,
    TaskLosses,
    TaskReweightedOptimizer,
    TaskState,
    Weighting,
    per_task_mean,
)

model = torch.nn.Linear(4, 2)


def losses() -> dict[str, Tensor]:
    rain, haze = (model(torch.ones(8, 4)) - 0.5).square().mean(0)
    return {"rain": rain, "haze": haze}


def construct(nonfinite: NonFinite = "skip", normalize: Normalization = "mean") -> TaskReweightedOptimizer:
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    TaskReweightedOptimizer(inner)
    TaskReweightedOptimizer(inner, ["rain", "haze"], "equal", process_group=False)
    TaskReweightedOptimizer(inner, tasks=("rain", "haze"), weighting=FixedWeighting([0.3, 1.0], normalize=normalize))
    return TaskReweightedOptimizer(
        inner,
        ["rain", "haze"],
        Art(temperature=1.0),
        accumulation_steps=2,
        nonfinite=nonfinite,
        process_group=None,
        compile=False,
        interval=2,
    )


def give_losses(optimizer: TaskReweightedOptimizer) -> Tensor:
    optional: dict[str, Tensor | None] = {**losses(), "haze": None}
    given: list[Losses] = [
        losses(),
        optional,
        MappingProxyType(losses()),
        TaskLosses(torch.stack([*losses().values()]), torch.tensor([32, 0]), optimizer.tasks),
        per_task_mean(model(torch.ones(8, 4)).square().mean(1), torch.randint(0, 2, (8,)), num_tasks=2),
        per_task_mean(model(torch.ones(8, 4)).square(), mask=torch.ones(8, 2, dtype=torch.bool)),
    ]
    total = assert_type(optimizer.step(losses()), Tensor)
    for each in given:
        total += optimizer.step(each)
    assert_type(optimizer.step(losses(), closure=None), Tensor)
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)
    assert_type(optimizer.backward(losses(), retain_graph=True), Tensor)
    optimizer.step()
    assert_type(optimizer.combine(losses()), Tensor)
    optimizer.step(None)
    return total


def give_closures(optimizer: TaskReweightedOptimizer) -> None:
    def by_task() -> Mapping[str, Tensor]:
        optimizer.zero_grad()
        return losses()

    def as_total() -> Tensor:
        optimizer.zero_grad()
        return optimizer.backward(losses())

    def as_number() -> float:
        return as_total().item()

    assert_type(optimizer.step(by_task), Tensor | None)
    assert_type(optimizer.step(closure=by_task), Tensor | None)
    assert_type(optimizer.step(lambda: losses()), Tensor | None)
    assert_type(optimizer.step(as_total), Tensor | None)
    assert_type(optimizer.step(as_number), float | None)
    assert_type(optimizer.step(closure=as_number), float | None)
    assert_type(optimizer.step(losses(), by_task), Tensor)
    assert_type(optimizer.step(losses(), closure=as_number), Tensor)


def scale(optimizer: TaskReweightedOptimizer) -> None:
    scaler = torch.amp.GradScaler("cpu")
    assert_type(optimizer.step(losses(), scaler=scaler), Tensor)
    scaler.update()
    assert_type(optimizer.backward(losses(), scaler=scaler), Tensor)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def read_and_set(optimizer: TaskReweightedOptimizer) -> None:
    assert_type(optimizer.inner, torch.optim.Optimizer)
    assert_type(optimizer.task_state, TaskState)
    assert_type(optimizer.tasks, tuple[str, ...])
    assert_type(optimizer.weighting, Weighting)
    assert_type(optimizer.weights["rain"], Tensor)
    assert_type(optimizer.losses["rain"], Tensor)
    assert_type(optimizer.skipped, int)
    assert_type(optimizer.interval, int)
    assert_type(optimizer.accumulation_steps, int)
    assert_type(optimizer.nonfinite, NonFinite)
    assert_type(optimizer.param_groups, list[dict[str, Any]])
    assert_type(optimizer.defaults, dict[str, Any])
    assert_type(optimizer.state, defaultdict[Tensor, Any])
    optimizer.accumulation_steps = 1
    optimizer.nonfinite = "propagate"
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(()))]})


def hook_and_schedule(optimizer: TaskReweightedOptimizer) -> None:
    def clip(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    handle = optimizer.register_step_pre_hook(clip)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    optimizer.step(losses())
    scheduler.step()
    handle.remove()


def checkpoint(optimizer: TaskReweightedOptimizer) -> None:
    assert_type(optimizer.state_dict(), dict[str, Any])
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.task_state.load_state_dict(optimizer.task_state.state_dict())


def main() -> None:
    steps: list[Callable[[TaskReweightedOptimizer], object]] = [
        give_losses,
        give_closures,
        scale,
        hook_and_schedule,
        checkpoint,
        read_and_set,
    ]
    optimizer = construct()
    for step in steps:
        step(optimizer)
