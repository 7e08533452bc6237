"""The protocol of a loss weighting, and the registry that names its methods."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor

Normalization = Literal["published", "mean", "sum"]
Average: TypeAlias = Callable[[Tensor], Tensor]
Present: TypeAlias = Tensor | None


@dataclass(frozen=True)
class Weighting(ABC):
    r"""A rule that turns the losses of :math:`K` tasks into :math:`K` weights.

    A weighting is a value: a frozen dataclass of hyperparameters, so that ``repr``, equality, pickling and sweeps
    come free. What it remembers between steps is a dict of tensors that :meth:`init` makes and :meth:`weigh` advances
    in place. To add a method, subclass it, write these two, and register it by name with :func:`register`; to use one,
    call it::

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
        sharded: Whether the parameters may be sharded, as by ``fully_shard``.
    """

    needs: ClassVar[str] = "losses"
    cost: ClassVar[str] = "none"
    sharded: ClassVar[bool] = True

    normalize: Normalization = field(default="published", kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self, "normalize", Normalization)

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
            losses: [K] float32, detached; NaN for absent tasks, so that who is left out for a loss that is not finite
                is left out for being absent.
            present: [K] bool, which tasks have a loss in this step, or None where no task is absent, as the host often
                knows. For what is over the tasks of a step: :func:`masked_softmax`, :func:`number_of`.
            state: What :meth:`init` returned, as the steps so far have left it.

        Returns:
            [K] float32, not negative, and no part of ``state``; the entries of absent tasks mean nothing.
        """

    def __call__(self, losses: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return the weights [K] float32, absent tasks at 0 and scaled by ``normalize``; advance ``state`` in place."""
        return self.scale(self.weigh(nan_where_absent(losses.detach(), present), present, state), present)

    def objective(
        self, values: Tensor, present: Present, state: dict[str, Tensor], average: Average | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what to differentiate, and with which weights; advance ``state`` in place.

        These are the losses and what calling the weighting gives. A method that looks at gradients overrides it.

        Args:
            values: [K] floating point, the losses with their graph, or without one in validation.
            present: [K] bool, which tasks have a loss in this step, or None for all.
            state: What :meth:`init` returned, as the steps so far have left it.
            average: Where several processes train together, what makes of a tensor its mean over them; else None. The
                losses are of all processes already, but their gradients of this one.

        Returns:
            [K] values and [K] float32 weights: the gradient of the step is that of the values, times the weights.
        """
        return values, self(values.float(), present, state)

    def repeat(self, values: Tensor, present: Present, state: dict[str, Tensor]) -> Tensor:
        """Return what to differentiate with the weights of an earlier evaluation of the same step: the losses."""
        return values

    def scale(self, weights: Tensor, present: Present) -> Tensor:
        """Return the weights as ``normalize`` says, absent tasks at 0: [K], [K] bool -> [K]."""
        if self.normalize == "published":
            return zero_where_absent(weights, present)
        weights = sum_to_one(weights, present)
        return weights if self.normalize == "mean" else weights * number_of(present, weights)


def nan_where_absent(losses: Tensor, present: Present) -> Tensor:
    """The losses of the present tasks, NaN for the others."""
    return losses if present is None else torch.where(present, losses, math.nan)


def zero_where_absent(weights: Tensor, present: Present) -> Tensor:
    """The weights of the present tasks, 0 for the others."""
    return weights if present is None else torch.where(present, weights, 0.0)


def sum_to_one(weights: Tensor, present: Present) -> Tensor:
    """The weights divided by the sum of those of the present tasks; 0 for the others."""
    weights = zero_where_absent(weights, present)
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def among(present: Present, mask: Tensor) -> Tensor:
    """[K] bool, the present ones of the tasks in a mask."""
    return mask if present is None else mask & present


def number_of(present: Present, values: Tensor) -> Tensor | int:
    """How many tasks are present, of those that have the values."""
    return len(values) if present is None else present.sum()


def masked_softmax(logits: Tensor, present: Present) -> Tensor:
    """Softmax over the present tasks alone: [K] logits, [K] bool -> [K]."""
    return logits.softmax(0) if present is None else torch.where(present, logits, -torch.inf).softmax(0)


def relative_weights(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the usable tasks times their number, so that these average 1; 1 for the others."""
    largest = torch.finfo(logits.dtype).max
    return torch.where(usable, masked_softmax(logits.clamp(-largest, largest), usable) * usable.sum(), 1.0)


def mean_elsewhere(weights: Tensor, usable: Tensor) -> Tensor:
    """The weights of the usable tasks, for the others the mean of these; 1 where no task is usable."""
    number = usable.sum()
    mean = torch.where(usable, weights, 0.0).sum() / number.clamp(min=1)
    return torch.where(usable, weights, torch.where(number > 0, mean, 1.0))


# An operator without a number from the host, of which each is as dear as two.
def zero_or_nan(values: Tensor) -> Tensor:
    """0 where the value is finite, NaN elsewhere."""
    return values - values


def finite(values: Tensor) -> Tensor:
    """[K] bool, the tasks whose value is finite."""
    zero = zero_or_nan(values)
    return zero == zero


def positive(values: Tensor) -> Tensor:
    """[K] bool, the tasks whose value is positive and finite."""
    return finite(values.log())


def check_real(weighting: Weighting, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Hold a hyperparameter to [low, high], and make it a float, so that 3 and 3.0 are one in a checkpoint.

    Raises:
        ValueError: It is outside, or not finite.
    """
    value = float(getattr(weighting, name))
    object.__setattr__(weighting, name, value)
    if math.isfinite(value) and low <= value <= high:
        return
    wanted = f"in [{low:g}, {high:g}]" if high < math.inf else "finite"
    if high == math.inf and low > -math.inf:
        wanted += f" and at least {low:g}"
    raise ValueError(f"{name} is {value}; it must be {wanted}")


def check_whole(weighting: Weighting, name: str, low: int) -> None:
    """Hold a hyperparameter to the whole numbers from ``low`` to the largest of int64.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if not isinstance(value, int) or not low <= value < 2**63:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {low} and below 2**63")


def check_choice(weighting: Weighting, name: str, choices: Any) -> None:
    """Hold a hyperparameter to the values of a ``Literal``.

    Raises:
        ValueError: It is something else.
    """
    value = getattr(weighting, name)
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(get_args(choices))}")


_REGISTRY: dict[str, type[Weighting]] = {}

_W = TypeVar("_W", bound=type[Weighting])


def register(name: str) -> Callable[[_W], _W]:
    """Class decorator: make a weighting available as ``create(name)`` and as ``weighting=name``.

    Raises:
        ValueError: Another class has the name.
    """

    def decorate(cls: _W) -> _W:
        # The same class again is a notebook cell that runs again.
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"weighting {name!r} is {_REGISTRY[name].__name__} already; choose another name")
        _REGISTRY[name] = cls
        return cls

    return decorate


def create(name: str, **hyperparameters: Any) -> Weighting:
    """Make a registered weighting by name.

    Raises:
        ValueError: No weighting has the name.

    Example:
        >>> from art_optim import weighting
        >>> weighting.create("art", temperature=1.0).temperature
        1.0
    """
    if name not in _REGISTRY:
        raise ValueError(f"weighting {name!r} is not known; choose one of {', '.join(available())}")
    return _REGISTRY[name](**hyperparameters)


def available() -> tuple[str, ...]:
    """Return the names of the registered weightings, sorted.

    Example:
        >>> from art_optim import weighting
        >>> "art" in weighting.available()
        True
    """
    return tuple(sorted(_REGISTRY))
