"""What a weighting remembers, by the names of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .losses import TaskLosses
from .weighting import Weighting


class TaskState:
    """The tasks of a run and the state of their weighting: all that is mutable beside the inner optimizer.

    It has ``state_dict`` and ``load_state_dict``, so it is a ``Stateful`` of ``torch.distributed.checkpoint``.
    ``TaskReweightedOptimizer.state_dict`` holds it already; save it by itself where the optimizer's own is flattened
    (``StateDictOptions(flatten_optimizer_state_dict=True)``), which drops what is no parameter's.

    Args:
        weighting: The rule that turns losses into weights.
        tasks: Their names in order, or None to take those of the first losses or the first checkpoint.
        device: Where the state lives until the first losses say otherwise.
    """

    def __init__(self, weighting: Weighting, tasks: Sequence[str] | None, device: torch.device) -> None:
        self.weighting = weighting
        self.device = device
        self.tasks: tuple[str, ...] = ()
        self.tensors: dict[str, Tensor] = {}
        self.weights: Tensor | None = None
        if tasks is not None:
            self.declare(tasks)

    def declare(self, tasks: Sequence[str]) -> None:
        """Fix the names and order of the tasks, and start their state."""
        if isinstance(tasks, str) or not all(isinstance(task, str) for task in tasks):
            raise TypeError(f"tasks is {tasks!r}; give a list of names, e.g. tasks=['rain', 'haze']")
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks is {list(tasks)}; give at least one name, and each name once")
        self.tensors = self.weighting.init(len(tasks), self.device)
        self.tasks = tuple(tasks)

    def gather(self, losses: Mapping[str, Tensor | None] | TaskLosses) -> TaskLosses:
        """Bring the losses of a step into the order of the tasks; nothing changes."""
        if isinstance(losses, Mapping):
            return TaskLosses.from_mapping(losses, self.tasks or tuple(losses))
        if not isinstance(losses, TaskLosses):
            raise TypeError(
                f"losses is a {type(losses).__name__}; give a mapping from task name to loss, or a TaskLosses "
                "(e.g. of per_task_mean)"
            )
        if not self.tasks and losses.tasks is None:
            raise ValueError("losses is a TaskLosses without names; declare the tasks with tasks=[...]")
        if self.tasks and losses.tasks not in (None, self.tasks):
            raise ValueError(f"losses is of the tasks {list(losses.tasks)}; give those of {list(self.tasks)}, in order")
        if self.tasks and len(losses.values) != len(self.tasks):
            raise ValueError(
                f"losses has {len(losses.values)} values for the {len(self.tasks)} tasks {list(self.tasks)}; "
                "give one value a task"
            )
        return losses

    @torch.no_grad()
    def weigh(self, losses: TaskLosses) -> Tensor:
        """Return the weights [K] float32. The state moves only if the losses carry a graph: validation leaves it."""
        values = losses.values.detach().float()
        training = losses.values.requires_grad
        if training:
            if not self.tasks:
                self.declare(losses.tasks or ())
            if values.device != self.device:
                self.device = values.device
                self.tensors = {name: tensor.to(values.device) for name, tensor in self.tensors.items()}
            tensors = self.tensors
        elif self.tasks:
            tensors = {name: tensor.to(values.device, copy=True) for name, tensor in self.tensors.items()}
        else:
            tensors = self.weighting.init(len(values), values.device)
        with _autocast_off(values.device.type):
            weights = self.weighting(values, losses.present, tensors)
        if training:
            self.weights = weights
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Return copies: names, the weighting's ``repr``, and its tensors."""
        return {
            "tasks": list(self.tasks),
            "weighting": repr(self.weighting),
            "state": {name: tensor.clone() for name, tensor in self.tensors.items()},
        }

    def check(self, state_dict: Mapping[str, Any]) -> None:
        """Raise ValueError if ``state_dict`` is not of these tasks and this weighting; nothing changes."""
        advice = "build the optimizer as it was, or delete 'task_reweighting' from the checkpoint to start afresh"
        if state_dict["weighting"] != repr(self.weighting):
            raise ValueError(
                f"the checkpoint has weighting {state_dict['weighting']}, not {self.weighting!r}; {advice}"
            )
        saved = tuple(state_dict["tasks"])
        if saved and self.tasks and saved != self.tasks:
            raise ValueError(f"the checkpoint has tasks {list(saved)}, not {list(self.tasks)}; {advice}")
        shapes = {name: tensor.shape for name, tensor in state_dict.get("state", {}).items()}
        wanted = (
            {name: tensor.shape for name, tensor in self.weighting.init(len(saved), "meta").items()} if saved else {}
        )
        if shapes != wanted:
            raise ValueError(f"the checkpoint has task state {shapes}, not {wanted}; {advice}")

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state over in place, tensors stay where they are.

        Raises:
            ValueError: The checkpoint is of other tasks or another weighting; nothing has changed then.
        """
        self.check(state_dict)
        if not state_dict["tasks"]:
            return self.reset()
        if not self.tasks:
            self.declare(state_dict["tasks"])
        self._copy(state_dict.get("state", {}))

    def reset(self) -> None:
        """Start the state afresh, in place; the tasks stay."""
        if self.tasks:
            self._copy(self.weighting.init(len(self.tasks), self.device))

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
        self.weights = None


def _autocast_off(device_type: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
