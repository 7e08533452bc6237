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
    r"""The processes over which gradients are averaged, and their losses therefore as well.

    With :math:`n_{p,t}` samples of task :math:`t` on process :math:`p` of :math:`P`, and :math:`L_{p,t}` their mean
    loss,

    .. math::

        L_t = \frac{1}{N_t} \sum_p n_{p,t} L_{p,t}, \qquad N_t = \sum_p n_{p,t}, \qquad
        \frac1P \sum_p \nabla \Big( P \frac{n_{p,t}}{N_t} L_{p,t} \Big) = \nabla L_t

    :math:`L_t` is what all processes weigh, so that they find the same weights. Each differentiates its share of it, so
    that the mean of the gradients, as ``DistributedDataParallel`` and ``fully_shard`` take it, is the gradient of one
    process that has all samples.

    Args:
        group: The group whose gradients are averaged, or a mesh of one dimension; None for the default group, if there
            is one of more than one process; False where every process is to weigh for itself.

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
        """Whether there is more than one process."""
        return self.together and dist.is_initialized() and dist.get_world_size(self.group) > 1

    def agree(self, tasks: tuple[str, ...]) -> None:
        """Compare the names of the tasks over the processes, once: in another order, losses would be mixed.

        Raises:
            ValueError: They are not the same, in the same order.
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
        """Return the losses of the samples of all processes, with the graph of those of this one.

        One all-reduce of 2K numbers, on the device, in float64: all processes must send the same, whatever their losses
        are. Those of low precision become float32.
        """
        if not torch.compiler.is_compiling():
            _require_every_process()
        counts = torch.ones_like(losses.values) if losses.counts is None else losses.counts
        counts = counts.double()
        sums = torch.where(counts > 0, losses.values.detach() * counts, 0.0)
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
    """The losses of all processes, with the gradient of the share of this one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shared: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        ctx.dtype = values.dtype
        return shared

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(ctx.dtype), None, None


# The networks of this process, and of each the last configuration of Join under which every process takes every step.
_networks: WeakKeyDictionary[DistributedDataParallel, Any] = WeakKeyDictionary()


def refuse_join() -> NoReturn:
    """Raise: a process that Join has taken out of the training has no losses to average.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(
        "Join lets a process that has no batches left drop out of the steps, but every process takes part in averaging "
        "the losses; give all processes the same number of steps, with a TaskLosses whose counts are 0 where no "
        "samples are left, or end the training on all with Join(..., throw_on_early_termination=True)"
    )


def _require_every_process() -> None:
    """Refuse to average losses within a Join, before a process waits for another that has left.

    A network remembers its configuration after the context has been left; whether that is so is looked up once for each
    configuration.
    """
    for network, safe in _networks.items():
        join = network._join_config
        if join is safe:
            continue
        uneven = join.enable and not join.throw_on_early_termination
        if uneven and any(network in context._joinables for context in _instances(Join)):
            refuse_join()
        _networks[network] = join


def _find_networks() -> None:
    for network in _instances(DistributedDataParallel):
        _networks.setdefault(network, None)


def _instances(kind: type) -> list[Any]:
    """Return the objects of a class, without a look at the attributes of others, which may be proxies."""
    return [thing for thing in gc.get_objects() if kind in type(thing).__mro__]
