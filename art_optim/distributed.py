"""Averages the task losses over the processes that train together; no other module knows about ranks."""

from __future__ import annotations

import gc
from typing import Any, Literal, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from .losses import TaskLosses

ProcessGroupLike: TypeAlias = "dist.ProcessGroup | DeviceMesh | Literal[False] | None"


class Processes:
    r"""The processes that train one network together: their gradients are averaged, and so are their losses.

    Let process :math:`p` of :math:`P` have :math:`n_{p,t}` samples of task :math:`t`, with the mean loss
    :math:`L_{p,t}`:

    .. math::

        L_t = \frac{1}{N_t} \sum_p n_{p,t} L_{p,t}, \qquad N_t = \sum_p n_{p,t}, \qquad
        \frac1P \sum_p \nabla \Big( P \frac{n_{p,t}}{N_t} L_{p,t} \Big) = \nabla L_t

    All processes weigh :math:`L_t`, so they compute the same weights. Each differentiates its own share of it. The mean
    of these gradients, which ``DistributedDataParallel`` and ``fully_shard`` compute, is then the gradient of a single
    process that has all samples.

    Args:
        group: The process group whose gradients are averaged, or a ``DeviceMesh`` of one dimension. None is the default
            group, if it is initialized and has more than one process. False turns averaging off.

    Raises:
        TypeError: ``group`` is something else.
        ValueError: A mesh has more than one dimension, or this process is not in the group.
    """

    def __init__(self, group: ProcessGroupLike = None) -> None:
        if isinstance(group, DeviceMesh):
            if group.ndim != 1:
                raise ValueError(
                    f"process_group is a mesh of {group.ndim} dimensions {group.mesh_dim_names}; give that over which "
                    "gradients are averaged, e.g. mesh['data'], or mesh['replicate', 'shard']._flatten()"
                )
            group = group.get_group()
        self._agreed: tuple[str, ...] | None = None
        self.together = group is not False and dist.is_available()
        self.group = group or None
        if self.group is None:
            return
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"process_group is {group!r}; give a ProcessGroup or a DeviceMesh, or False to turn it off")
        if dist.get_rank(group) < 0:
            raise ValueError("this process is not in process_group; give the group that averages its gradients")

    def __deepcopy__(self, memo: Any) -> Processes:
        return self  # a group cannot be copied

    @property
    def several(self) -> bool:
        """Whether losses are averaged: there is more than one process."""
        return self.together and dist.is_initialized() and dist.get_world_size(self.group) > 1

    def agree(self, tasks: tuple[str, ...]) -> None:
        """Require that all processes have the same tasks in the same order; compared once for each ``tasks``.

        Raises:
            ValueError: The tasks differ.
            RuntimeError: See :meth:`share`.
        """
        if self._agreed == tasks:
            return
        _find_networks()
        _require_every_process()
        everywhere: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(everywhere, tasks, group=self.group)
        if any(each != tasks for each in everywhere):
            raise ValueError(
                f"the processes have the tasks {' and '.join(map(str, dict.fromkeys(everywhere)))}; "
                "declare the same on all, in the same order"
            )
        self._agreed = tasks

    def share(self, losses: TaskLosses) -> TaskLosses:
        """Return the mean losses over the samples of all processes; their gradient is that of this process's share.

        One all-reduce of 2K numbers on the device, in float64, since all processes must send the same dtype, whatever
        that of their losses. Losses of low precision become float32.

        Raises:
            RuntimeError: A network is trained within ``torch.distributed.algorithms.Join``.
        """
        if not torch.compiler.is_compiling():
            _require_every_process()
        counts = torch.ones_like(losses.values) if losses.counts is None else losses.counts
        counts = counts.double()
        sums = losses.values.detach() * counts
        both = torch.stack([sums, counts])
        dist.all_reduce(both, group=self.group)
        sums, number = both.unbind()
        divisor = torch.where(number > 0, number, 1.0)
        factor = dist.get_world_size(self.group) / divisor * counts
        dtype = torch.promote_types(losses.values.dtype, torch.float32)
        values = _Shared.apply(losses.values, (sums / divisor).to(dtype), factor.to(dtype))  # type: ignore[no-untyped-call]
        return TaskLosses(values, number.to(dtype), losses.tasks)

    def average(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        mean = tensor / dist.get_world_size(self.group)
        dist.all_reduce(mean, group=self.group)
        return mean


class _Shared(torch.autograd.Function):
    """Replaces the losses of this process by those of all; the gradient is scaled to this process's share."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shared: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        ctx.dtype = values.dtype
        return shared

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(ctx.dtype), None, None


# Each network of this process, with its last Join configuration that was found to let no process leave early.
_networks: WeakKeyDictionary[DistributedDataParallel, Any] = WeakKeyDictionary()


def refuse_join() -> NoReturn:
    """Raise the error for losses that are averaged within ``torch.distributed.algorithms.Join``."""
    raise RuntimeError(
        "Join lets a process that has no batches left drop out of the steps, but every process takes part in averaging "
        "the losses; give all processes the same number of steps, with a TaskLosses whose counts are 0 where no "
        "samples are left, or end the training on all with Join(..., throw_on_early_termination=True)"
    )


def _require_every_process() -> None:
    """Require that no network is trained within a Join that lets processes leave early: the all-reduce would fail.

    A network keeps its configuration after the end of a Join, so an enabled one counts only while the Join exists.
    """
    for network, allowed in _networks.items():
        configuration = network._join_config
        if configuration is allowed:
            continue
        leaves = configuration.enable and not configuration.throw_on_early_termination
        if leaves and any(network in join._joinables for join in _instances(Join)):
            refuse_join()
        _networks[network] = configuration


def _find_networks() -> None:
    for network in _instances(DistributedDataParallel):
        _networks.setdefault(network, None)


def _instances(kind: type) -> list[Any]:
    """Return all objects of a class. Their types are compared: ``isinstance`` may run the code of other objects."""
    return [instance for instance in gc.get_objects() if kind in type(instance).__mro__]
