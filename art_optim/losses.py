"""The losses of one step, one number a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard, overload

import torch
from torch import Tensor


@dataclass(eq=False, slots=True)
class TaskLosses:
    """The losses of K tasks as one vector, with the number of samples behind each.

    :meth:`from_mapping` makes it from named losses, :func:`per_task_mean` from a batch that mixes the samples of many
    tasks, or whose samples have several labels. Which tasks are absent is then known on the device.

    Args:
        values: [K] floating point, usually with a graph. The value of an absent task is never read: it may be NaN.
        counts: [K], the number of samples that each loss averages: 0 for an absent task, and 1 where the number is not
            known. None means 1 for every task; no task is absent then, and the host knows it.
        tasks: The K names in order, or None where only the optimizer knows them.

    Attributes:
        given: The indices of the present tasks, where the host knows them although ``counts`` is given; else None.
        own: Whether the tensors were made in this module, with the value 0 for absent tasks: no caller writes to them.

    Raises:
        TypeError: ``values`` or ``counts`` is not a tensor.
        ValueError: Shapes, dtypes or devices do not fit together.
    """

    values: Tensor
    counts: Tensor | None = None
    tasks: tuple[str, ...] | None = None
    given: list[int] | None = field(default=None, init=False, repr=False)
    own: bool = field(default=False, init=False, repr=False)

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
        """[K] bool, the tasks that have a loss; None where the host knows that all of them do."""
        return None if self.counts is None else self.counts > 0

    @property
    def trainable(self) -> bool:
        """Whether the values carry a graph and gradients are enabled, which is not so in validation."""
        return self.values.requires_grad and torch.is_grad_enabled()

    @classmethod
    def from_mapping(cls, losses: Mapping[str, Tensor | None], tasks: tuple[str, ...] = ()) -> TaskLosses:
        """Stack named losses in the order of ``tasks``; a missing name or None is an absent task.

        Losses of different dtypes are promoted to the widest. A loss of shape ``(1,)`` counts as a scalar, a DTensor
        as its full tensor. A loss of value 0 is a loss like any other, and its task is present.

        Args:
            losses: Any mapping. Its names come from ``keys()``, and each loss is read once, by ``[name]``.
            tasks: The K names in order; if empty, those of the mapping.

        Raises:
            TypeError: ``losses`` is not a mapping, a name is not a string, or a loss is not a tensor.
            ValueError: No loss is there, a name is unknown, a loss is not a floating-point scalar, or the losses are
                on different devices.

        Example:
            >>> import torch
            >>> losses = {"rain": torch.tensor(0.3), "noise": torch.tensor(0.1)}
            >>> TaskLosses.from_mapping(losses, ("rain", "haze", "noise")).values
            tensor([0.3000, 0.0000, 0.1000])
        """
        if type(losses) is not dict:
            losses = _read(losses)
        tasks = tasks or _names(losses)
        values: list[Any] = [*map(losses.get, tasks)]
        if len(losses) == len(tasks) and {*map(type, values)} == {Tensor} and len({loss.dtype for loss in values}) == 1:
            try:
                stacked = torch.stack(values)
            except RuntimeError:  # of several shapes, or on several devices
                pass
            else:
                if stacked.ndim == 1 and stacked.is_floating_point():
                    made = cls(stacked, None, tasks)
                    made.own = True
                    return made
        return cls._one_by_one(losses, tasks)

    @classmethod
    def _one_by_one(cls, losses: Mapping[str, Tensor | None], tasks: tuple[str, ...]) -> TaskLosses:
        """Do what :meth:`from_mapping` does where losses are absent, of several kinds, or wrong."""
        given = {task: _scalar(task, losses[task]) for task in tasks if losses.get(task) is not None}
        if len(given) != len(losses):
            unknown = [name for name in losses if name not in tasks]
            if unknown:
                _names(losses)  # refuses what is no string
                raise ValueError(
                    f"losses has {unknown}, the tasks are {list(tasks)}; declare every task of the run with "
                    "TaskReweightedOptimizer(..., tasks=[...]), and leave out what is no task's loss"
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
        made.own = True
        return made


Losses: TypeAlias = Mapping[str, Tensor | None] | TaskLosses
"""The losses of one step, by the name of the task or as one vector."""


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value is a mapping, which its class says by ``keys``, as for ``dict(value)``."""
    return hasattr(type(value), "keys")


