"""FAMO: learned weights under which all losses decrease at the same rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, masked_softmax, number_of, positive, relative_weights
from .learning import adam_step, init_learned
from .registry import register
from .validation import check_per_task, check_real, in_order, one_a_task


@register("famo")
@dataclass(frozen=True)
class FAMO(Weighting):
    r"""FAMO of Liu et al., "FAMO: Fast Adaptive Multitask Optimization" (NeurIPS 2023): learn weights under which the
    logarithms of all losses decrease at the same rate.

    .. math::

        z = \operatorname{softmax}(\xi), \qquad
        D_t = L_t - b_t + \epsilon, \qquad
        w_t = \frac{z_t / D_t}{\sum_i z_i / D_i}

    and in the next step, whose losses show the effect of the weights,

    .. math::

        \delta_t = \log D_t^{\text{before}} - \log D_t, \qquad
        \xi \leftarrow \operatorname{Adam} \Big( \xi,\; z_t \big( \delta_t - \textstyle\sum_i z_i \delta_i \big) \Big)

    where

    - :math:`L_t` is the loss of task :math:`t` in this step, :math:`b_t` its lower bound, and
      :math:`\epsilon = 10^{-8}`;
    - :math:`\xi_t` is its logit, 0 at the start. It is updated before the weights of that next step are computed;
    - sums and softmax are over the present tasks, in the update over those that have had a loss before. The weights sum
      to 1.

    A loss whose distance from its bound is not positive has weight :math:`1/K`, the mean of the others, and leaves the
    state unchanged.

    Args:
        lr: The learning rate of Adam for :math:`\xi`, not negative. 0.025 is the authors'.
        weight_decay: The coupled weight decay of Adam for :math:`\xi`, :math:`\gamma` of the paper, not negative. 0.001
            for NYUv2, QM9 and CelebA, 0.01 for Cityscapes.
        min_losses: :math:`b_t`: one number for all tasks, a mapping from task name to number, or a sequence in the
            order of the tasks.
        normalize: See :class:`Weighting`.

    State:
        ``logits``, with Adam's ``exp_avg``, ``exp_avg_sq`` and ``step``; ``gap``, :math:`D_t` of a task's last loss, 0
        before its first; ``min_losses``. All [K] float32.

    Raises:
        TypeError: ``min_losses`` is neither a number, nor a mapping, nor a sequence.
        ValueError: A hyperparameter is outside its range, or ``min_losses`` are not one a task.

    Note:
        The authors' trainers measure the effect of a step by an extra forward pass on the same batch. Here, as in their
        toy problem, the losses of the next step measure it: this costs nothing, but :math:`\delta` contains the noise
        of another batch. A task that was absent is compared with its own last loss.

        The authors report :math:`z`, which weighs the logarithms of the losses, where :math:`w` weighs the losses. The
        look-alike is :class:`ScaleInvariant` with ``normalize="mean"``, which is FAMO with :math:`\xi = 0`.

    Example:
        >>> import torch
        >>> from art_optim import FAMO
        >>> weighting, present = FAMO(), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> weighting(torch.tensor([0.4, 0.2]), present, state)
        tensor([0.3333, 0.6667])
        >>> weighting(torch.tensor([0.4, 0.1]), present, state)  # inverse losses alone would give 0.2, 0.8
        tensor([0.2081, 0.7919])
    """

    needs: ClassVar[str] = "losses above `min_losses`"

    lr: float = 0.025
    weight_decay: float = 1e-3
    min_losses: float | Sequence[float] | Mapping[str, float] = field(default=0.0, hash=False)  # a mapping has no hash

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "lr", 0)
        check_real(self, "weight_decay", 0)
        if isinstance(self.min_losses, (int, float)):
            check_real(self, "min_losses")
        else:
            check_per_task(self, "min_losses")

    def for_tasks(self, tasks: Sequence[str]) -> FAMO:
        if isinstance(self.min_losses, (int, float)):
            return self
        return replace(self, min_losses=in_order("min_losses", self.min_losses, tasks))

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        if isinstance(self.min_losses, (int, float)):
            bounds: Sequence[float] = [self.min_losses] * num_tasks
        else:
            bounds = one_a_task("min_losses", self.min_losses, num_tasks)
        return {
            **init_learned("logits", 0.0, num_tasks, device),
            "gap": torch.zeros(num_tasks, dtype=torch.float32, device=device),
            "min_losses": torch.tensor(bounds, dtype=torch.float32, device=device),
        }

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        above = losses - state["min_losses"]
        usable = positive(above)
        gap = above + 1e-8

        improvement = state["gap"] / gap  # 0 before there are two losses
        judged = usable & positive(improvement)
        z = masked_softmax(state["logits"], judged)
        delta = torch.where(judged, improvement.log(), 0.0)
        relative = delta - (z * delta).sum()
        # Adam would make a full step of a rounding error
        relative = torch.where(relative.abs() > 1e-5 * delta.abs().amax(), relative, 0.0)
        adam_step(state, "logits", z * relative, judged, self.lr, self.weight_decay)
        torch.where(usable, gap, state["gap"], out=state["gap"])

        return relative_weights(state["logits"] - gap.log(), usable) / number_of(present, losses)
