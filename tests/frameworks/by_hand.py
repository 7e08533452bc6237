"""The loop that every framework is held against. It knows no framework and no wrapper, only the weighting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_optim import Art
from examples.problem import TASKS, Batch, losses


class Result(NamedTuple):
    parameters: list[Tensor]
    task_state: dict[str, Tensor]
    learning_rates: list[float]


def train(
    network: nn.Module,
    windows: Iterable[Sequence[Batch]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    *,
    divisor: Callable[[Sequence[Batch]], int] = len,
    clip: float | None = None,
) -> Result:
    """Each window of micro-batches makes one update, of the sum of their weighted losses over the divisor."""
    weighting, rates = Art(), []
    state = weighting.init(len(TASKS))
    for window in windows:
        optimizer.zero_grad()
        for micro_batch in window:
            values = torch.stack(list(losses(network, micro_batch).values()))
            weights = weighting(values.detach(), torch.ones(len(TASKS), dtype=torch.bool), state)
            ((weights * values).sum() / divisor(window)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return Result([parameter.detach().clone() for parameter in network.parameters()], state, rates)


def windows(batches: Sequence[Batch], accumulation: int) -> list[Sequence[Batch]]:
    """The batches in groups of ``accumulation``; the last may be smaller."""
    return [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]


class Recorded:
    """What a wrapped run did, to compare with :func:`train`: watch the optimizer, then ask for the result."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer, self.rates = network, optimizer, []
        optimizer.register_step_pre_hook(lambda o, *_: self.rates.append(o.param_groups[0]["lr"]))

    @property
    def result(self) -> Result:
        parameters = [parameter.detach().clone() for parameter in self.network.parameters()]
        return Result(parameters, dict(self.optimizer.task_state.state_dict()["state"]), self.rates)
