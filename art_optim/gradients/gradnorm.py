"""GradNorm: learned weights under which all tasks train at similar rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..weighting import register
from ..weighting.functional import Present, among, finite, number_of, positive, sum_to_one
from ..weighting.learning import adam_step, init_learned
from ..weighting.validation import check_real
from .base import Average, GradientWeighting
from .graph import leaves


@register("gradnorm")
@dataclass(frozen=True)
class GradNorm(GradientWeighting):
    r"""GradNorm of Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks" (ICML 2018): learn weights under which the gradients of all tasks have norms that fit their progress.

    .. math::

        \min_w \sum_t \Big| G_t - \operatorname{sg} \Big( r_t^\alpha \tfrac1K \sum_i G_i \Big) \Big|, \qquad
        G_t = w_t \lVert \nabla_\theta L_t \rVert_2, \qquad
        r_t = \frac{L_t / L_t^0}{\tfrac1K \sum_i L_i / L_i^0}

    where

    - :math:`\theta` are the parameters that the tasks share, or the last layer of these;
    - :math:`L_t^0` is the first loss of task :math:`t`, so :math:`r_t > 1` where it learns more slowly than the others;
    - sg stops the gradient: :math:`w_t` takes a step of Adam along
      :math:`\lVert \nabla_\theta L_t \rVert \operatorname{sign} (G_t - r_t^\alpha \tfrac1K \sum_i G_i)`. Then the
      weights are scaled back to their sum. Weights are those before the step; they sum to the number of tasks.

    Every step differentiates each loss by :math:`\theta`: K backward passes, as far down as :math:`\theta`, before the
    one that trains. Norms and weights stay on the device. A task whose loss is not positive (see
    :class:`~art_optim.weighting.Weighting`) keeps its weight and is excluded as if absent. A step in which the norm of
    a gradient is not finite updates nothing. Losses without a graph, as in validation, have the current weights.

    Args:
        alpha: How much faster a slow task shall train, not negative; 0 makes all norms equal. 1.5 is the paper's for
            NYUv2, 0.12 its for tasks that are alike.
        lr: The learning rate of Adam for :math:`w`, not negative. 0.025 is the paper's.
        shared: :math:`\theta`, tensors that require gradients, e.g. ``trunk[-1].parameters()``. None takes all that the
            losses depend on, heads included, at the full price of K backward passes. No part of equality, ``repr`` or
            checkpoints.
        normalize: See :class:`Weighting`.

    State:
        ``weight``, with Adam's ``exp_avg``, ``exp_avg_sq`` and ``step``; ``initial``, the first losses, 0 before
        there is one; ``norm``, the last norms measured, -1 where there is none or it was not finite. All [K] float32.

    Raises:
        TypeError: ``shared`` holds something else than tensors.
        ValueError: A hyperparameter is outside its range; ``shared`` is empty, or holds a tensor without gradient. Or,
            in a step, no loss depends on ``shared``; or on several processes it is None, or the graph static.

    Note:
        - The paper's :math:`\theta` is the last layer that all tasks share, to save time.
        - The paper does not say what happens where Adam makes a weight zero or negative. Here it is 0.001 before the
          scaling. LibMTL learns the logits of a softmax instead.
        - An outlier as the first loss of a task distorts its :math:`r_t` for the rest of the run. A later one moves
          :math:`w_t` by at most about 40 ``lr``, and the second moment of Adam then makes the steps of its task small.
        - With an ``interval``, the host must know which tasks to measure: it waits for the device where it is given a
          ``TaskLosses``, or there are several processes, until all tasks have been measured in the interval.
        - The graph is kept for the pass that trains; so a model under ``torch.compile`` needs
          ``torch._functorch.config.donated_buffer = False``, as for any ``retain_graph=True``.

    Example:
        >>> import torch
        >>> from art_optim import GradNorm, TaskReweightedOptimizer
        >>> shared = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> gradnorm = GradNorm(shared=[shared])
        >>> optimizer = TaskReweightedOptimizer(torch.optim.SGD([shared], lr=0.0), ["steep", "flat"], gradnorm)
        >>> for _ in range(2):
        ...     _ = optimizer.step({"steep": 10 * shared[0] ** 2, "flat": shared[1] ** 2})
        >>> optimizer.weights
        {'steep': tensor(0.9750), 'flat': tensor(1.0250)}
    """

    needs: ClassVar[str] = "positive losses, gradients"
    cost: ClassVar[str] = "K backward passes to `shared`"

    alpha: float = 1.5
    lr: float = 0.025
    shared: Iterable[Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "alpha", 0)
        check_real(self, "lr", 0)
        if self.shared is None:
            return
        shared = (self.shared,) if isinstance(self.shared, Tensor) else tuple(self.shared)
        for tensor in shared:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"shared has a {type(tensor).__name__}; give parameters, e.g. trunk[-1].parameters()")
            if not tensor.requires_grad:
                raise ValueError(f"shared has a tensor of shape {tuple(tensor.shape)} that requires no gradient")
        if not shared:
            raise ValueError("shared is empty; give parameters, e.g. trunk[-1].parameters(), or None for all")
        object.__setattr__(self, "shared", shared)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {
            **init_learned("weight", 1.0, num_tasks, device),
            "initial": torch.zeros(num_tasks, dtype=torch.float32, device=device),
            "norm": torch.full((num_tasks,), -1.0, dtype=torch.float32, device=device),
        }

    def measure(
        self,
        values: Tensor,
        present: Present,
        state: dict[str, Tensor],
        average: Average | None = None,
        tasks: Sequence[int] | None = None,
    ) -> None:
        shared = self._parameters(values, average)
        norms, depends = [*state["norm"].unbind()], False
        one_hot = torch.eye(len(values), dtype=values.dtype, device=values.device)
        for task in range(len(values)) if tasks is None else tasks:
            gradients = torch.autograd.grad(values, shared, one_hot[task], retain_graph=True, allow_unused=True)
            depends |= any(gradient is not None for gradient in gradients)
            flat = [
                _real(torch.zeros_like(tensor) if gradient is None else gradient).to(values.device, torch.float32)
                for tensor, gradient in zip(shared, gradients, strict=True)
            ]
            gradient = torch.cat(flat)
            norms[task] = (gradient if average is None else average(gradient)).norm()
        if average is None and not depends:  # of several processes one may lack it
            raise ValueError(
                "no loss depends on a tensor of shared; give parameters of the network (after fully_shard, or "
                "within a reentrant checkpoint, none is in the graph)"
            )
        measured = torch.stack(norms).nan_to_num(nan=math.inf, posinf=math.inf)
        state["norm"].copy_(measured if present is None else torch.where(present, measured, state["norm"]))

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        weights = sum_to_one(state["weight"], present) * number_of(present, losses)
        measured = among(present, state["norm"] >= 0)
        norms = torch.where(measured, state["norm"], 0.0)
        usable = positive(losses) & measured & finite(norms).all()
        initial = torch.where(usable & (state["initial"] == 0), losses, state["initial"])
        number = usable.sum().clamp(min=1)

        ratio = torch.where(usable, losses / initial, 0.0)
        rate = ratio / (ratio.sum() / number)
        scaled = torch.where(usable, state["weight"] * norms, 0.0)
        target = rate**self.alpha * scaled.sum() / number

        before = torch.where(usable, state["weight"], 0.0).sum()
        adam_step(state, "weight", norms * (scaled - target).sign(), usable, self.lr)
        moved = state["weight"].clamp(min=1e-3)
        after = torch.where(usable, moved, 0.0).sum()
        torch.where(usable, moved * before / after, state["weight"], out=state["weight"])
        state["initial"].copy_(initial)
        state["norm"].copy_(torch.where(finite(state["norm"]), state["norm"], -1.0))
        return weights

    def _parameters(self, values: Tensor, average: Average | None) -> tuple[Tensor, ...]:
        shared = tuple(self.shared or ())
        if average is None:
            return shared or leaves(values)
        if not shared or any(hasattr(tensor, "full_tensor") for tensor in shared):
            raise ValueError(
                f"shared is {'sharded' if shared else None} on several processes, which must differentiate by the same "
                "whole parameters; give such, e.g. shared=trunk[-1].parameters()"
            )
        leaves(values)  # refuses a static graph
        return shared


def _real(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()
