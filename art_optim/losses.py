"""The losses of one step, one number a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(eq=False, slots=True)
class TaskLosses:
    """The losses of K tasks as one vector, with the number of samples behind each.

    :meth:`from_mapping` makes it of named losses, :func:`per_task_mean` of a batch that mixes the samples of many
    tasks; both leave it to the device which tasks are absent.

    Args:
        values: [K] floating point, usually with a graph; 0 for an absent task.
        counts: [K] how many samples the loss of each task averages, 0 for an absent task. Where the number is not
            known, 1. None is 1 for all: no task is absent, and the host knows it.
        tasks: The K names in order, or None where only the optimizer knows them.

    Attributes:
        given: The indices of the present tasks, where the host knows them although ``counts`` is given; else None.

    Raises:
        TypeError: ``values`` or ``counts`` is not a tensor.
        ValueError: Shapes, dtypes or devices do not fit together.
    """

    values: Tensor
    counts: Tensor | None = None
    tasks: tuple[str, ...] | None = None
    given: list[int] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.values, Tensor) and (self.counts is None or isinstance(self.counts, Tensor))):
            raise TypeError(
                f"values is a {type(self.values).__name__} and counts a {type(self.counts).__name__}; give tensors"
            )
        if self.values.ndim != 1 or not self.values.is_floating_point():
            raise ValueError(
                f"values is {self.values.dtype} of shape {tuple(self.values.shape)}; "
                "TaskLosses wants a floating-point vector, one number a task"
            )
        counts = self.counts
        if counts is not None and (counts.shape != self.values.shape or counts.device != self.values.device):
            raise ValueError(
                f"counts has shape {tuple(counts.shape)} on {counts.device} beside values of shape "
                f"{tuple(self.values.shape)} on {self.values.device}; give one count a task on the same device"
            )
        if self.tasks is None:
            return
        if not isinstance(self.tasks, tuple):
            self.tasks = tuple(self.tasks)
        if len(self.tasks) != self.values.shape[0]:
            raise ValueError(f"tasks has {len(self.tasks)} names for {len(self.values)} values; give one name a value")

    @property
    def present(self) -> Tensor | None:
        """[K] bool, the tasks that have a loss; None where that is all of them, and the host knows it."""
        return None if self.counts is None else self.counts > 0

    @property
    def trainable(self) -> bool:
        """Whether the values carry a graph, and gradients are enabled: not so in validation."""
        return self.values.requires_grad and torch.is_grad_enabled()

    @classmethod
    def from_mapping(cls, losses: Mapping[str, Tensor | None], tasks: tuple[str, ...]) -> TaskLosses:
        """Stack named losses in the order of ``tasks``; a missing name or None is an absent task.

        Losses of different dtypes are promoted to the widest; a loss of shape ``(1,)`` counts as a scalar, a DTensor
        as its full tensor.

        Raises:
            TypeError: A loss is not a tensor.
            ValueError: No loss is there, a name is unknown, a loss is not a floating-point scalar, or the losses are
                on different devices.

        Example:
            >>> import torch
            >>> losses = {"rain": torch.tensor(0.3), "noise": torch.tensor(0.1)}
            >>> TaskLosses.from_mapping(losses, ("rain", "haze", "noise")).values
            tensor([0.3000, 0.0000, 0.1000])
        """
        values: list[Any] = [*map(losses.get, tasks)]
        if len(losses) == len(tasks) and {*map(type, values)} == {Tensor} and len({loss.dtype for loss in values}) == 1:
            try:
                stacked = torch.stack(values)
            except RuntimeError:  # of several shapes, or on several devices
                pass
            else:
                if stacked.ndim == 1 and stacked.is_floating_point():
                    return cls(stacked, None, tasks)
        return cls._one_by_one(losses, tasks)

    @classmethod
    def _one_by_one(cls, losses: Mapping[str, Tensor | None], tasks: tuple[str, ...]) -> TaskLosses:
        """What :meth:`from_mapping` does where losses are absent, of several kinds, or wrong."""
        given = {task: _scalar(task, losses[task]) for task in tasks if losses.get(task) is not None}
        if len(given) != len(losses):
            unknown = losses.keys() - tasks
            if unknown:
                raise ValueError(
                    f"losses has {[name for name in losses if name in unknown]}, the tasks are {list(tasks)}; "
                    "declare every task of the run with TaskReweightedOptimizer(..., tasks=[...])"
                )
        if not given:
            raise ValueError(f"losses has no loss for any of the tasks {list(tasks)}; give at least one")
        first, like = next(iter(given.items()))
        device = like.device
        for task, loss in given.items():
            if loss.device != device:
                raise ValueError(
                    f"loss of task {task!r} is on {loss.device} and that of {first!r} on {device}; "
                    "move the task losses to one device"
                )
        if len(given) == len(tasks):
            return cls(torch.stack(list(given.values())), tasks=tasks)
        # Stacking scalars of the device says which tasks are there without a copy from the host.
        zero, one = like.new_zeros(()), like.new_ones(())
        values = torch.stack([given.get(task, zero) for task in tasks])
        made = cls(values, torch.stack([one if task in given else zero for task in tasks]), tasks)
        made.given = [index for index, task in enumerate(tasks) if task in given]
        return made


Losses: TypeAlias = Mapping[str, Tensor | None] | TaskLosses
"""The losses of one step, by the name of the task or as one vector."""


def per_task_mean(losses: Tensor, task_ids: Tensor, num_tasks: int) -> TaskLosses:
    r"""Average the per-sample losses of a mixed batch task by task.

    .. math:: L_t = \frac{1}{n_t} \sum_{i:\, \text{task}_i = t} \ell_i

    A fixed number of device operations, whatever the batch holds: nothing is read back to the host, and a task that
    happens to have no sample is absent. The gradient is that of the masked means. Low-precision losses are averaged in
    float32.

    Args:
        losses: [B] floating point, one loss a sample, with its graph.
        task_ids: [B] integer, the index of each sample's task in the order of the optimizer's tasks.
        num_tasks: K.

    Returns:
        A :class:`TaskLosses` of K values, which ``step`` accepts in place of a mapping.

    Raises:
        TypeError: ``losses`` or ``task_ids`` is not a tensor.
        ValueError: Shapes, dtypes or devices do not fit together.
        IndexError: A task id is not in [0, K). On an accelerator, where looking would wait for the device, this is the
            device's own assertion.

    Note:
        On CUDA the sums are atomic: their last bit may differ from run to run unless
        ``torch.use_deterministic_algorithms(True)`` is set.

    Example:
        >>> import torch
        >>> from art_optim import per_task_mean
        >>> per_task_mean(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 2]), num_tasks=3)
        TaskLosses(values=tensor([0.3000, 0.0000, 0.9000]), counts=tensor([2., 0., 1.]), tasks=None)
    """
    if not (isinstance(losses, Tensor) and isinstance(task_ids, Tensor)):
        raise TypeError(
            f"losses is a {type(losses).__name__} and task_ids a {type(task_ids).__name__}; "
            "give tensors with one entry a sample"
        )
    if losses.ndim != 1 or not losses.is_floating_point():
        raise ValueError(
            f"losses is {losses.dtype} of shape {tuple(losses.shape)}; per_task_mean wants one floating-point number a "
            "sample: reduce the other dimensions, e.g. with .flatten(1).mean(1)"
        )
    if task_ids.shape != losses.shape or task_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"task_ids is {task_ids.dtype} of shape {tuple(task_ids.shape)} beside {len(losses)} losses; "
            "give one int64 or int32 a sample"
        )
    if task_ids.device != losses.device:
        raise ValueError(f"task_ids is on {task_ids.device} and losses on {losses.device}; move them to one device")
    if losses.dtype in (torch.float16, torch.bfloat16):
        losses = losses.float()
    zeros = losses.new_zeros(num_tasks)
    sums = zeros.index_add(0, task_ids, losses)
    counts = zeros.index_add(0, task_ids, torch.ones_like(losses))
    return TaskLosses(sums / counts.clamp(min=1), counts)


def task_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of tasks in order, as plain strings.

    Raises:
        TypeError: They are not strings in an order.
        ValueError: There is none, or one stands twice.
    """
    ordered = None if isinstance(names, (str, Set)) or not isinstance(names, Iterable) else tuple(names)
    if ordered is None or not all(isinstance(name, str) for name in ordered):
        raise TypeError(f"tasks is {names!r}; give the names in order, e.g. tasks=['rain', 'haze']")
    if not ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"tasks is {list(ordered)}; give at least one name, and each name once")
    return tuple(str.__str__(name) for name in ordered)  # of an enumeration, the values


def _scalar(task: str, loss: Tensor | None) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"loss of task {task!r} is a {type(loss).__name__}; a task loss must be a tensor that carries its graph: "
            "pass it as the loss function returns it"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"loss of task {task!r} has shape {tuple(loss.shape)}; a task loss must be a scalar: "
            "reduce it, e.g. with .mean()"
        )
    if not loss.is_floating_point():
        raise ValueError(f"loss of task {task!r} is {loss.dtype}; a task loss must be floating point")
    if hasattr(loss, "full_tensor"):  # a DTensor
        loss = loss.full_tensor()
    return loss if loss.ndim == 0 else loss.reshape(())