def are_losses(value: object) -> TypeGuard[Losses]:
    """Whether a value is the losses of a step by task, and not a closure or a single loss."""
    return isinstance(value, TaskLosses) or is_mapping(value)


@overload
def per_task_mean(losses: Tensor, task_ids: Tensor, num_tasks: int) -> TaskLosses: ...


@overload
def per_task_mean(losses: Tensor, *, mask: Tensor | None = None) -> TaskLosses: ...


def per_task_mean(
    losses: Tensor,
    task_ids: Tensor | None = None,
    num_tasks: int | None = None,
    *,
    mask: Tensor | None = None,
) -> TaskLosses:
    r"""Average the losses of a batch task by task, where each sample belongs to one task or has labels for several.

    .. math::

        L_t = \frac{1}{n_t} \sum_{i:\, \text{task}_i = t} \ell_i
        \qquad \text{or} \qquad
        L_t = \frac{1}{n_t} \sum_{i:\, \text{mask}_{it}} \ell_{it}

    with :math:`n_t` the number of terms of the sum.

    - **A mixed batch**: ``per_task_mean(losses, task_ids, num_tasks)`` with losses [B], one a sample.
    - **A label matrix**: ``per_task_mean(losses, mask=mask)`` with losses [B, K], one a sample and task, where some
      labels are missing.

    The number of device operations does not depend on the batch, and nothing is read back to the host. A task without
    a sample in the batch is absent. The gradient is that of the means, exactly 0 for the losses outside the mask.
    Low-precision losses are averaged in float32.

    Args:
        losses: [B] or [B, K] floating point, with their graph.
        task_ids: [B] integer, the index of each sample's task in the order of the optimizer's tasks.
        num_tasks: K.
        mask: [B, K] bool, True where there is a label. The losses elsewhere are never read. If None, NaN marks the
            loss of a missing label.

    Returns:
        A :class:`TaskLosses` of K values, which ``step`` accepts in place of a mapping.

    Raises:
        TypeError: An argument is missing, or is not a tensor.
        ValueError: Shapes, dtypes or devices do not fit together; or ``mask`` is given with ``task_ids``.
        IndexError: A task id is not in [0, K). On an accelerator, where looking would wait for the device, this is the
            device's own assertion.

    Note:
        - Fill missing labels before the loss is computed, and give the mask, as below. A loss computed from a NaN label
          has no share in the total, but its derivative, such as :math:`2 (x - \text{NaN})`, is NaN, and so is the
          gradient of the network: :math:`0 \cdot \text{NaN} = \text{NaN}`.
        - With a mask, a NaN that the network computes shows in the loss of its task.
        - On CUDA the sums over ``task_ids`` are atomic: their last bit may differ from run to run unless
          ``torch.use_deterministic_algorithms(True)`` is set.

    Example:
        >>> import torch
        >>> from art_optim import per_task_mean
        >>> per_task_mean(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 2]), num_tasks=3)
        TaskLosses(values=tensor([0.3000, 0.0000, 0.9000]), counts=tensor([2., 0., 1.]), tasks=None)
        >>> labels = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
        >>> losses = torch.nn.functional.mse_loss(torch.zeros(2, 2), labels.nan_to_num(), reduction="none")
        >>> per_task_mean(losses, mask=~labels.isnan())
        TaskLosses(values=tensor([0.5000, 0.0000]), counts=tensor([2., 0.]), tasks=None)
    """
    if task_ids is None and num_tasks is None:
        return _mean_of_columns(losses, mask)
    if mask is not None:
        raise ValueError(
            "mask is given with task_ids or num_tasks; give either: mask alone for losses [B, K], those two for [B]"
        )
    if not (isinstance(losses, Tensor) and isinstance(task_ids, Tensor)):
        raise TypeError(
            f"losses is a {type(losses).__name__} and task_ids a {type(task_ids).__name__}; "
            "give tensors with one entry a sample"
        )
    if num_tasks is None:
        raise TypeError("num_tasks is None; give the number of tasks, e.g. len(optimizer.tasks)")
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
    losses = _single_at_least(losses)
    zeros = losses.new_zeros(num_tasks)
    sums = zeros.index_add(0, task_ids, losses)
    counts = zeros.index_add(0, task_ids, torch.ones_like(losses))
    return _means(sums, counts)


