"""The protocol of a loss weighting: losses in, weights out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .functional import Present, nan_where_absent, number_of, sum_to_one, zero_where_absent
from .validation import check_choice

Normalization = Literal["published", "mean", "sum"]
"""The scales of the weights, explained in :class:`Weighting`."""


@dataclass(frozen=True)
class Weighting(ABC):
    r"""Computes the weights of :math:`K` tasks from their losses.

    A weighting is a value: a frozen dataclass of hyperparameters, with the ``repr``, equality and pickling of one. Its
    state is a dict of tensors that :meth:`init` creates and :meth:`weigh` updates in place. To add a method, subclass
    it, implement these two, and register it by name with :func:`~art_optim.weighting.register`. To use one, call it::

        state = weighting.init(num_tasks, device)
        weights = weighting(losses, present, state)  # present: [K] bool, or None where no task is absent

    The call gives absent tasks weight exactly 0, and scales the others according to ``normalize``. Published methods
    disagree on the scale of the weights, and the scale multiplies the learning rate of every optimizer that is not
    invariant to it; so compare methods under one setting:

    - ``"published"``: the scale of the paper;
    - ``"mean"``: the weights of the present tasks sum to 1, and the objective is a weighted mean;
    - ``"sum"``: they sum to the number of present tasks, and the objective is a reweighted sum.

    Throughout, a number counts as *finite* if its magnitude is at most :math:`2^{62} \approx 4.6 \cdot 10^{18}`, and as
    *positive* if it is from :math:`2^{-62}` to :math:`2^{62}`: squares, inverses and quotients of such losses are
    float32 numbers, so no loss makes a weight or the state NaN or infinite. A loss that is not finite never enters the
    state.

    Args:
        normalize: The scale of the weights, one of the above.

    Raises:
        ValueError: ``normalize`` is none of the above.

    Attributes:
        needs: What the method requires of the losses, for the table of methods.
        cost: What a step costs in addition to the weighing itself.
    """

    needs: ClassVar[str] = "losses"
    cost: ClassVar[str] = "none"

    normalize: Normalization = field(default="published", kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self, "normalize", Normalization)

    def for_tasks(self, tasks: Sequence[str]) -> Weighting:
        """Return the weighting with hyperparameters that are given by task name in the order of the tasks.

        It is called before :meth:`init`, once the names are known; the rest of a weighting never learns them.

        Raises:
            ValueError: A hyperparameter lacks a task, or names one that is unknown.
        """
        return self

    def init(self, num_tasks: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Return the state before the first step: tensors on ``device`` whose shapes and dtypes do not change."""
        return {}

    @abstractmethod
    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return the weights on their published scale, and update ``state`` in place.

        An implementation never waits for the device (no ``.item()``, no ``if tensor``). It leaves the state of absent
        tasks unchanged, keeps losses that are not finite out of the state, and gives the present tasks the weights that
        they would have if the absent ones did not exist.

        Args:
            losses: [K] float32, detached; NaN for absent tasks, so that a non-finite loss is excluded in the same way
                as an absent task.
            present: [K] bool, which tasks have a loss in this step, or None if all have. Reductions over the tasks of a
                step need it: see :func:`~.functional.masked_softmax` and :func:`~.functional.number_of`.
            state: The dict that :meth:`init` returned, as updated by the steps so far.

        Returns:
            [K] float32, finite, not negative, and sharing no memory with ``state``; the entries of absent tasks are
            ignored.
        """

    def __call__(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, 0 for absent tasks, scaled by ``normalize``; update ``state`` in place."""
        weights = self.weigh(nan_where_absent(losses.detach(), present), present, state)
        return weights if present is None and self.normalize == "published" else self.scale(weights, present)

    def scale(self, weights: Tensor, present: Present) -> Tensor:
        """Scale the weights according to ``normalize``, with 0 for absent tasks: [K], [K] bool -> [K]."""
        if self.normalize == "published":
            return zero_where_absent(weights, present)
        weights = sum_to_one(weights, present)
        return weights if self.normalize == "mean" else weights * number_of(present, weights)
