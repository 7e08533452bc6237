"""What a weighting remembers, by the names of the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import checkpoint
from .closure import Replay
from .compiled import CompiledWeighing
from .distributed import Processes
from .gradients import GradientWeighting
from .gradients.base import Average
from .interval import Interval
from .losses import Losses, TaskLosses, task_names
from .nonfinite import NonFinite
from .weighting import Weighting
from .weighting.functional import zero_where_absent


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
        interval: The number of calls from one weighing to the next: see :class:`~art_optim.interval.Interval`.

    Attributes:
        accumulation_steps: The number of batches that make one step, by which the weights are divided.
        nonfinite: What happens to a step whose gradients are not finite.
        losses: Those of the last training step, and which of them are there; None before the first.
        weights: Those of the last training step, [K] float32; None before the first.
        skipped: The number of steps that were skipped for gradients that are not finite.
        unstepped: Whether losses have been weighed since the last step of the inner optimizer.
        warned: Whether a step without a weighing has been warned of.
    """

    def __init__(
        self,
        weighting: Weighting,
        tasks: Sequence[str] | None,
        device: torch.device,
        processes: Processes | None = None,
        compile: bool = False,
        interval: int = 1,
    ) -> None:
        self.weighting = weighting
        self._rule = CompiledWeighing(weighting) if compile else weighting
        self._gradients = weighting if isinstance(weighting, GradientWeighting) else None
        self.interval_size = interval
        self.processes = processes or Processes(False)
        self.compile = compile
        self.accumulation_steps = 1
        self.nonfinite: NonFinite = "propagate"
        self.device = device
        self.tasks: tuple[str, ...] = ()
        self.tensors: dict[str, Tensor] = {}
        self.interval: Interval | None = None
        self.losses: tuple[Tensor, Tensor | None] | None = None
        self.weights: Tensor | None = None
        self.skipped = 0
        self.unstepped = self.warned = False
        self.replay: Replay | None = None
        if tasks is not None:
            self._declare(tasks)

    def gather(self, losses: Losses) -> TaskLosses:
        """Bring the losses of a step into the order of the tasks, 0 for an absent one; nothing changes.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; or ``losses`` is something else, or of others.
        """
        if not isinstance(losses, TaskLosses):
            return TaskLosses.from_mapping(losses, self.tasks)
        names = losses.tasks
        if not self.tasks:
            if names is None:
                raise ValueError("losses is a TaskLosses without names; declare the tasks with tasks=[...]")
            names = task_names(names)
        elif names is not None and names != self.tasks:
            raise ValueError(f"losses is of the tasks {list(names)}; give those of {list(self.tasks)}, in order")
        elif len(losses.values) != len(self.tasks):
            raise ValueError(
                f"losses has {len(losses.values)} values for the {len(self.tasks)} tasks {list(self.tasks)}; "
                "give one value a task"
            )
        if names == losses.tasks and (losses.counts is None or losses.own):
            return losses
        return TaskLosses(zero_where_absent(losses.values, losses.present), losses.counts, names)

    def weigh(self, losses: TaskLosses) -> tuple[Tensor, Tensor, Tensor]:
        """Return what to differentiate [K], its weights [K] float32, and the losses [K] without a graph.

        ``accumulation_steps`` divides the weights.
        The state moves only if the losses are trainable: validation leaves it, and has no steps to divide by.
        """
        device = losses.values.device
        if torch._C._is_any_autocast_enabled() and _autocasts(device):
            with torch.autocast(device.type, enabled=False):  # a formula is in float32
                return self.weigh(losses)
        average = None
        if self.processes.several and torch.is_grad_enabled():
            losses, average = self._shared(losses), self.processes.average
        values, present = losses.values, losses.present
        detached = values.detach()
        trainable = values.requires_grad and torch.is_grad_enabled()
        replay = self.replay if trainable else None
        earlier = None if replay is None else replay.next()
        if earlier is not None:
            if self._gradients is not None:
                values = self._gradients.repeat(values, present, self.tensors)
            return values, earlier, detached
        if trainable and self.tasks and device == self.device:
            tensors, interval = self.tensors, self.interval
        else:
            tensors, interval = self._elsewhere(losses.tasks or (), device, trainable)
        if interval is not None and trainable:
            if torch.compiler.is_compiling() or (values.is_cuda and torch.cuda.is_current_stream_capturing()):
                _refuse_to_count(interval)
            if self._gradients is not None or interval.position == interval.size:
                self._open(losses, tensors, interval, average)
            if losses.own or average is not None:
                weights = interval.add(detached, losses.counts, present)
            else:  # the caller may fill the tensors anew for the next call
                counts = None if losses.counts is None else losses.counts.clone()
                weights = interval.add(detached.clone(), counts, present)
        elif interval is not None:
            weights = interval.weights(present)
        elif self._gradients is not None:
            values, weights = self._gradients.objective(values, present, tensors, average)
        else:
            weights = self._rule(detached.float(), present, tensors)
        if trainable:
            weights = weights if self.accumulation_steps == 1 else weights / self.accumulation_steps
            if replay is not None:
                replay.record(weights)
            self.tasks = self.tasks or losses.tasks or ()
            self.tensors, self.interval, self.device = tensors, interval, device
            self.losses, self.weights, self.unstepped = (detached, present), weights, True
        return values, weights, detached

    def _elsewhere(
        self, tasks: tuple[str, ...], device: torch.device, trainable: bool
    ) -> tuple[dict[str, Tensor], Interval | None]:
        """Return the state on a device: a fresh one while the tasks are not known, copies where it must not move."""
        if not self.tasks:
            return self._fresh(tasks, device)
        tensors = {name: tensor.to(device, copy=not trainable) for name, tensor in self.tensors.items()}
        return tensors, None if self.interval is None else self.interval.to(device)

    def _open(
        self, losses: TaskLosses, tensors: dict[str, Tensor], interval: Interval, average: Average | None
    ) -> None:
        """Weigh if an interval is over; measure the gradients of tasks that have their first loss of an interval."""
        values, present = losses.values, losses.present
        measured: list[int] = []
        if self._gradients is not None:
            measured = interval.unmeasured(losses)
            if measured:
                self._gradients.measure(values, present, tensors, average, measured)
        if interval.position == interval.size:
            mean, present = interval.mean()
            interval.begin(self._rule(mean, present, tensors), present)
        elif len(measured) > 1 and interval.position == 0:  # with gradients at hand, the first call has its own weights
            interval.begin(self.weighting(values.float(), present, tensors), present)
        interval.measured.update(measured)

    def state_dict(self) -> dict[str, Any]:
        """Return the task state as plain data, with copies of its tensors: see :mod:`art_optim.checkpoint`."""
        return checkpoint.describe(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], place: str = "the task state") -> None:
        """Take the state over in place: tensors stay where they are.

        Raises:
            TypeError, ValueError: It does not fit: see :func:`art_optim.checkpoint.check`. Nothing has changed then.
        """
        self.load(checkpoint.check(state_dict, self, place))

    def load(self, checked: Mapping[str, Any]) -> None:
        """Take over what :func:`art_optim.checkpoint.check` returned."""
        if not checked["tasks"]:
            self.reset()
        elif not self.tasks:
            self._declare(checked["tasks"])
        for name, tensor in checked["state"].items():
            self.tensors[name].copy_(tensor)
        if checked["tasks"] and self.interval is not None:
            self.interval.load_state_dict(checked["interval"])
        self.losses = self.weights = None
        self.skipped, self.unstepped = checked["skipped"], False

    def layout(self, tasks: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what the state of these tasks looks like, on the ``meta`` device: the weighting's, the interval's."""
        if not tasks:
            return {}, {}
        device = torch.device("meta")
        tensors, interval = self._fresh(tasks, device)
        return tensors, {} if interval is None else interval.buffers()

    def reset(self) -> None:
        """Start the state afresh, in place; the tasks stay."""
        fresh = self.weighting.for_tasks(self.tasks).init(len(self.tasks), self.device) if self.tasks else {}
        for name, tensor in fresh.items():
            self.tensors[name].copy_(tensor)
        if self.interval is not None:
            self.interval.reset()
        self.losses = self.weights = None
        self.skipped, self.unstepped = 0, False

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
            self.tensors, self.interval = self._fresh(names, self.device)
        self.tasks = names

    def _fresh(self, tasks: tuple[str, ...], device: torch.device) -> tuple[dict[str, Tensor], Interval | None]:
        weighting, number = self.weighting.for_tasks(tasks), len(tasks)
        interval = None if self.interval_size == 1 else Interval(self.interval_size, weighting, number, device)
        return weighting.init(number, device), interval


def _refuse_to_count(interval: Interval) -> NoReturn:
    raise RuntimeError(
        f"a step with interval={interval.size} is being compiled or captured in a CUDA graph, where the host cannot "
        "count calls; leave the step out of it, or choose interval=1"
    )


def _autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
