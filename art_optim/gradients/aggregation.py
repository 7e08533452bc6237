"""The aggregators of TorchJD as weightings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..weighting.functional import Present
from ..weighting.validation import check_whole
from .base import Average, GradientWeighting
from .graph import leaves

try:
    from torchjd.aggregation import Aggregator, WeightedAggregator
    from torchjd.autojac import jac

    from .memory import first_memory, memory, parts_of_memory, parts_that_remember, recall, seeded
except ImportError as error:
    try:
        found = f"but torchjd {version('torchjd')} is installed ({error})"
    except PackageNotFoundError:
        found = "which is not installed"
    raise ImportError(
        f"art_optim.gradients.aggregation needs torchjd>=0.14, {found}; run: pip install --upgrade 'art_optim[torchjd]'"
    ) from error


@dataclass(frozen=True)
class JacobianAggregation(GradientWeighting):
    r"""Any aggregator of `TorchJD <https://torchjd.org>`_: UPGrad, MGDA, PCGrad, CAGrad, Nash-MTL, IMTL-G, ConFIG, ...

    .. math:: g = \mathcal{A}(J), \qquad J = \Big[ \frac{\partial L_t}{\partial \theta} \Big]_{t \text{ present}}

    where

    - :math:`\theta` are all n parameters (leaves of the graph) that the losses depend on, including those of the
      tasks' heads;
    - :math:`J` [tasks present, n] has no rows for absent tasks: the others are aggregated as if these did not exist;
    - most aggregators are weighted sums, :math:`\mathcal{A}(J) = w^\top J`, whose :math:`w` are the weights, scaled by
      ``normalize`` as those of any weighting. Others (``GradDrop``, ``ConFIG``, ``TrimmedMean``) are not: then
      :math:`g` is the gradient of the parameters, and the weights are 1.

    Use it as ``TaskReweightedOptimizer(inner, tasks=..., weighting=JacobianAggregation(UPGrad()))``; gradient clipping,
    accumulation and scaling work as with any weighting.

    It costs one backward pass a task and the memory of K gradients, twice while they are concatenated. The host waits
    for the device to know which tasks are present, and in most aggregators.

    Where a row of :math:`J` is not finite, or its norm is 1e18 or more (squares near the end of float32), nothing is
    aggregated or remembered: all weights are 1, so that the gradient shows it. Losses without a graph, as in
    validation, have weight 1 as well. Both are before ``normalize``.

    Args:
        aggregator: A ``torchjd.aggregation.Aggregator``. What it remembers from step to step becomes part of the task
            state; the object itself may be shared.
        parallel_chunk_size: The number of tasks that are differentiated at once by ``torch.vmap``; fewer take less
            memory. None is all; 1 differentiates them one after the other without ``vmap``, which does not work for
            every model (recurrent networks on CUDA, compiled functions, custom backward passes).
        seed: The seed of aggregators that draw random numbers (``PCGrad``, ``GradVac``, ``GradDrop``, ``Random``).
            Every step has its own stream, so that a run resumes exactly. TorchJD draws from the global generators,
            which are restored after the draws; an aggregator that does not draw does not touch them.
        normalize: See :class:`~art_optim.weighting.Weighting`.

    State:
        ``steps``, int64; ``weight`` [K] float32, the last weights where they are held between two weighings; for an
        aggregator that is a ``torchjd.Stateful``, what it remembers.

    Raises:
        TypeError: ``aggregator`` is not an aggregator.
        ValueError: A hyperparameter is outside its range; ``normalize`` is not ``"published"`` and the aggregator has
            no weights; or the size of what it remembers depends on the number of parameters (``ExcessMTL``). In a step:
            a task is absent and the aggregator remembers tasks by their rows (``NashMTL``, ``GradVac``, ``PCD``); a
            parameter is complex or has gradient hooks; or there are several processes.

    Note:
        - The scale of a ``GradScaler`` is applied after the aggregation, too late to keep small float16 gradients from
          becoming 0: use bfloat16. With ``accumulation_steps`` each batch is aggregated on its own.
        - Sparse gradients (``Embedding(sparse=True)``) and sharded parameters cannot be aggregated.
        - The graph is kept while it is differentiated task by task; ``retain_graph`` has no effect. The aggregation
          is not differentiated: there are no second derivatives through it.
        - Several processes are refused, since they would aggregate different Jacobians. With ``process_group=False``
          each aggregates its own, and ``DistributedDataParallel`` averages the results: all processes take the same
          step, but not that of one process with all samples, and each aggregator remembers what its process saw.
        - Some aggregators give negative weights, whose sum, by which ``normalize`` divides, can be small.
        - Where a closure is evaluated several times a step, the weights of the first evaluation are repeated; an
          aggregator without weights aggregates every time.

    Example:
        >>> import torch
        >>> from torchjd.aggregation import UPGrad
        >>> from art_optim import TaskReweightedOptimizer
        >>> from art_optim.gradients.aggregation import JacobianAggregation
        >>> x = torch.nn.Parameter(torch.zeros(3))
        >>> inner = torch.optim.SGD([x], lr=1.0)
        >>> optimizer = TaskReweightedOptimizer(inner, ["a", "b"], weighting=JacobianAggregation(UPGrad()))
        >>> optimizer.step({"a": x @ torch.tensor([-4.0, 1.0, 1.0]), "b": x @ torch.tensor([6.0, 1.0, 1.0])})
        tensor(0.)
        >>> x.detach()  # a descent for both, though their gradients conflict
        tensor([-0.2929, -1.9004, -1.9004])
        >>> optimizer.weights
        {'a': tensor(1.1109), 'b': tensor(0.7894)}
    """

    needs: ClassVar[str] = "gradients, torchjd"
    cost: ClassVar[str] = "K backward passes, K gradients"
    sharded: ClassVar[bool] = False

    aggregator: Any
    parallel_chunk_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.aggregator, Aggregator):
            raise TypeError(
                f"aggregator is {self.aggregator!r}; give one of torchjd.aggregation, constructed, e.g. UPGrad()"
            )
        if self.parallel_chunk_size is not None:
            check_whole(self, "parallel_chunk_size", 1)
        check_whole(self, "seed", 0)
        if self.normalize != "published" and not self.has_weights:
            raise ValueError(
                f"normalize is {self.normalize!r}, but {type(self.aggregator).__name__} has no weights to scale; "
                "choose published"
            )

    @property
    def has_weights(self) -> bool:
        return isinstance(self.aggregator, WeightedAggregator)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        first, wider = (first_memory(self.aggregator, torch.ones(num_tasks, num_tasks + n).tril()) for n in (0, 1))
        if any(first[name].shape != wider[name].shape for name in first):
            raise ValueError(
                f"{type(self.aggregator).__name__} remembers a number for every parameter, which is no task state; "
                "choose another aggregator"
            )
        state = {"steps": torch.zeros((), dtype=torch.int64), **first}
        return {
            **{name: torch.zeros_like(tensor, device=device) for name, tensor in state.items()},
            "weight": torch.ones(num_tasks, dtype=torch.float32, device=device),
        }

    def measure(
        self,
        values: Tensor,
        present: Present,
        state: dict[str, Tensor],
        average: Average | None = None,
        tasks: Sequence[int] | None = None,
    ) -> None:
        _, weights, _ = self._rows(values, _mask(values, present), state, average)
        state["weight"].copy_(weights if present is None else torch.where(present, weights, state["weight"]))

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        return state["weight"].clone()

    def objective(
        self, values: Tensor, present: Present, state: dict[str, Tensor], average: Average | None = None
    ) -> tuple[Tensor, Tensor]:
        present = _mask(values, present)
        if not (values.requires_grad and torch.is_grad_enabled() and present.any()):
            return values, self(values.float(), present, state)
        rows, weights, parameters = self._rows(values, present, state, average)
        values = _Rows.apply(values.detach(), present, rows, *parameters)  # type: ignore[no-untyped-call]
        return values, self.scale(weights, present)

    def repeat(self, values: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        if self.has_weights:
            return values
        return self.objective(values, present, {"steps": state["steps"] - 1})[0]  # with the draws of that evaluation

    def _rows(
        self, values: Tensor, present: Tensor, state: dict[str, Tensor], average: Average | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the rows [tasks present, n], the weights [K], and the parameters whose gradients the rows are."""
        if average is not None:
            raise ValueError(
                "JacobianAggregation would aggregate different gradients on each process; train on one, or average the "
                "aggregations with TaskReweightedOptimizer(..., process_group=False)"
            )
        if parts_that_remember(self.aggregator) and not present.all():
            raise ValueError(
                f"a task is absent, but {type(self.aggregator).__name__} remembers tasks by their rows; "
                "give the losses of all tasks, or choose an aggregator without memory, e.g. UPGrad()"
            )
        parameters = leaves(values)
        if any(parameter._backward_hooks or parameter.is_complex() for parameter in parameters):
            raise ValueError(
                "a parameter is complex, or has a gradient hook, which would act on the Jacobian and again on its "
                "aggregation; use real parameters, and hooks of the optimizer"
            )
        gradients = jac(values[present], parameters, retain_graph=True, parallel_chunk_size=self.parallel_chunk_size)
        jacobian = torch.cat([rows.flatten(1).to(values.device) for rows in gradients], 1)
        del gradients
        with torch.no_grad():
            jacobian, weights = self._aggregate(jacobian, state)
            weights = torch.zeros_like(values, dtype=torch.float32).masked_scatter(present, weights.float())
        return jacobian, weights, parameters

    def _aggregate(self, jacobian: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rows [tasks, n] and weights [tasks] whose product is the aggregation."""
        weights = jacobian.new_ones(len(jacobian))
        if not (jacobian.norm(dim=1) < 1e18).all():  # sums of squares stay finite in float32
            return jacobian, weights
        matrix = jacobian.float() if self.has_weights or jacobian.dtype.itemsize < 4 else jacobian
        remembers = bool(parts_that_remember(self.aggregator))
        if remembers:
            recall(self.aggregator, matrix, state)
        # The factor keeps a seed from drawing what the next seed draws one step before.
        seed = (self.seed * 1_000_003 + int(state["steps"])) % 2**63
        with seeded(self.aggregator, seed, jacobian.device):
            if self.has_weights:
                weights = self.aggregator.weighting(matrix)
            else:
                jacobian = (self.aggregator(matrix) / len(matrix)).to(jacobian.dtype).expand_as(jacobian)
        state["steps"] += 1
        if remembers:
            remembered = memory(self.aggregator)
            for name in parts_of_memory(state):
                state[name].copy_(remembered[name])
        return jacobian, weights


def _mask(values: Tensor, present: Present) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool) if present is None else present


class _Rows(torch.autograd.Function):
    """Returns the losses; their gradients are the rows of a matrix."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, present: Tensor, rows: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(present, rows)
        ctx.parameters = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        present, rows = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            total = weights[present].to(rows.dtype) @ rows
        parts = total.split([shape.numel() for shape, _, _ in ctx.parameters])
        gradients = (
            part.view(shape).to(device, dtype)
            for part, (shape, dtype, device) in zip(parts, ctx.parameters, strict=True)
        )
        return None, None, None, *gradients
