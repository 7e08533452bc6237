"""Methods that aggregate the gradients of the tasks, by TorchJD, behind the protocol of a weighting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
except ImportError as error:
    raise ImportError(
        "art_optim.gradients.aggregation needs torchjd, which is not installed; run: pip install 'art_optim[torchjd]'"
    ) from error

from .memory import first_memory, memory, parts_of_memory, parts_that_remember, recall, seeded


@dataclass(frozen=True)
class JacobianAggregation(GradientWeighting):
    r"""Any aggregator of `TorchJD <https://torchjd.org>`_: UPGrad, MGDA, PCGrad, CAGrad, Nash-MTL, IMTL-G, ConFIG, ...

    .. math:: g = \mathcal{A}(J), \qquad J = \Big[ \frac{\partial L_t}{\partial \theta} \Big]_{t \text{ present}}

    where

    - :math:`\theta` are all n parameters (leaves of the graph) that the losses depend on, those of the tasks' heads
      included;
    - :math:`J` [tasks present, n] leaves out absent tasks: the others are aggregated as if these did not exist;
    - most aggregators are weighted sums, :math:`\mathcal{A}(J) = w^\top J`: these :math:`w` are the weights, scaled by
      ``normalize`` as those of any weighting. Some are not (``GradDrop``, ``ConFIG``, ``TrimmedMean``): there
      :math:`g` is what reaches the parameters, and the weights are 1.

    It is for ``TaskReweightedOptimizer(inner, tasks=..., weighting=JacobianAggregation(UPGrad()))``, which then clips,
    accumulates and scales gradients as ever.

    It costs one backward pass a task, the memory of K gradients and one more copy while these are put together, and the
    host waits for the device: to know which tasks are there, and in most aggregators.

    Where a row of :math:`J` is not finite (of a norm below 1e18), nothing is aggregated or remembered: all weights are
    1, so that the gradient shows it. Losses without a graph, as in validation, have weight 1 as well; all before
    ``normalize``.

    Args:
        aggregator: A ``torchjd.aggregation.Aggregator``. What it remembers from step to step becomes part of the task
            state; the object itself may be shared.
        parallel_chunk_size: How many tasks are differentiated at once by ``torch.vmap``; fewer take less memory. None
            is all; 1 is one after the other without ``vmap``, which does not work on every model (recurrent networks on
            CUDA, compiled functions, custom backward passes).
        seed: Of aggregators that draw random numbers (``PCGrad``, ``GradVac``, ``GradDrop``, ``Random``). Every step
            has a stream of its own, and the global generator is left alone: a run resumes exactly.
        normalize: See :class:`~art_optim.weighting.Weighting`.

    State:
        ``steps``, int64; ``weight`` [K] float32, the last weights where they are held between two weighings; for an
        aggregator that is a ``torchjd.Stateful``, what it remembers.

    Raises:
        TypeError: ``aggregator`` is no aggregator.
        ValueError: A hyperparameter is outside its range; ``normalize`` is not ``"published"`` and the aggregator has
            no weights; what it remembers depends on the number of parameters (``ExcessMTL``). Or, in a step, a task is
            absent and the aggregator remembers tasks by their rows (``NashMTL``, ``GradVac``, ``PCD``); a parameter is
            complex or has gradient hooks; or there are several processes.

    Note:
        - Gradients are aggregated as they come. The scale of a ``GradScaler`` comes after, too late to keep small
          float16 gradients from becoming 0: use bfloat16. With ``accumulation_steps`` each batch is aggregated by
          itself.
        - Sparse gradients (``Embedding(sparse=True)``) and sharded parameters cannot be aggregated.
        - The graph is kept while it is differentiated task by task; ``retain_graph`` has no effect. The aggregation
          is not differentiated: there are no second derivatives through it.
        - On several processes it is refused, for they would aggregate different Jacobians. With
          ``process_group=False`` each aggregates its own, and ``DistributedDataParallel`` averages what comes out: all
          processes step alike, but not as one process would, and an aggregator's memory is that of its process.
        - Weights of some aggregators can be negative; then ``normalize`` divides by what may be a small sum.
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
                "JacobianAggregation sees the gradients of one process, and would aggregate others on each; train on "
                "one, or average the aggregations with TaskReweightedOptimizer(..., process_group=False)"
            )
        if parts_that_remember(self.aggregator) and not present.all():
            raise ValueError(
                f"a task is absent, but {type(self.aggregator).__name__} remembers tasks by their rows; "
                "give the losses of all tasks, or choose an aggregator without memory, e.g. UPGrad()"
            )
        parameters = leaves(values)
        if any(parameter._backward_hooks or parameter.is_complex() for parameter in parameters):
            raise ValueError(
                "a parameter is complex, or has a gradient hook, which would act on the Jacobian and again on what is "
                "made of it; use real parameters, and hooks of the optimizer"
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
        if not (jacobian.norm(dim=1) < 1e18).all():  # whose square is a float32
            return jacobian, weights
        matrix = jacobian.float() if self.has_weights or jacobian.dtype.itemsize < 4 else jacobian
        remembers = bool(parts_that_remember(self.aggregator))
        if remembers:
            recall(self.aggregator, matrix, state)
        # CPU generators read 32 bits of a seed: the factor keeps the streams of small seeds apart.
        with seeded((self.seed * 1_000_003 + int(state["steps"])) % 2**63, jacobian.device):
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
    """The losses, whose gradients are the rows of a matrix."""

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