def _mean_of_columns(losses: Tensor, mask: Tensor | None) -> TaskLosses:
    if not (isinstance(losses, Tensor) and (mask is None or isinstance(mask, Tensor))):
        raise TypeError(f"losses is a {type(losses).__name__} and mask a {type(mask).__name__}; give tensors")
    if losses.ndim != 2 or not losses.is_floating_point():
        raise ValueError(
            f"losses is {losses.dtype} of shape {tuple(losses.shape)}; without task_ids and num_tasks, per_task_mean "
            "wants a floating-point matrix, one number a sample and task: give these two where a sample has one task, "
            "or reduce the other dimensions, e.g. with .flatten(2).mean(2)"
        )
    if mask is not None and (mask.shape != losses.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)} beside losses of shape {tuple(losses.shape)}; "
            "give one bool a loss, e.g. mask.bool() or ~labels.isnan()"
        )
    if mask is not None and mask.device != losses.device:
        raise ValueError(f"mask is on {mask.device} and losses on {losses.device}; move them to one device")
    losses = _single_at_least(losses)
    labelled = ~losses.isnan() if mask is None else mask
    sums = torch.where(labelled, losses, 0.0).sum(0)
    counts = labelled.sum(0, dtype=losses.dtype)
    return _means(sums, counts)


def _means(sums: Tensor, counts: Tensor) -> TaskLosses:
    means = TaskLosses(sums / counts.clamp(min=1), counts)
    means.own = True
    return means


def _single_at_least(losses: Tensor) -> Tensor:
    return losses.float() if losses.dtype.itemsize < 4 else losses


def task_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of tasks in order, as plain strings.

    Raises:
        TypeError: They are not strings, or have no order.
        ValueError: There is none, or one stands twice.
    """
    ordered = None if isinstance(names, (str, Set)) or not isinstance(names, Iterable) else tuple(names)
    if ordered is None or not all(isinstance(name, str) for name in ordered):
        raise TypeError(f"tasks is {names!r}; give the names in order, as strings, e.g. tasks=['rain', 'haze']")
    if not ordered or len(set(ordered)) != len(ordered):
        raise ValueError(f"tasks is {list(ordered)}; give at least one name, and each name once")
    return tuple(str.__str__(name) for name in ordered)  # of an enumeration, the values


def _read(losses: object) -> dict[Any, Any]:
    """Return a mapping as a dict, asking nothing of it but ``keys()`` and ``[name]``."""
    if is_mapping(losses):
        return {name: losses[name] for name in losses.keys()}  # noqa: SIM118
    if isinstance(losses, Tensor) and losses.ndim == 1:
        example = "TaskLosses(losses), in the order of the tasks"
    elif isinstance(losses, (list, tuple)):
        pairs = all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in losses)
        example = "dict(losses)" if pairs and losses else "dict(zip(optimizer.tasks, losses))"
    else:
        example = "{'rain': rain_loss, 'haze': haze_loss}"
    raise TypeError(
        f"losses is a {type(losses).__name__}; give a mapping from task name to loss or a TaskLosses, e.g. {example}"
    )


def _names(losses: Mapping[Any, Any]) -> tuple[str, ...]:
    for name in losses:
        if not isinstance(name, str):
            raise TypeError(
                f"losses has the name {name!r}, which is not a string; give strings, e.g. "
                "{str(name): loss for name, loss in losses.items()}"
            )
    return task_names(losses) if losses else ()


def _scalar(task: str, loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        if is_mapping(loss):
            advice = "losses do not nest: give each a name of its own, or their sum"
        elif isinstance(loss, (list, tuple)):
            advice = "reduce it to one, e.g. torch.stack(losses).mean()"
        else:
            advice = "pass it as the loss function returns it, or None (or leave the name out) where the task is absent"
        raise TypeError(
            f"loss of task {task!r} is a {type(loss).__name__}; "
            f"a task loss must be a tensor that carries its graph: {advice}"
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
    scalar: Tensor = loss.reshape(())
    return scalar
