"""Every method that the benchmarks compare, by name.

========================  ==========================================================================================
``equal``, ``art``, ...   a registered weighting, also ``art-ablation`` and the variants of :mod:`benchmarks.variants`
``fixed:a=1,b=2``         weights of one's own
``upgrad``, ...           an aggregator of TorchJD, through ``JacobianAggregation``
``torchjd.UW``, ...       a scalarizer of TorchJD in a plain loop, which wants a loss of every task
``authors``               Art as its authors' script has it: in a plain loop, a number at a time on the host
``pooled``                a control: the mean over samples, in place of the mean over tasks of the means over samples
``fixed-at:METHOD``       a control: the weights that METHOD had with the same seed, averaged over its steps
========================  ==========================================================================================

Hyperparameters follow a colon, ``art:temperature=1``; ``art@8`` weighs once in 8 steps, and ``art@epoch`` once in an
epoch. Weights of the present tasks sum to 1 (``normalize="mean"``) unless the text says otherwise: one learning rate
then suits all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from torch import nn
from torchjd.aggregation import IMTLG, MGDA, Aggregator, AlignedMTL, PCGrad, UPGrad
from torchjd.scalarization import DWA, FAMO, IMTLL, STCH, UW, GeometricMean, Mean, Random, Scalarizer, Sum

from art_optim import ArtAblation, FixedWeighting, TaskReweightedOptimizer
from art_optim.gradients.aggregation import JacobianAggregation
from art_optim.weighting import Weighting, available
from art_optim.weighting import create as create_registered

from .authors import HostArt
from .loops import Loop, on_the_host, pooled, scalarized
from .options import parse, write
from .variants import VARIANTS

ABLATION = "art-ablation"
FIXED = "fixed"
FIXED_AT = "fixed-at:"
EPOCH = "epoch"

# Those that need no solver (CAGrad and Nash-MTL take a hundred times as long) and no memory of rows, so that a task may
# be missing from a batch.
AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "aligned_mtl": AlignedMTL,
    "imtl_g": IMTLG,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "upgrad": UPGrad,
}
SCALARIZERS: dict[str, Callable[[int], Scalarizer]] = {
    "torchjd.Sum": lambda num_tasks: Sum(),
    "torchjd.Mean": lambda num_tasks: Mean(),
    "torchjd.DWA": lambda num_tasks: DWA(),
    "torchjd.FAMO": FAMO,
    "torchjd.GeometricMean": lambda num_tasks: GeometricMean(),
    "torchjd.IMTLL": IMTLL,
    "torchjd.Random": lambda num_tasks: Random(),
    "torchjd.STCH": lambda num_tasks: STCH(mu=1.0),
    "torchjd.UW": UW,
}
AUTHORS, POOLED = "authors", "pooled"

# What tuning tries beside the learning rate: a hyperparameter that a paper says to tune, around its default.
TUNED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "art": ("temperature", (0.3, 1.0, 3.0)),
    "dwa": ("temperature", (0.5, 2.0, 8.0)),
    "famo": ("lr", (0.0025, 0.025, 0.25)),
    "gradnorm": ("alpha", (0.5, 1.5, 3.0)),
    "imtl_l": ("lr", (0.0025, 0.025, 0.25)),
    "relobralo": ("temperature", (0.1, 1.0, 10.0)),
    "softadapt": ("beta", (0.1, 1.0, 10.0)),
    "stch": ("mu", (0.1, 1.0, 10.0)),
    "uncertainty": ("lr", (0.0025, 0.025, 0.25)),
    "uw_so": ("temperature", (0.1, 1.0, 10.0)),
}
COUNTS_EPOCHS = ("dwa", "igb", "stch")
"""Weightings with a ``period``, which is an epoch of the problem unless the text says otherwise."""


@dataclass(frozen=True)
class Method:
    """A method, as a text names it.

    Attributes:
        kind: Its name without hyperparameters.
        options: The hyperparameters that the text has.
        interval: Steps from one weighing to the next, or ``"epoch"``.
        averaged: The method whose weights a control averages, else empty.
    """

    kind: str
    options: tuple[tuple[str, Any], ...] = ()
    interval: int | str = 1
    averaged: str = ""

    @classmethod
    def parse(cls, text: str) -> Method:
        """Return the method that a text names.

        Raises:
            ValueError: The name, a hyperparameter or the interval cannot be read.

        Example:
            >>> Method.parse("art:temperature=1@8")
            Method(kind='art', options=(('temperature', 1.0),), interval=8, averaged='')
        """
        if text.startswith(FIXED_AT):
            averaged = cls.parse(text.removeprefix(FIXED_AT))
            if averaged.kind == FIXED:
                raise ValueError(f"method {text!r} averages fixed weights; name a method whose weights move")
            return cls(FIXED, averaged=str(averaged))
        name, at, interval = text.partition("@")
        if at and not (interval == EPOCH or (interval.isdecimal() and int(interval) > 0)):
            raise ValueError(f"method {text!r} has the interval {interval!r}; write a positive number, as in art@8")
        every = interval if interval == EPOCH else int(interval or 1)
        kind, _, options = canonical(name).partition(":") if is_weighting(name) else (name, "", "")
        if not is_weighting(name) and name not in known():
            raise ValueError(
                f"method {text!r} is not known; choose from {', '.join(known())}, or put {FIXED_AT} before one of them"
            )
        method = cls(kind, tuple((parse(text, options) if options else {}).items()), every)
        if at and not method.has_weighting:
            raise ValueError(f"method {text!r} is a plain loop, which weighs in every step; leave out @{interval}")
        return method

    def __str__(self) -> str:
        if self.averaged:
            return FIXED_AT + self.averaged
        options = ",".join(f"{key}={write(value)}" for key, value in self.options)
        every = "" if self.interval == 1 else f"@{self.interval}"
        return f"{self.kind}{':' if options else ''}{options}{every}"

    @property
    def has_weighting(self) -> bool:
        """Whether the wrapper takes it; the others are plain loops."""
        return self.kind not in {AUTHORS, POOLED, *SCALARIZERS}

    def start(
        self,
        inner: Any,
        tasks: Sequence[str],
        seed: int,
        epoch: int = 1,
        shared: Sequence[nn.Parameter] = (),
        weights: Sequence[float] | None = None,
    ) -> TaskReweightedOptimizer | Loop:
        """Return the optimizer of this method around an inner one.

        Args:
            inner: The optimizer of the network.
            tasks: The names of the tasks.
            seed: Of a method that draws.
            epoch: Steps of an epoch.
            shared: The parameters that GradNorm looks at.
            weights: The weights of a control.
        """
        if self.kind == AUTHORS:
            return Loop(inner, tasks, on_the_host(HostArt(len(tasks))))
        if self.kind == POOLED:
            return Loop(inner, tasks, pooled)
        if self.kind in SCALARIZERS:
            scalarizer = SCALARIZERS[self.kind](len(tasks))
            return Loop(inner, tasks, scalarized(scalarizer), scalarizer, epoch)
        interval = epoch if self.interval == EPOCH else int(self.interval)
        return TaskReweightedOptimizer(inner, tasks, self.weighting(seed, epoch, shared, weights), interval=interval)

    def weighting(
        self,
        seed: int = 0,
        epoch: int = 1,
        shared: Sequence[nn.Parameter] = (),
        weights: Sequence[float] | None = None,
    ) -> Weighting:
        """Return the weighting of a method that has one: what is no plain loop."""
        if self.averaged:
            return FixedWeighting(list(weights or [1.0]), normalize="mean")
        if self.kind in AGGREGATORS:
            return JacobianAggregation(AGGREGATORS[self.kind](), seed=seed, normalize="mean")
        given = dict(self.options)
        if self.kind in COUNTS_EPOCHS:
            given = {"period": epoch} | given
        if shared and self.kind == "gradnorm":
            return replace(_construct(self.kind, given, str(self), seed), shared=list(shared))
        return _construct(self.kind, given, str(self), seed)

    def trials(self) -> list[Method]:
        """Return what tuning tries: the values of its hyperparameter, or itself where it has none to tune."""
        key, values = TUNED.get(self.kind, ("", ()))
        if not values or key in dict(self.options):
            return [self]
        return [Method.parse(str(replace(self, options=(*self.options, (key, value))))) for value in values]


def known() -> list[str]:
    """The names of the methods, without hyperparameters and without those that need weights."""
    weightings = [name for name in available() if name != FIXED]
    return [*weightings, *AGGREGATORS, POOLED, AUTHORS, *SCALARIZERS, ABLATION, *VARIANTS]


def default() -> list[str]:
    """What is compared unless told otherwise: every weighting and aggregator, and the controls."""
    weightings = [name for name in available() if name != FIXED]
    return [*weightings, *AGGREGATORS, f"{FIXED_AT}art"]


def is_weighting(text: str) -> bool:
    """Whether a text, without an interval, names a weighting by itself: no aggregator and no plain loop."""
    kind = text.partition(":")[0]
    return kind in available() or kind == ABLATION or kind in VARIANTS


def create(text: str, seed: int | None = None) -> Weighting:
    """Construct the weighting that a text names.

    Args:
        text: A registered name, ``art-ablation`` or a variant, and hyperparameters after a colon; those of ``fixed``
            are the tasks' weights.
        seed: Of a weighting that draws, unless the text has one.

    Raises:
        ValueError: The name or a hyperparameter is not known, or a value is refused.

    Example:
        >>> create("art:temperature=0.1").temperature
        0.1
        >>> create("fixed:rain=1,haze=3").weights
        {'haze': 3.0, 'rain': 1.0}
    """
    return _construct(*_parse(text), text, seed)


def canonical(text: str) -> str:
    """Return the one text that names this weighting: hyperparameters in order, without those at their defaults.

    Example:
        >>> canonical("art:decay=0.9990,temperature=3")
        'art:decay=0.999'
    """
    kind, given = _parse(text)
    weighting = create(text)
    if isinstance(weighting, FixedWeighting):
        values = dict(weighting.weights) | {"normalize": weighting.normalize}
        defaults: dict[str, Any] = {"normalize": "mean"}
    else:
        values = {field.name: getattr(weighting, field.name) for field in fields(weighting)}
        defaults = {field.name: field.default for field in fields(weighting)} | {"normalize": "mean", "seed": MISSING}
        if "seed" not in given:
            values.pop("seed", None)
    differing = {key: value for key, value in values.items() if value != defaults.get(key, MISSING)}
    options = ",".join(f"{key}={write(value)}" for key, value in sorted(differing.items()))
    return f"{kind}:{options}" if options else kind


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    kind, _, options = text.partition(":")
    example = "fixed:rain=0.2,haze=0.8" if kind == FIXED else "art:temperature=0.1,decay=0.999"
    if kind == FIXED and not options:
        raise ValueError(f"weighting {text!r} has no weights; write them as in {example}")
    return kind, parse(f"weighting {text!r}", options, example) if ":" in text else {}


def _construct(kind: str, given: dict[str, Any], text: str, seed: int | None) -> Weighting:
    try:
        if kind == FIXED:
            weights = {key: value for key, value in given.items() if key != "normalize"}
            return FixedWeighting(weights, normalize=given.get("normalize", "mean"))
        known = [field.name for field in fields(_class(kind))]
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(
                f"weighting {text!r} has no hyperparameter {unknown[0]!r}; {kind} takes {', '.join(known)}: "
                "choose of these"
            )
        if seed is not None and "seed" in known:
            given = {"seed": seed} | given
        return _class(kind)(**{"normalize": "mean"} | given)
    except TypeError as error:
        raise ValueError(f"weighting {text!r}: {error}") from None


def _class(kind: str) -> type[Weighting]:
    if kind == ABLATION:
        return ArtAblation
    if kind in VARIANTS:
        return VARIANTS[kind]
    if kind not in available():
        names = ", ".join([*available(), ABLATION])
        raise ValueError(f"weighting {kind!r} is not known; choose one of {names}, or {FIXED_AT}FOLDER of a run")
    return type(create_registered(kind))
