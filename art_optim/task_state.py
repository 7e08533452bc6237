"""What a weighting remembers, by the names of the tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from .compiled import CompiledWeighing
from .distributed import Processes
from .losses import Losses, TaskLosses, task_names
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
        processes: Those that train together; None is this one alone.
        compile: Whether the formula runs as one program: see :class:`~art_optim.compiled.CompiledWeighing`.
    """

    def __init__(
        self,
        weighting: Weighting,
        tasks: Sequence[str] | None,
        device: torch.device,
        processes: Processes | None = None,
        compile: bool = False,
    ) -> None:
        self.weighting = weighting
        self._rule = CompiledWeighing(weighting) if compile else weighting
        self.processes = processes or Processes(False)
        self.device = device
        self.tasks: tuple[str, ...] = ()
        self.tensors: dict[str, Tensor] = {}
        self.weights: Tensor | None = None
        self.skipped = 0
        self._repeated: list[Tensor] | None = None
        self._earlier: Iterator[Tensor] = iter(())
        if tasks is not None:
            self._declare(tasks)

    def gather(self, losses: Losses) -> TaskLosses:
        """Bring the losses of a step into the order of the tasks; nothing changes.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; or ``losses`` is something else, or of others.
        """
        if isinstance(losses, (dict, Mapping)):  # a look at an abstract class takes longer
            return TaskLosses.from_mapping(losses, self.tasks or (task_names(tuple(losses)) if losses else ()))
        if not isinstance(losses, TaskLosses):
            raise TypeError(
                f"losses is a {type(losses).__name__}; give a mapping from task name to loss, or a TaskLosses "
                "(e.g. of per_task_mean)"
            )
        if not self.tasks:
            if losses.tasks is None:
                raise ValueError("losses is a TaskLosses without names; declare the tasks with tasks=[...]")
            return TaskLosses(losses.values, losses.counts, task_names(losses.tasks))
        if losses.tasks is not None and losses.tasks != self.tasks:
            raise ValueError(f"losses is of the tasks {list(losses.tasks)}; give those of {list(self.tasks)}, in order")
        if len(losses.values) != len(self.tasks):
            raise ValueError(
                f"losses has {len(losses.values)} values for the {len(self.tasks)} tasks {list(self.tasks)}; "
                "give one value a task"
            )
        return losses

    def weigh(self, losses: TaskLosses, accumulation_steps: int = 1) -> tuple[Tensor, Tensor]:
        """Return what to differentiate [K], and the weights [K] float32 divided by ``accumulation_steps``.

        The state moves only if the losses are trainable: validation leaves it, and has no steps to divide by.
        """
        device = losses.values.device
        if _autocasts(device):
            with torch.autocast(device.type, enabled=False):  # a formula is in float32
                return self.weigh(losses, accumulation_steps)
        average = None
        if self.processes.several and torch.is_grad_enabled():
            losses, average = self._shared(losses), self.processes.average
        values, present, trainable = losses.values, losses.present, losses.trainable
        earlier = next(self._earlier, None) if trainable else None
        if earlier is not None:
            return self.weighting.repeat(values, present, self.tensors), earlier
        if not self.tasks:
            tensors = self.weighting.init(len(values), device)
        elif not trainable:
            tensors = {name: tensor.to(device, copy=True) for name, tensor in self.tensors.items()}
        elif device == self.device:
            tensors = self.tensors
        else:
            tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        values, weights = self._rule.objective(values, present, tensors, average)
        if trainable:
            weights = weights if accumulation_steps == 1 else weights / accumulation_steps
            if self._repeated is not None:
                self._repeated.append(weights)
            self.tasks = self.tasks or losses.tasks or ()
            self.tensors, self.weights, self.device = tensors, weights, device
        return values, weights

    @contextmanager
    def repeating(self, weights: list[Tensor]) -> Iterator[None]:
        """One evaluation of a closure: within it :meth:`weigh` returns ``weights`` in order, then adds to them."""
        self._repeated, self._earlier = weights, iter(tuple(weights))
        try:
            yield
        finally:
            self._repeated, self._earlier = None, iter(())

    def state_dict(self) -> dict[str, Any]:
        """Return copies: the names, the weighting with what is not its default, its tensors, the skipped steps."""
        return {
            "tasks": list(self.tasks),
            "weighting": _describe(self.weighting),
            "state": {name: tensor.clone() for name, tensor in self.tensors.items()},
            "skipped": self.skipped,
        }

    def check(self, state_dict: Mapping[str, Any]) -> None:
        """Raise if ``state_dict`` cannot be loaded; nothing changes.

        Raises:
            TypeError, ValueError: It is not of these tasks, or not of this weighting.
        """
        advice = "build the optimizer as it was, or delete 'task_reweighting' from the checkpoint to start afresh"
        missing = {"tasks", "weighting"} - state_dict.keys()
        if missing:
            raise ValueError(f"the checkpoint's task state has no {' and no '.join(sorted(missing))}; {advice}")
        if state_dict["weighting"] != _describe(self.weighting):
            raise ValueError(
                f"the checkpoint has weighting {state_dict['weighting']}, not {_describe(self.weighting)}; {advice}"
            )
        if not state_dict["tasks"]:
            return
        tasks = task_names(state_dict["tasks"])
        if self.tasks and tasks != self.tasks:
            raise ValueError(f"the checkpoint has tasks {list(tasks)}, not {list(self.tasks)}; {advice}")
        saved = _layout(state_dict.get("state", {}))
        wanted = _layout(self.weighting.init(len(tasks), "meta"))
        if wanted and not saved and not self.tasks:
            raise ValueError(
                f"the checkpoint came without the state of its tasks {list(tasks)}, as torch.distributed.checkpoint "
                "fills in only what is there: declare the tasks with tasks=[...] before loading"
            )
        if saved != wanted:
            raise ValueError(f"the checkpoint has task state {saved}, not {wanted}; {advice}")

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state over in place: tensors stay where they are.

        Raises:
            TypeError, ValueError: See :meth:`check`; nothing has changed then.
        """
        self.check(state_dict)
        if state_dict["tasks"] and not self.tasks:
            self._declare(state_dict["tasks"])
        self.reset()
        for name, tensor in state_dict.get("state", {}).items():
            self.tensors[name].copy_(tensor)
        self.skipped = state_dict.get("skipped", 0)

    def reset(self) -> None:
        """Start the state afresh, in place; the tasks stay."""
        fresh = self.weighting.init(len(self.tasks), self.device) if self.tasks else {}
        for name, tensor in fresh.items():
            self.tensors[name].copy_(tensor)
        self.weights = None
        self.skipped = 0

    def _shared(self, losses: TaskLosses) -> TaskLosses:
        if not losses.trainable:
            raise ValueError("losses carry no graph, but those of other processes may; give such, or use no_grad()")
        if not self.tasks:
            raise ValueError(
                "tasks are not declared on several processes, which may see different ones; give tasks=[...]"
            )
        self.processes.agree(self.tasks)
        return self.processes.share(losses)

    def _declare(self, tasks: Iterable[str]) -> None:
        names = task_names(tasks)
        with torch.inference_mode(False):  # a tensor that is made in it can never be trained with
            self.tensors = self.weighting.init(len(names), self.device)
        self.tasks = names


def _describe(weighting: Weighting) -> str:
    # Without the defaults, so that a hyperparameter which a later version adds does not lock out a checkpoint.
    compared = {field.name: field.default for field in fields(weighting) if field.compare}
    values = {name: getattr(weighting, name) for name in compared}
    changed = [f"{name}={value!r}" for name, value in values.items() if value != compared[name]]
    # Of a function, repr has the address.
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(weighting).__name__}({', '.join(changed)})")


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _autocasts(device: torch.device) -> bool:
    if not torch._C._is_any_autocast_enabled():  # which is cheaper than to ask for a device
        return False
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
