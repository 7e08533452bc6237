"""Every optimizer, wrapped under weights of 1 and unwrapped, must train to the same bits and fail with the same words.

Nothing here says what an optimizer can do. Each is trained on every kind of model and in every way of calling: most
refuse some of them, and then the wrapped one must refuse too.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_optim import EqualWeighting, TaskReweightedOptimizer

TASKS = ("rain", "haze", "noise")
STEPS = (3, 12)  # the larger number where an optimizer needs longer before it moves
OPTIONS = ("foreach", "fused", "maximize", "capturable", "differentiable", "lr")
MODELS = {
    "mixed": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)
    ),
    "matrices": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(32, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)
    ),
    "sparse": lambda: nn.Embedding(10, 3, sparse=True),
}
WAYS = {
    "step": lambda optimizer, losses: optimizer.step(losses()),
    "backward, step": lambda optimizer, losses: (optimizer.backward(losses()), optimizer.step()),
    "create_graph": lambda optimizer, losses: (optimizer.backward(losses(), create_graph=True), optimizer.step()),
    "closure": lambda optimizer, losses: optimizer.step(closure=_closure(optimizer, losses)),
    "losses, closure": lambda optimizer, losses: optimizer.step(losses(), _closure(optimizer, losses)),
    "backward, closure": lambda optimizer, losses: optimizer.step(closure=partial(float, optimizer.backward(losses()))),
}
# Failures of which the wrapper says in words of its own what to do instead.
REFUSALS = {
    "missing 1 required positional argument: 'closure'": "losses are given without a closure",
    "grad_fn": "call backward(losses, create_graph=True)",
    "does not require grad": "losses carry no graph",
}
# What constructors require, by the name of the argument: candidates, of which the first that is accepted is taken.
ARGUMENTS = {
    "params": lambda model, base: (model.parameters(), _flagged(model)),
    "model": lambda model, base: (model,),
    "optimizer": lambda model, base: (base,),
    "base": lambda model, base: (base,),
    "base_optimizer": lambda model, base: (torch.optim.SGD, base),
    "rho_scheduler": lambda model, base: (SimpleNamespace(step=lambda: 0.05),),
    "num_data": lambda model, base: (16,),
    "num_iterations": lambda model, base: (max(STEPS),),
}


@dataclass(frozen=True)
class Case:
    """An optimizer class with options on (``lr``: as a tensor); ``around`` a wrapped optimizer rather than wrapped."""

    package: str
    name: str
    options: tuple[str, ...] = ()
    around: bool = False

    def __str__(self) -> str:
        return f"{self.name}({'wrapped' if self.around else ', '.join(self.options)})"

    @property
    def cls(self) -> type:
        return getattr(importlib.import_module(self.package), self.name)

    @property
    def required(self) -> list[str]:
        parameters = inspect.signature(self.cls).parameters.values()
        return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]

    @property
    def variants(self) -> list[Case]:
        """The same class with every set of the options that it has, whether or not they go together."""
        known = [name for name in OPTIONS if name in inspect.signature(self.cls).parameters]
        sets = itertools.chain.from_iterable(itertools.combinations(known, size) for size in range(len(known) + 1))
        return [replace(self, options=options) for options in sets]

    def build(self, model: nn.Module, base: Optimizer) -> Any:
        options = {name: torch.tensor(0.01) if name == "lr" else True for name in self.options}
        for arguments in itertools.product(*(ARGUMENTS[name](model, base) for name in self.required)):
            try:
                optimizer = self.cls(*arguments, **options)
            except Exception as error:
                failure = error
            else:
                if not hasattr(optimizer, "param_groups"):
                    raise TypeError(f"{self.name} has no param_groups: it is no torch optimizer")
                return optimizer
        raise failure

    def loop(self, model: nn.Module, wrapped: bool) -> Any:
        """The optimizer with the interface of the wrapper."""
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        if not wrapped:
            return Loop(self.build(model, base), summed_backward)
        if self.around:
            wrapper = TaskReweightedOptimizer(base, TASKS, EqualWeighting())
            return Loop(self.build(model, wrapper), wrapper.backward)
        return TaskReweightedOptimizer(self.build(model, base), TASKS, EqualWeighting())


@dataclass(frozen=True)
class Outcome:
    """What training came to.

    Args:
        failure: The class and the words of the exception that ended it.
        bits: Of parameters, gradients, state and groups, before and after, and of the results of the steps; None if
            the optimizer could not be constructed.
        moved: Whether parameters are not what they were.
        untouched: Whether all is as it was.
    """

    failure: tuple[str, str] | None
    bits: Any
    moved: bool
    untouched: bool

    def __str__(self) -> str:
        if self.failure is None:
            return "trains" if self.moved else "does not move"
        return ": ".join(self.failure)


@dataclass(frozen=True)
class Pair:
    """One case on one model in one way of calling, unwrapped and wrapped."""

    model: str
    way: str
    steps: int
    plain: Outcome
    ours: Outcome

    @property
    def same(self) -> bool:
        return self.plain == self.ours or self.refused

    @property
    def refused(self) -> bool:
        """Both failed: the wrapper in its own words, at the same point or before anything had changed."""
        if None in (self.plain.failure, self.ours.failure) or self.plain.failure == self.ours.failure:
            return False
        (_, theirs), (_, own) = self.plain.failure, self.ours.failure
        known = any(inner in theirs and wrapper in own for inner, wrapper in REFUSALS.items())
        return known and (self.ours.untouched or self.plain.bits == self.ours.bits)

    @property
    def trained(self) -> bool:
        return self.plain.failure is None and self.plain.moved


@dataclass
class Loop:
    """The training loop that the wrapper replaces, or one around an optimizer that holds a wrapped one."""

    inner: Any
    backward: Callable[..., Tensor]

    def step(self, losses: Mapping[str, Tensor] | None = None, closure: Callable[[], Any] | None = None) -> Any:
        def evaluate() -> Any:
            value = closure()
            return self.backward(value) if isinstance(value, Mapping) else value

        total = None if losses is None else self.backward(losses)
        result = self.inner.step() if closure is None else self.inner.step(evaluate)
        return result if total is None else total

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def cases(package: str) -> Iterator[Case]:
    """All optimizers that a package exports, and once more those that can be built around a wrapped one."""
    for name, cls in sorted(vars(importlib.import_module(package)).items()):
        if inspect.isclass(cls) and hasattr(cls, "step") and hasattr(cls, "zero_grad") and cls is not Optimizer:
            if issubclass(cls, Optimizer):
                yield Case(package, name)
            if {"optimizer", "base"} & {*Case(package, name).required}:
                yield Case(package, name, around=True)


def pairs(case: Case) -> list[Pair]:
    for steps in STEPS:
        done = [pair(case, model, way, steps) for model, way in itertools.product(MODELS, WAYS)]
        if any(pair.trained for pair in done):
            break
    return done


def pair(case: Case, model: str, way: str, steps: int) -> Pair:
    plain, ours = (train(case, model, way, steps, wrapped) for wrapped in (False, True))
    return Pair(model, way, steps, plain, ours)


def train(case: Case, model_name: str, way: str, steps: int, wrapped: bool) -> Outcome:
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # some optimizers draw numbers
        seed(0)
    model = MODELS[model_name]()
    batches = torch.randint(0, 10, (steps, 8)) if model_name == "sparse" else torch.randn(steps, 8, 2, 4, 4)
    try:
        optimizer = case.loop(model, wrapped)
    except Exception as error:
        return Outcome(_words(error), None, moved=False, untouched=True)

    def everything() -> tuple[Any, Any]:
        parameters = [*model.parameters()]
        gradients = [parameter.grad for parameter in parameters]
        return _bits(parameters), _bits([gradients, optimizer.state, optimizer.param_groups])

    before, failure, seen = everything(), None, []
    try:
        getattr(optimizer, "train", lambda: None)()  # schedule-free optimizers want to be told
        for batch in batches:
            optimizer.zero_grad()
            seen.append(_bits(WAYS[way](optimizer, lambda batch=batch: _losses(model(batch)))))
        seen.append(everything())
        getattr(optimizer, "eval", lambda: None)()
    except Exception as error:
        failure = _words(error)
    after = everything()
    model.zero_grad()  # after create_graph, parameters and gradients would hold on to one another
    return Outcome(failure, (before, seen, after), moved=before[0] != after[0], untouched=before == after)


def summed_backward(losses: Mapping[str, Tensor], create_graph: bool = False) -> Tensor:
    # Summed as the wrapper sums, for the optimizers that use the total: sum() adds in another order.
    total = torch.stack([*losses.values()]).sum()
    total.backward(create_graph=create_graph)
    return total.detach()


def verdict(done: list[Pair]) -> tuple[str, Pair]:
    """What the pairs of one case come to, and the pair that shows it."""
    if differing := [pair for pair in done if not pair.same]:
        return "DIFFERS", differing[0]
    if trained := [pair for pair in done if pair.trained]:
        needs = trained[0].way.split(", ")[-1]
        return "identical" if needs == "step" else f"identical, needs {needs}", trained[0]
    if built := [pair for pair in done if pair.plain.bits is not None]:
        return "identical failure", built[0]
    return "not constructed", done[0]


def _words(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Warning):
        raise error
    return type(error).__name__, str(error)


def _closure(optimizer: Any, losses: Callable[[], Any]) -> Callable[[], Any]:
    def closure() -> Any:
        optimizer.zero_grad()
        return losses()

    return closure


def _losses(outputs: Tensor) -> dict[str, Tensor]:
    return {task: (output - 1).square().mean() for task, output in zip(TASKS, outputs.T, strict=True)}


def _flagged(model: nn.Module) -> list[dict[str, Any]]:
    groups = {flag: [p for p in model.parameters() if (p.ndim > 1) == flag] for flag in (True, False)}
    return [{"params": parameters, "use_muon": flag} for flag, parameters in groups.items() if parameters]


def _bits(value: Any) -> Any:
    """Plain data, equal exactly if all tensors in the value are bit for bit: NaN is itself, and 0 is not -0."""
    if isinstance(value, Tensor):
        dense = (value.detach().to_dense() if value.layout is not torch.strided else value.detach()).contiguous()
        return str(dense.dtype), tuple(dense.shape), dense.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return [(_bits(key), _bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_bits(item) for item in value]
    if hasattr(value, "__dict__") and not callable(value):
        return type(value).__name__, _bits(vars(value))
    return getattr(value, "__qualname__", None) or repr(value)
