"""The torch.optim contract around an inner optimizer."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .losses import Losses, TaskLosses
from .task_state import TaskState
from .weighting import Weighting, create

_KEY = "task_reweighting"
_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def _of_inner(name: str) -> property:
    return property(
        lambda self: getattr(self.inner, name),
        lambda self, value: setattr(self.inner, name, value),
        lambda self: delattr(self.inner, name),
        f"``{name}`` of the inner optimizer, live.",
    )


class TaskReweightedOptimizer(Optimizer):
    r"""Wraps any optimizer so that ``step`` takes the losses of many tasks and minimises their weighted sum.

    .. math:: \min_\theta \sum_t w_t L_t(\theta)

    The weights :math:`w_t` come from a :class:`~art_optim.weighting.Weighting`, on the device, from the losses of the
    current step; one backward pass runs through all tasks. The wrapper is an ``Optimizer`` whose ``param_groups``,
    ``state`` and ``defaults`` are those of the inner one: build learning-rate schedulers on it, checkpoint it, and hand
    it to a framework like the optimizer it wraps.

    Args:
        inner: The optimizer, already constructed.
        tasks: The names of the tasks, in the order that a :class:`TaskLosses` has. If None, the first mapping of losses
            or the first checkpoint fixes them. To load through ``torch.distributed.checkpoint``, which only fills in
            tensors that are there already, they must be given.
        weighting: The method, or its registered name (see :func:`art_optim.weighting.available`).

    Raises:
        TypeError: ``inner`` is no optimizer, ``tasks`` no sequence of names, ``weighting`` neither method nor name.
        ValueError: A task is named twice, or the weighting does not fit the number of tasks.

    Attributes:
        inner: The wrapped optimizer.
        task_state: Task names, weighting and its state: a :class:`~art_optim.task_state.TaskState`.

    Note:
        The weights are not differentiated through. A weight of 0 does not protect from a loss that is NaN, for
        0 * NaN is NaN: the gradients show it as they would without a weighting, but the state of the weighting does not
        take it in.

    Example:
        >>> import torch
        >>> from art_optim import TaskReweightedOptimizer
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = TaskReweightedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-3), tasks=["rain", "haze"])
        >>> for _ in range(3):
        ...     rain, haze = model(torch.ones(8, 4)).abs().mean(0)
        ...     optimizer.zero_grad()
        ...     total = optimizer.step({"rain": rain, "haze": haze})
        >>> list(optimizer.weights)
        ['rain', 'haze']
    """

    inner: Optimizer
    task_state: TaskState

    param_groups = _of_inner("param_groups")
    state = _of_inner("state")
    defaults = _of_inner("defaults")
    grad_scale = _of_inner("grad_scale")
    found_inf = _of_inner("found_inf")

    # Optimizer.__init__ is not called: it would make parameter groups and a state of our own.
    def __init__(
        self, inner: Optimizer, tasks: Sequence[str] | None = None, weighting: Weighting | str = "art"
    ) -> None:
        if isinstance(inner, TaskReweightedOptimizer) or not isinstance(inner, Optimizer):
            raise TypeError(
                f"inner is a {type(inner).__name__}; give a constructed optimizer, "
                "e.g. torch.optim.AdamW(model.parameters())"
            )
        if isinstance(weighting, str):
            weighting = create(weighting)
        if not isinstance(weighting, Weighting):
            raise TypeError(f"weighting is {weighting!r}; give a Weighting such as Art(), or its registered name")
        parameters = (parameter for group in inner.param_groups for parameter in group["params"])
        # Parameters on `meta` are about to be materialised, by which time the task state must not be there.
        device = next((p.device for p in parameters if not p.is_meta), torch.device("cpu"))
        self.__setstate__({"inner": inner, "task_state": TaskState(weighting, tasks, device)})

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks in order; empty until they are known."""
        return self.task_state.tasks

    @property
    def weighting(self) -> Weighting:
        """The method that weighs the tasks."""
        return self.task_state.weighting

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last training step by task: 0-dim float32 on the device; empty before the first."""
        weights = self.task_state.weights
        return {} if weights is None else dict(zip(self.tasks, weights.unbind(), strict=True))

    def combine(self, losses: Losses) -> Tensor:
        """Weigh the losses and return their weighted sum with its graph, for code that calls ``backward`` itself.

        The state of the weighting moves once a call if the losses carry a graph, and not at all under
        ``torch.no_grad()``.

        Args:
            losses: A mapping from task name to 0-dim loss, in which a missing name or None is an absent task, or a
                :class:`TaskLosses`.

        Returns:
            The weighted sum, 0-dim.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; nothing has changed then.
        """
        losses = self.task_state.gather(losses)
        return _total(losses.values, self.task_state.weigh(losses))

    def backward(
        self,
        losses: Losses,
        *,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> Tensor:
        """Weigh the losses and run one backward pass, leaving the step to ``step()``: to clip, or to accumulate.

        An error of the backward pass itself, such as of a graph that has been freed, comes after the weighting's state
        has moved.

        Args:
            losses: As for :meth:`combine`; at least one must carry a graph.
            scaler: Scales the gradients, by way of the weights: pre-scaled losses would change the weights.
            retain_graph: As for ``Tensor.backward``.
            create_graph: As for ``Tensor.backward``; for optimizers that take second derivatives.

        Returns:
            The weighted sum, 0-dim, detached, on the device, not scaled.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; or no loss carries a graph, or ``scaler`` is no
                scaler. Nothing has changed then.
        """
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"scaler is a {type(scaler).__name__}; give a torch.amp.GradScaler")
        losses = self._trainable(losses)
        return self._backward(losses, self.task_state.weigh(losses), scaler, retain_graph, create_graph)

    def step(  # type: ignore[override]
        self,
        losses: Losses | None = None,
        closure: Callable[[], Any] | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Any:
        """Weigh the losses, run one backward pass, and let the inner optimizer step.

        Without losses it is the inner optimizer's own step, and the state of the weighting does not move: call it after
        :meth:`backward`.

        Args:
            losses: As for :meth:`backward`. A callable here is taken for the closure, and losses in the place of the
                closure for losses, as some frameworks pass them.
            closure: Handed to the inner optimizer. It may return losses by task instead of one loss, without calling
                backward. Their weights stay within the step what they were at its first evaluation, or what those of
                ``losses`` are if both are given.
            scaler: Scales the gradients and skips the step where one overflowed; call its ``update`` as usual.

        Returns:
            With losses the weighted sum, 0-dim, detached, on the device; else what the inner optimizer returns.

        Raises:
            TypeError, ValueError: See :meth:`backward`; or there are two closures, or losses twice, or a scaler without
                losses or with a closure. Nothing has changed then.
        """
        losses, closure = _in_order(losses, closure)
        if scaler is None:
            if losses is None:
                return self._inner_step(closure)
            total = self.backward(losses)
            self._inner_step(closure, self.task_state.weights)
            return total
        if losses is None:
            raise ValueError(
                "scaler is given without losses; call step(losses, scaler=scaler), or scaler.step(optimizer)"
            )
        if closure is not None:
            raise ValueError("scaler is given with a closure, which gradient scaling cannot do; give losses alone")
        total = self.backward(losses, scaler=scaler)
        scaler.step(self)
        return total

    # The inner step is profiled and fires the global hooks; this keeps torch from doing so a second time here.
    step.hooked = True  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        """Call ``zero_grad`` of the inner optimizer, with its own default where ``set_to_none`` is None."""
        if set_to_none is None:
            self.inner.zero_grad()
        else:
            self.inner.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Call ``add_param_group`` of the inner optimizer."""
        self.inner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state dict, with the task state in its first parameter group.

        The key is ``"task_reweighting"``: plain tensors, strings and lists, so that ``torch.load(weights_only=True)``
        reads it and ``torch.distributed.checkpoint`` carries it along.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = dict(self.inner.state_dict())
        first, *others = state_dict["param_groups"]
        state_dict["param_groups"] = [{**first, _KEY: self.task_state.state_dict()}, *others]
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, or the state dict of a bare inner optimizer.

        From the latter the task state starts afresh, with a warning.

        Raises:
            ValueError: The checkpoint is of other tasks, another weighting or other parameter groups; nothing has
                changed then.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        groups = state_dict["param_groups"]
        state_dict["param_groups"] = [{k: v for k, v in group.items() if k != _KEY} for group in groups]
        task_state = next((group[_KEY] for group in groups if _KEY in group), None)
        if task_state is not None:
            self.task_state.check(task_state)
        self.inner.load_state_dict(state_dict)
        if task_state is not None:
            self.task_state.load_state_dict(task_state)
        else:
            self.task_state.reset()
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
        if task_state is None:
            warnings.warn(f"the checkpoint has no {_KEY!r}: the task state starts afresh", stacklevel=2)

    def _trainable(self, losses: Losses) -> TaskLosses:
        gathered = self.task_state.gather(losses)
        if not gathered.trainable:
            raise ValueError("losses carry no graph; compute them with gradients enabled, and do not detach them")
        return gathered

    def _backward(
        self,
        losses: TaskLosses,
        weights: Tensor,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> Tensor:
        gradient = weights if scaler is None else scaler.scale(weights)
        torch.autograd.backward(losses.values, gradient.to(losses.values.dtype), retain_graph, create_graph)
        return _total(losses.values.detach(), weights)

    def _inner_step(self, closure: Callable[[], Any] | None, weights: Tensor | None = None) -> Any:
        args: tuple[Any, ...] = (self,) if closure is None else (self, self._weighing(closure, weights))
        kwargs: dict[str, Any] = {}
        for pre_hook in self._optimizer_step_pre_hooks.values():
            changed = pre_hook(self, args, kwargs)
            args, kwargs = (args, kwargs) if changed is None else changed
        result = self.inner.step(*args[1:], **kwargs)
        for post_hook in self._optimizer_step_post_hooks.values():
            post_hook(self, args, kwargs)
        return result

    def _weighing(self, closure: Callable[[], Any], weights: Tensor | None) -> Callable[[], Any]:
        def evaluate() -> Any:
            nonlocal weights
            losses = closure()
            if not isinstance(losses, (Mapping, TaskLosses)):
                return losses
            losses = self._trainable(losses)
            if weights is None:
                weights = self.task_state.weigh(losses)
            return self._backward(losses, weights)

        return evaluate

    def __getattr__(self, name: str) -> Any:
        # What is looked up before __init__ or __setstate__ is done must fail, or copying would recurse.
        if name.startswith("__") or name in ("inner", "task_state", *_HOOKS):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner, name)

    # A scheduler patches `step` on the instance it is built on; copying all of `__dict__` would bring the original's.
    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "task_state": self.task_state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, **{name: OrderedDict() for name in _HOOKS})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tasks={list(self.tasks)}, weighting={self.weighting!r}, inner={self.inner!r})"


def _in_order(losses: Any, closure: Any) -> tuple[Losses | None, Callable[[], Any] | None]:
    def swapped() -> bool:
        are_losses = [isinstance(argument, (Mapping, TaskLosses)) for argument in (losses, closure)]
        return are_losses[1] or (callable(losses) and not are_losses[0])

    if swapped():
        losses, closure = closure, losses
        if swapped():
            raise TypeError("step has losses twice or two closures; give one of each at most")
    return losses, closure


def _total(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum()  # not `@`, which autocast would round
