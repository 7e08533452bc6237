"""The torch.optim contract around an inner optimizer."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import checkpoint
from .closure import Replay, WeighedClosure
from .distributed import Processes, ProcessGroupLike, refuse_join
from .gradients import GradientWeighting
from .integrations.accelerate import require_every_batch
from .losses import Losses, TaskLosses, are_losses
from .nonfinite import NonFinite, Skip, bypasses_step, require_finite_gradients
from .task_state import TaskState
from .weighting import Weighting, create
from .weighting.functional import nan_where_absent

Loss = TypeVar("Loss", bound="Tensor | float | None")

_OURS = ("inner", "task_state")
_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
# Attributes that cannot be set, and what to do instead.
_READ_ONLY = {
    "inner": "wrap the other optimizer in a TaskReweightedOptimizer of its own",
    "task_state": "load into it, with task_state.load_state_dict(...)",
    "tasks": "declare them with TaskReweightedOptimizer(..., tasks=[...])",
    "weighting": "choose it with TaskReweightedOptimizer(..., weighting=...)",
    "interval": "choose it with TaskReweightedOptimizer(..., interval=...)",
    "process_group": "choose it with TaskReweightedOptimizer(..., process_group=...)",
    "compile": "choose it with TaskReweightedOptimizer(..., compile=...)",
    "losses": "they come with step(losses)",
    "weights": "they come from the weighting; to choose them, use FixedWeighting",
    "skipped": "it counts from the start of the run or from the checkpoint",
}


def _of_inner(name: str) -> Any:
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
        tasks: The names of the tasks, in the order of the values of a :class:`TaskLosses`. If None, the first mapping
            of losses or the first checkpoint determines them. Loading through ``torch.distributed.checkpoint``, which
            only fills in existing tensors, requires them.
        weighting: The method, or its registered name (see :func:`art_optim.weighting.available`).
        accumulation_steps: The number N of batches whose gradients are accumulated for one step. It divides the
            weights, hence the gradients and the totals, which then add up to the mean over the N batches; it never
            divides the losses. Leave it at 1 where a framework divides by N itself.
        nonfinite: What to do where the norm of the gradients is NaN or infinite. ``"propagate"`` steps all the same.
            ``"skip"`` leaves the step out and counts it in ``skipped``; the host waits for the device once a step.
            It looks at the gradients of this optimizer alone, and refuses methods of the inner one that step in parts,
            such as ``first_step`` of SAM.
        process_group: The processes over which ``DistributedDataParallel`` or ``fully_shard`` averages gradients: a
            group, or a ``DeviceMesh`` of one dimension. Their losses are averaged as well, by one all-reduce of 2K
            numbers a step, so that all processes compute the same weights, and every sample of a task counts the same:
            see :class:`~art_optim.distributed.Processes`. None uses the default group, if it has several processes in
            the step; the tasks must be declared then. False turns the averaging off.
        compile: Whether the weighing runs as one compiled kernel. It needs torch 2.8, a C++ compiler (and Triton on a
            GPU), and 10 to 30 seconds before the first step, and some more before the first with a mapping that lacks a
            task. What it writes, and where: see :class:`~art_optim.compiled.CompiledWeighing`. The weights may differ
            in their last bits from those without. Under ``torch.compile`` it has no effect.
        interval: N, the number of calls from one weighing to the next. With 1 each call is weighed by its own losses.
            With more, N calls have the weights that the method gives to each task's mean loss over the N calls before;
            the first N have those of equal losses. Choose a round of the tasks where a batch (or micro-batch) holds one
            task: a task that is alone has nothing to be weighed against, so that most methods give it the same weight
            in every step. Choose more to smooth noisy losses, to save time, or the steps of an epoch for a method that
            is defined on epochs. Hyperparameters that count steps, such as ``decay`` or ``period``, then count
            weighings. Held weights are not rescaled to the tasks of a call: with weights that sum to 1, a task that is
            alone has about 1/K, and more after an interval that lacked others; choose ``normalize="sum"`` for a mean
            weight of 1. A method that looks at gradients measures each task in its first call of an interval. Not
            within a CUDA graph or ``torch.compile``.

    Raises:
        TypeError: ``inner`` is not an optimizer, ``tasks`` not a sequence of names, ``weighting`` neither a method nor
            a name, ``accumulation_steps`` or ``interval`` not an integer, ``process_group`` not a group, ``compile``
            not a bool.
        ValueError: A task is named twice, the weighting does not fit the tasks or the parameters,
            ``accumulation_steps`` or ``interval`` is below 1, ``nonfinite`` is none of the above, ``process_group`` has
            several dimensions or does not contain this process, ``compile`` is True for a method that looks at
            gradients, ``interval`` is not 1 for a method without weights.
        RuntimeError: ``compile`` is True, but torch is older than 2.8.

    Attributes:
        inner: The wrapped optimizer.
        task_state: Task names, weighting and its state: a :class:`~art_optim.task_state.TaskState`.

    Note:
        Other attributes of the inner optimizer, such as ``train`` of a schedule-free one, are forwarded. Type checkers
        do not see them: in checked code, use them on the inner optimizer.

    Note:
        The weights are constants in the backward pass. A weight of 0 does not mask a loss that is NaN, since 0 * NaN is
        NaN: the gradients are NaN as without a weighting, while the state of the weighting stays finite. Use
        ``nonfinite="skip"`` where this can happen.

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

    param_groups: list[dict[str, Any]] = _of_inner("param_groups")
    state: defaultdict[Tensor, Any] = _of_inner("state")
    defaults: dict[str, Any] = _of_inner("defaults")
    grad_scale: Tensor | None = _of_inner("grad_scale")
    found_inf: Tensor | None = _of_inner("found_inf")

    # Optimizer.__init__ is not called: it would make parameter groups and a state of our own.
    def __init__(
        self,
        inner: Optimizer,
        tasks: Sequence[str] | None = None,
        weighting: Weighting | str = "art",
        *,
        accumulation_steps: int = 1,
        nonfinite: NonFinite = "propagate",
        process_group: ProcessGroupLike = None,
        compile: bool = False,
        interval: int = 1,
    ) -> None:
        usable = isinstance(inner, Optimizer) and not isinstance(inner, TaskReweightedOptimizer)
        if not usable or not hasattr(inner, "param_groups"):
            raise TypeError(
                f"inner is a {type(inner).__name__}; give a constructed optimizer with parameter groups, "
                "e.g. torch.optim.AdamW(model.parameters())"
            )
        if isinstance(weighting, str):
            weighting = create(weighting)
        if not isinstance(weighting, Weighting):
            raise TypeError(f"weighting is {weighting!r}; give a Weighting such as Art(), or its registered name")
        _require_count("interval", interval, "calls between two weighings")
        if interval > 1 and isinstance(weighting, GradientWeighting) and not weighting.has_weights:
            raise ValueError(
                f"interval is {interval}, but {weighting!r} has no weights that could be held between two weighings; "
                "choose interval=1, or another aggregator"
            )
        if not isinstance(compile, bool):
            raise TypeError(f"compile is {compile!r}; give True or False")
        parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
        whole = isinstance(weighting, GradientWeighting) and not weighting.sharded
        if whole and any(hasattr(parameter, "full_tensor") for parameter in parameters):
            raise ValueError(
                f"inner has sharded parameters (DTensor), whose gradients {type(weighting).__name__} cannot look at; "
                "give parameters that are whole, or choose another weighting"
            )
        # Parameters on `meta` are about to be materialised, by which time the task state must not be there.
        device = next((p.device for p in parameters if not p.is_meta), torch.device("cpu"))
        task_state = TaskState(weighting, tasks, device, Processes(process_group), compile, interval)
        self.__setstate__({"inner": inner, "task_state": task_state})
        self.accumulation_steps = accumulation_steps
        self.nonfinite = nonfinite
        # The inner optimizer may have loaded a checkpoint of a wrapper by itself.
        _, loaded, place = checkpoint.extract({"param_groups": inner.param_groups})
        if place:
            task_state.load_state_dict(loaded, f"inner.{place}")
        for group in inner.param_groups:
            group.pop(checkpoint.KEY, None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks in order; empty until they are known."""
        return self.task_state.tasks

    @property
    def weighting(self) -> Weighting:
        """The method that weighs the tasks."""
        return self.task_state.weighting

    @property
    def interval(self) -> int:
        """The number of calls from one weighing to the next."""
        return self.task_state.interval_size

    @property
    def accumulation_steps(self) -> int:
        """The number of batches whose gradients are accumulated for one step; it can be set at any time."""
        return self.task_state.accumulation_steps

    @accumulation_steps.setter
    def accumulation_steps(self, value: int) -> None:
        _require_count("accumulation_steps", value, "batches")
        self.task_state.accumulation_steps = value

    @property
    def nonfinite(self) -> NonFinite:
        """What to do where the norm of the gradients is NaN or infinite; it can be set at any time."""
        return self.task_state.nonfinite

    @nonfinite.setter
    def nonfinite(self, value: NonFinite) -> None:
        if value not in get_args(NonFinite):
            raise ValueError(f"nonfinite is {value!r}; choose one of {', '.join(get_args(NonFinite))}")
        self.task_state.nonfinite = value

    @property
    def losses(self) -> dict[str, Tensor]:
        """The losses of the last training step by task: 0-dim, detached, on the device; NaN for an absent task.

        NaN for all before the first step and after loading; empty while the tasks are not known. On several processes
        the means over the samples of all.
        """
        if self.task_state.losses is None:
            return self._by_task(None)
        return self._by_task(nan_where_absent(*self.task_state.losses))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the last training step by task: 0-dim float32 on the device; 0 for an absent task.

        NaN for all before the first step and after loading; empty while the tasks are not known. They are the
        derivatives of the total with respect to the losses, hence divided by ``accumulation_steps``.
        """
        return self._by_task(self.task_state.weights)

    def _by_task(self, values: Tensor | None) -> dict[str, Tensor]:
        if values is None:
            values = torch.full((len(self.tasks),), torch.nan, device=self.task_state.device)
        return dict(zip(self.tasks, values.unbind(), strict=True))

    @property
    def skipped(self) -> int:
        """The number of steps that ``nonfinite="skip"`` has skipped."""
        return self.task_state.skipped

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # GradScaler.step reads this before it changes anything, and would then pass losses on to `step`, unscaled. They
        # are looked for on the stack, since it asks the same of the optimizer with and without them (see the tests).
        # Where this is True, it sets `grad_scale`, which would show; but frameworks take True for an optimizer whose
        # gradients cannot be clipped and whose `step` is called even where the scaler skips the step.
        caller: FrameType | None = sys._getframe(1)
        while caller is not None and caller.f_code is not torch.amp.GradScaler.step.__code__:
            caller = caller.f_back
        if caller is not None:
            given = (*caller.f_locals.get("args", ()), *caller.f_locals.get("kwargs", {}).values())
            if any(map(are_losses, given)):
                raise TypeError(
                    "scaler.step(optimizer, losses) would not scale the losses; call optimizer.step(losses, "
                    "scaler=scaler), or optimizer.backward(losses, scaler=scaler) and then scaler.step(optimizer)"
                )
        return getattr(self.inner, "_step_supports_amp_scaling", False)

    def combine(self, losses: Losses) -> Tensor:
        """Weigh the losses and return their weighted sum with its graph, for code that calls ``backward`` itself.

        The state of the weighting advances once a call if the losses carry a graph, and not under
        ``torch.no_grad()``.

        Args:
            losses: A mapping from task name to 0-dim loss, in which a missing name or None is an absent task, or a
                :class:`TaskLosses`. A loss of value 0, such as ``torch.zeros(())``, is present and takes its share of
                the weights.

        Returns:
            The weighted sum, 0-dim. On several processes its value is the same on all, its graph that of this process.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; or the method does not fit several processes.
                Nothing has changed then.
            RuntimeError: ``compile`` is True, but the weighing does not compile here; nothing has changed then.
        """
        losses = self.task_state.gather(losses)
        values, weights, _ = self.task_state.weigh(losses)
        return _total(values, weights)

    def backward(
        self,
        losses: Losses,
        *,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> Tensor:
        """Weigh the losses and run one backward pass, leaving the step to ``step()``: to clip, or to accumulate.

        The state of the weighting has advanced when the backward pass itself raises, e.g. for a graph that was freed.

        Args:
            losses: As for :meth:`combine`; at least one must carry a graph.
            scaler: Scales the weights, and thereby the gradients. Losses that are scaled beforehand would be weighed as
                scaled.
            retain_graph: As for ``Tensor.backward``.
            create_graph: As for ``Tensor.backward``; for optimizers that take second derivatives.

        Returns:
            The weighted sum, 0-dim, detached, on the device, not scaled.

        Raises:
            TypeError, ValueError: See :meth:`TaskLosses.from_mapping`; or no loss carries a graph, or ``scaler`` is not
                a scaler. Nothing has changed then.
        """
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"scaler is a {type(scaler).__name__}; give a torch.amp.GradScaler")
        losses = self.task_state.gather(losses)
        if not losses.trainable:
            raise ValueError("losses carry no graph; compute them with gradients enabled, and do not detach them")
        values, weights, detached = self.task_state.weigh(losses)
        total = _total(detached, weights)
        gradient = weights if scaler is None else scaler.scale(weights)
        if gradient.dtype != values.dtype:
            gradient = gradient.to(values.dtype)
        torch.autograd.backward(values, gradient, retain_graph, create_graph)
        return total

    @overload  # type: ignore[override]
    def step(self, losses: None = None, closure: None = None) -> None: ...
    @overload
    def step(
        self,
        losses: Losses,
        closure: Callable[[], Losses | Tensor | float | None] | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Tensor: ...
    @overload
    def step(self, losses: Callable[[], Losses]) -> Tensor | None: ...
    @overload
    def step(self, losses: Callable[[], Loss]) -> Loss | None: ...
    @overload
    def step(self, losses: None = None, *, closure: Callable[[], Losses]) -> Tensor | None: ...
    @overload
    def step(self, losses: None = None, *, closure: Callable[[], Loss]) -> Loss | None: ...
    def step(
        self,
        losses: Losses | Callable[[], Any] | None = None,
        closure: Callable[[], Any] | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Any:
        """Weigh the losses, run one backward pass, and let the inner optimizer step.

        Without losses, performs the inner optimizer's own step and leaves the state of the weighting as it is: call it
        after :meth:`backward`.

        Args:
            losses: As for :meth:`backward`. The first argument may also be the closure, as in ``torch.optim``, and
                ``closure`` may be losses, as some frameworks pass them.
            closure: Passed to the inner optimizer. It returns losses by task without calling ``backward``; or it has
                called ``backward`` itself, and returns one number or None. Losses are weighed at its first evaluation,
                and later evaluations within the step repeat the weights. If ``losses`` are given as well, every
                evaluation repeats their weights.
            scaler: Scales the gradients and skips the step where one overflowed; call its ``update`` as usual.

        Returns:
            With losses, their weighted sum, 0-dim, detached, on the device. With a closure, what the inner optimizer
            returns, usually the value of its first evaluation: the weighted sum where it returns losses. None without
            either, or where ``nonfinite="skip"`` skips the step of a closure.

        Raises:
            TypeError, ValueError: See :meth:`backward`; or there are two closures, or losses twice, or a scaler without
                losses or with a closure, or the signature of the inner optimizer's ``step`` requires one. Nothing has
                changed then.
            RuntimeError: The inner optimizer differentiates the gradients; it wants ``create_graph`` of
                :meth:`backward`. Or Accelerate accumulates gradients, and the call comes from a prepared optimizer.
        """
        if closure is not None or not isinstance(losses, (dict, TaskLosses)):  # the usual losses are in order
            losses, closure = _in_order(losses, closure)
        if "accelerate" in sys.modules and not (losses is None and closure is None):
            require_every_batch()
        if losses is None:
            if scaler is not None:
                raise ValueError(
                    "scaler is given without losses; call step(losses, scaler=scaler), or scaler.step(optimizer)"
                )
            return self._inner_step(closure)
        if closure is not None:
            if scaler is not None:
                raise ValueError("scaler is given with a closure, which gradient scaling cannot do; give losses alone")
            total = self.backward(losses)
            self._inner_step(closure, self.task_state.weights)
            return total
        if _needs_closure(type(self.inner).step):
            raise TypeError(
                f"losses are given without a closure, but {type(self.inner).__name__} evaluates them several times a "
                "step; give a closure that returns them, e.g. step(lambda: losses(model, batch))"
            )
        total = self.backward(losses, scaler=scaler)
        if scaler is None:
            self._inner_step()
        else:
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
        """Return the inner optimizer's state dict, with the task state in its first parameter group that is not empty.

        The key is ``"task_reweighting"``: plain tensors, strings and numbers, so that ``torch.load(weights_only=True)``
        reads it and ``torch.distributed.checkpoint`` carries it along.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        if any(checkpoint.KEY in group for group in self.param_groups):
            for group in self.param_groups:
                group.pop(checkpoint.KEY, None)
            warnings.warn(
                "the inner optimizer has loaded the task state of a checkpoint by itself, and it is dropped; "
                "load checkpoints with load_state_dict of the wrapper",
                stacklevel=2,
            )
        state_dict = checkpoint.insert(self.inner.state_dict(), self.task_state.state_dict())
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, or the state dict of a bare inner optimizer.

        From the latter the task state starts afresh, with a warning. The task state is checked before and moved after
        the inner optimizer: an error of the inner optimizer's own ``load_state_dict`` leaves the task state as it was.

        Raises:
            TypeError, ValueError: The checkpoint is of other tasks, another weighting, interval or other parameter
                groups, or its task state is corrupt; nothing has changed then.
        """
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        state_dict, task_state, place = checkpoint.extract(state_dict)
        checked = checkpoint.check(task_state, self.task_state, place) if place else None
        self.inner.load_state_dict(state_dict)
        if checked is None:
            self.task_state.reset()
        else:
            self.task_state.load(checked)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
        if checked is None:
            warnings.warn(f"the checkpoint has no {checkpoint.KEY!r}: the task state starts afresh", stacklevel=2)

    def join_hook(self, **kwargs: Any) -> Any:
        """Return the hook of the inner optimizer for ``torch.distributed.algorithms.Join``.

        Raises:
            RuntimeError: ``process_group`` is not False: all processes take part in averaging the losses.
        """
        if self.task_state.processes.together:
            refuse_join()
        return self.inner.join_hook(**kwargs)  # type: ignore[attr-defined]

    def _inner_step(self, closure: Callable[[], Any] | None = None, weights: Tensor | None = None) -> Any:
        evaluations = None
        if closure is not None:
            self.task_state.replay = Replay(weights)
            evaluations = WeighedClosure(closure, self.backward, self.task_state.replay)
        args: tuple[Any, ...] = (self,) if evaluations is None else (self, evaluations)
        kwargs: dict[str, Any] = {}
        try:
            if self.task_state.nonfinite == "skip" and (evaluations is None or weights is not None):
                require_finite_gradients(self._parameters())
            for pre_hook in self._optimizer_step_pre_hooks.values():
                changed = pre_hook(self, args, kwargs)
                if changed is not None and not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(f"a step pre-hook returned {changed!r}; return None, or a pair (args, kwargs)")
                args, kwargs = changed or (args, kwargs)
            if self.task_state.nonfinite == "skip" and evaluations is not None and weights is None:
                evaluations.watch(self._parameters())
            try:
                result = self.inner.step(*args[1:], **kwargs)
            except RuntimeError as error:
                if closure is not None or "grad_fn" not in str(error):
                    raise
                raise RuntimeError(
                    f"{type(self.inner).__name__} differentiates the gradients; "
                    "call backward(losses, create_graph=True), and then step()"
                ) from error
        except Skip:
            self.task_state.skipped += 1
            return None
        finally:
            self.task_state.replay = None
        if not self.task_state.unstepped:
            self._warn_of_unweighted_gradients()
        self.task_state.unstepped = False
        for post_hook in self._optimizer_step_post_hooks.values():
            post_hook(self, args, kwargs)
        return result

    def _warn_of_unweighted_gradients(self) -> None:
        # With the learning rate 0, torch.distributed.checkpoint makes an optimizer set up its state.
        groups = () if self.task_state.warned else self.param_groups
        if any(group.get("lr", 1) != 0 and any(p.grad is not None for p in group["params"]) for group in groups):
            self.task_state.warned = True
            warnings.warn(
                "step() follows no weighing: the gradients of a plain loss.backward() are not weighted; call "
                "step(losses), or backward(losses) or combine(losses).backward() before step()",
                stacklevel=4,
            )

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    if not TYPE_CHECKING:  # a checker would let every name pass

        def __getattr__(self, name: str) -> Any:
            # What is looked up before __init__ or __setstate__ is done must fail, or copying would recurse.
            if name.startswith("__") or name in (*_OURS, *_HOOKS):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = getattr(self.inner, name)
            if self.nonfinite == "skip" and callable(value) and bypasses_step(name):
                raise AttributeError(
                    f"{name} of {type(self.inner).__name__} would move parameters whatever their gradients are, which "
                    "nonfinite='skip' does not allow; call step(losses, closure), or choose nonfinite='propagate'"
                )
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            if name in _READ_ONLY:
                raise AttributeError(f"{name} cannot be set; {_READ_ONLY[name]}")
            super().__setattr__(name, value)

    # A scheduler patches `step` on the instance it is built on; copying all of `__dict__` would bring the original's.
    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _OURS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, **{name: OrderedDict() for name in _HOOKS})

    def __repr__(self) -> str:
        state = self.task_state
        options = {
            "accumulation_steps": (state.accumulation_steps, 1),
            "nonfinite": (state.nonfinite, "propagate"),
            "process_group": (state.processes.group if state.processes.together else False, None),
            "compile": (state.compile, False),
            "interval": (state.interval_size, 1),
        }
        chosen = {name: value for name, (value, default) in options.items() if value != default}
        shown = {"tasks": list(self.tasks), "weighting": self.weighting, **chosen, "inner": self.inner}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _require_count(name: str, value: Any, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give the number of {what}, an integer")
    if value < 1:
        raise ValueError(f"{name} is {value}; give the number of {what}, at least 1")


def _in_order(losses: Any, closure: Any) -> tuple[Losses | None, Callable[[], Any] | None]:
    def swapped() -> bool:
        return are_losses(closure) or (callable(losses) and not are_losses(losses))

    if swapped():
        losses, closure = closure, losses
        if swapped():
            raise TypeError("step has losses twice or two closures; give one of each at most")
    if closure is not None and not callable(closure):
        raise TypeError(
            f"closure is a {type(closure).__name__}; give a function, and a scaler as step(losses, scaler=...)"
        )
    return losses, closure


@cache
def _needs_closure(step: Callable[..., Any]) -> bool:
    _, *parameters = inspect.signature(step).parameters.values()
    return any(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)


def _total(values: Tensor, weights: Tensor) -> Tensor:
    if values.dtype != weights.dtype:
        return (values * weights).sum()
    return values.dot(weights)  # not `@`, which autocast would round
