"""Art: active reweighting for all-in-one training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .art_ablation import ArtAblation
from .base import Weighting
from .functional import Present, finite_logarithm, masked_softmax
from .registry import register
from .validation import check_history_share, check_positive, check_real


@register("art")
@dataclass(frozen=True)
class Art(Weighting):
    r"""Active reweighting of Wu et al., "Harmony in Diversity: Improving All-in-One Image Restoration via Multi-Task
    Collaboration" (ACM MM 2024).

    A task gets more weight while its loss is above its recent average, and while it is above the smallest it has had:

    .. math::

        s_t = \frac{L_t}{E_t}, \qquad
        r_t = 1 + \frac{\log (L_t / M_t)}{\max(1, -\log L_t)}, \qquad
        w_t = \operatorname{softmax}_t (s_t r_t / \tau)

    where

    - :math:`L_t` is the loss of task :math:`t` in this step;
    - :math:`E_t` is its smoothed loss before this step, afterwards :math:`\beta E_t + (1 - \beta) L_t` (Eq. 6);
    - :math:`M_t` is its smallest loss before this step, afterwards :math:`\min(M_t, L_t)`;
    - :math:`s_t` is the local convergence rate (Eq. 5; Eq. 4 with the previous loss in place of :math:`E_t`);
    - :math:`r_t` is the global correction weight, above 1 exactly when :math:`L_t > M_t`. For :math:`L_t \leq 1/e` it
      is the quotient of Eq. 7 after the logarithm, :math:`\log M_t / \log L_t`. That quotient diverges at
      :math:`L_t = 1` and is negative beyond, so above :math:`1/e` the denominator stays at 1: there :math:`r_t`
      depends on the ratio of the losses alone. Both agree at :math:`1/e`;
    - the priority :math:`s_t r_t` is clamped to [0, ``max_priority``];
    - the softmax (Eq. 8) is over the present tasks, so the weights sum to 1.

    A task's first loss initializes :math:`E_t` and :math:`M_t`, so the first weights are uniform. A loss that is not
    positive (see :class:`Weighting`) has the neutral priority 1 and leaves the state unchanged.

    Args:
        temperature: :math:`\tau`, at least 1e-6; the larger, the closer the weights are to uniform.
        decay: :math:`\beta` in [0, 1), the share of history in the smoothed loss.
        max_priority: The largest :math:`s_t r_t`, positive.
        normalize: See :class:`Weighting`.

    State:
        ``smoothed`` and ``minimum``, both [K] float32, NaN before a task's first loss.

    Raises:
        ValueError: A hyperparameter is outside its range.

    Note:
        Where the paper and the authors' code disagree:

        - the paper prints Eq. 7 as :math:`L/M` and calls it "log-transformed"; the code computes
          :math:`\log M / \log L`. The raw :math:`L/M` is the 14.77 dB row of Table 1;
        - Eq. 6 puts :math:`\beta` on the history, but the :math:`\beta` of 0.001 to 0.1 in the ablation is, in the
          code, the weight of the new loss; read literally, 0.001 would hardly differ from 0. So ``decay`` is
          1 minus the table's value;
        - the paper's best temperature is 3 (Table 5), the code's default 0.1 is nearly one-hot;
        - the code starts :math:`E` and :math:`M` at 0.1, see :meth:`reference`.

        The rows of Table 1 and other variants are :class:`ArtAblation`.

    Note:
        The minimum never forgets an outlier. After one lucky batch, or for a loss that must rise from its minimum (such
        as a KL term), :math:`r_t` stays above 1: among losses of 0.1, a single loss of 1e-6 raises the weight of its
        task from .5 to .84, for the rest of the run. A single large loss only lowers :math:`s_t`, until
        :math:`E_t` has forgotten it: its share decays by the factor ``decay`` a step.

    Example:
        >>> import torch
        >>> from art_optim import Art
        >>> art, present = Art(), torch.tensor([True, True])
        >>> state = art.init(num_tasks=2)
        >>> art(torch.tensor([0.4, 0.2]), present, state)
        tensor([0.5000, 0.5000])
        >>> art(torch.tensor([0.4, 0.1]), present, state)  # the second task improves, the first does not
        tensor([0.5540, 0.4460])
    """

    needs: ClassVar[str] = "positive losses"

    temperature: float = 3.0
    decay: float = 0.99
    max_priority: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "temperature", 1e-6)
        check_history_share(self, "decay")
        check_positive(self, "max_priority")

    @staticmethod
    def reference(temperature: float = 0.1) -> ArtAblation:
        """Return the authors' code: history and minimum start at 0.1, and losses outside (0, 1) are not guarded.

        It differs from that code in two points. The code stores the third task's smoothed loss under another name, so
        that the one it reads stays at 0.1: here every task's is updated. And losses that are not finite are kept out of
        the state.
        """
        return ArtAblation(temperature=temperature, initial=0.1, guarded=False)

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        unknown = torch.full((num_tasks,), math.nan, dtype=torch.float32, device=device)
        return {"smoothed": unknown, "minimum": unknown.clone()}

    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        log_loss, smoothed, minimum = losses.log(), state["smoothed"], state["minimum"]
        loss = torch.where(finite_logarithm(log_loss), losses, math.nan)
        updated = smoothed.lerp(loss, 1 - self.decay)
        incomparable = updated.isnan()  # a first loss, or one that is not usable

        rate = loss / smoothed  # NaN where incomparable, where the priority is 1
        excess = (minimum.log() - log_loss) / log_loss.clamp(max=-1)  # r - 1, exactly 0 at the minimum
        priority = torch.addcmul(rate, rate, excess).clamp(0, self.max_priority).nan_to_num(1.0)

        # fmin ignores NaN
        torch.where(incomparable, smoothed.fmin(loss), updated, out=smoothed)
        torch.fmin(minimum, loss, out=minimum)
        return masked_softmax(priority / self.temperature, present)
