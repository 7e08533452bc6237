"""Random loss weighting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .base import Weighting
from .functional import Present, finite, masked_softmax
from .registry import register
from .stream import init_streams, next_uniforms
from .validation import check_choice, check_whole

Distribution = Literal["normal", "dirichlet"]


@register("rlw")
@dataclass(frozen=True)
class RandomWeighting(Weighting):
    r"""Random loss weighting of Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
    Learning" (TMLR 2022): new random weights in every step, a baseline for adaptive methods.

    .. math::

        w_t = \operatorname{softmax}_t (z_t), \qquad z_t \sim \mathcal{N}(0, 1)

    where

    - :math:`z_t` is drawn independently in every step;
    - the softmax is over the present tasks, so the weights sum to 1.

    ``"dirichlet"`` draws the weights uniformly from the simplex: :math:`w_t = e_t / \sum_i e_i` with
    :math:`e_t \sim \operatorname{Exp}(1)`.

    Args:
        distribution: ``"normal"`` or ``"dirichlet"``.
        seed: At least 0. The draws depend on nothing else: torch's generators are neither read nor advanced, and ranks
            with the same seed have the same weights.
        normalize: See :class:`Weighting`.

    State:
        ``stream``, [K] int64, the state of one random generator a task.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        Each task draws from its own stream, which :meth:`init` derives from the seed and the index of the task, and
        which advances when the task has a finite loss. So an absent task changes neither its own stream nor the draws
        of the others. Permuting the tasks together with their streams permutes the weights; declaring the tasks in
        another order, or fewer of them, assigns other streams to them, as another seed would. A loss that is not finite
        has the weight that was drawn.

        Published implementations draw from torch's global generator, on the host, and do not resume; those of Nash-MTL
        and IGB multiply by :math:`K`, which is ``normalize="sum"``. The look-alike is :class:`EqualWeighting` with
        ``normalize="mean"``, the expectation of these weights.

    Example:
        >>> import torch
        >>> from art_optim import RandomWeighting
        >>> weighting, present = RandomWeighting(seed=1), torch.tensor([True, True])
        >>> state = weighting.init(num_tasks=2)
        >>> losses = torch.tensor([0.4, 0.2])
        >>> weighting(losses, present, state)
        tensor([0.3700, 0.6300])
        >>> weighting(losses, present, state)
        tensor([0.7041, 0.2959])
    """

    needs: ClassVar[str] = "nothing"

    distribution: Distribution = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "distribution", Distribution)
        check_whole(self, "seed", 0)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {"stream": init_streams(self.seed, (num_tasks,), device)}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        u, v = next_uniforms(state["stream"], finite(losses))
        if self.distribution == "dirichlet":
            return masked_softmax((-u.log()).log(), present)
        return masked_softmax((-2 * u.log()).sqrt() * (2 * math.pi * v).cos(), present)  # Box and Muller
