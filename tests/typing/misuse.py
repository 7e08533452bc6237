"""A program that is wrong in every line marked ``# error``, and nowhere else, for a type checker; it is not run."""

from __future__ import annotations

import torch
from torch import Tensor

from art_optim import Art, TaskReweightedOptimizer, per_task_mean

model = torch.nn.Linear(4, 2)
inner = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = TaskReweightedOptimizer(inner, tasks=["rain", "haze"])
scaler = torch.amp.GradScaler("cpu")
losses: dict[str, Tensor] = {}


def never_called() -> None:
    TaskReweightedOptimizer(model)  # error
    TaskReweightedOptimizer(inner, tasks=3)  # error
    TaskReweightedOptimizer(inner, weighting=3)  # error
    TaskReweightedOptimizer(inner, weighting=Art)  # error
    TaskReweightedOptimizer(inner, nonfinite="skpi")  # error
    TaskReweightedOptimizer(inner, accumulation_steps=2.5)  # error
    TaskReweightedOptimizer(inner, interval="epoch")  # error
    TaskReweightedOptimizer(inner, process_group=True)  # error
    TaskReweightedOptimizer(inner, compile="inductor")  # error
    TaskReweightedOptimizer(inner, acumulation_steps=2)  # error
    Art(normalize="max")  # error

    optimizer.stepp()  # error
    optimizer.combined(losses)  # error
    optimizer.step(3)  # error
    optimizer.step([*losses.values()])  # error
    optimizer.step({"rain": 0.3})  # error
    optimizer.step({0: losses["rain"]})  # error
    optimizer.step(torch.ones(2))  # error
    optimizer.step(lambda: "rain")  # error
    optimizer.step(losses, scaler=1)  # error
    optimizer.step(losses, scaler)  # error
    optimizer.step(scaler=scaler)  # error
    optimizer.step(losses, grad_scaler=scaler)  # error
    optimizer.backward(3)  # error
    optimizer.backward()  # error
    optimizer.backward(losses, scaler)  # error
    optimizer.combine([*losses.values()])  # error
    per_task_mean(losses["rain"], torch.ones(2))  # error
    per_task_mean(losses["rain"], torch.ones(2), 2, mask=torch.ones(2))  # error

    optimizer.accumulation_steps = "4"  # error
    optimizer.accumulation_step = 4  # error
    optimizer.nonfinite = "raise"  # error
    optimizer.tasks = ("rain",)  # error
    optimizer.weights = losses  # error
    optimizer.losses = losses  # error
    optimizer.skipped = 0  # error
    optimizer.weights["rain"].itm()  # error
    optimizer.param_groups["lr"] = 0.1  # error
