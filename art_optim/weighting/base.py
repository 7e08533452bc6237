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
    r"""A rule that turns the losses of :math:`K` tasks into :math:`K` weights.

    A weighting is a value: a frozen dataclass of hyperparameters, so that ``repr``, equality, pickling and sweeps
    come free. Its state between steps is a dict of tensors that :meth:`init` makes and :meth:`weigh` advances in
    place. To add a method, subclass it, write these two, and register it by name with
    :func:`~art_optim.weighting.register`; to use one, call it::

        state = weighting.init(num_tasks, device)
        weights = weighting(losses, present, state)  # present: [K] bool, or None where no task is absent

    Calling gives an absent task weight exactly 0 and then scales the others as ``normalize`` says. Published methods
    disagree on the scale, and the scale multiplies the learning rate of every optimizer that is not invariant to it,
    so compare methods under one setting:

    - ``"published"``: as the paper has it;
    - ``"mean"``: the weights of the present tasks sum to 1, the objective is a weighted mean;
    - ``"sum"``: they sum to the number of present tasks, the objective is a reweighted sum.

    Args:
        normalize: The scale of the weights, one of the above.

    Raises:
        ValueError: ``normalize`` is none of the above.

    Attributes:
        needs: What a method needs to have a meaning, for the table of methods.
        cost: What a step costs beside the weighing itself.
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
        """Return the state before the first step: tensors of fixed shapes on ``device``, no Python numbers."""
        return {}

    @abstractmethod
    def weigh(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return the weights as published, and advance ``state`` in place.

        It touches the device only (no ``.item()``, no ``if tensor``), leaves the state of an absent task alone, keeps
        non-finite losses out of the state, and gives the present tasks the weights that they would get if the absent
        ones did not exist.

        Args:
            losses: [K] float32, detached; NaN for absent tasks, so that a non-finite loss is excluded in the same way
                as an absent task.
            present: [K] bool, which tasks have a loss in this step, or None where no task is absent, as the host often
                knows. Reductions over the tasks of a step need it: see :func:`~.functional.masked_softmax`,
                :func:`~.functional.number_of`.
            state: What :meth:`init` returned, as the steps so far have left it.

        Returns:
            [K] float32, not negative, and no part of ``state``; the entries of absent tasks mean nothing.
        """

    def __call__(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, absent tasks at 0 and scaled by ``normalize``; advance ``state`` in place."""
        return self.scale(self.weigh(nan_where_absent(losses.detach(), present), present, state), present)

    def scale(self, weights: Tensor, present: Present) -> Tensor:
        """Return the weights as ``normalize`` says, absent tasks at 0: [K], [K] bool -> [K]."""
        if self.normalize == "published":
            return zero_where_absent(weights, present)
        weights = sum_to_one(weights, present)
        return weights if self.normalize == "mean" else weights * number_of(present, weights)
