"""How each network is trained: the recipes of the papers, one TOML file each in ``recipes/``.

All lengths in a file are iterations of the published training. A run of other length keeps their proportions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from . import samplers
from .layouts import SETTINGS

FOLDER = Path(__file__).parent / "recipes"

Schedule = Literal["mixed", "sequential"]
"""All tasks from the start, or tasks that enter one after the other."""

Kind = Literal["constant", "cosine", "restarts", "decay"]
"""The courses of a learning rate."""

LAST = 4
"""Parts of a sequential training that its last stage takes, the one with all tasks; each stage before takes one."""


@dataclass(frozen=True)
class LearningRate:
    """The learning rate over the iterations of a stage.

    - ``"constant"``: ``start``;
    - ``"cosine"``: from ``start`` to ``end`` within ``period``, and back up in the next, as
      ``torch.optim.lr_scheduler.CosineAnnealingLR`` does;
    - ``"restarts"``: from ``start`` to ``end`` within each ``period``;
    - ``"decay"``: ``start``, times ``factor`` after each ``period``.

    Over the first ``warmup`` iterations it rises linearly from 0 to ``start``; the period counts from there.
    """

    kind: Kind
    start: float
    end: float = 0.0
    period: int = 1
    factor: float = 1.0
    warmup: int = 0

    def at(self, iteration: float) -> float:
        """Return the learning rate of an iteration.

        Example:
            >>> LearningRate("decay", 1e-3, factor=0.1, period=60).at(61)
            0.0001
        """
        if iteration < self.warmup:
            return self.start * iteration / self.warmup
        periods = (iteration - self.warmup) / self.period
        if self.kind == "constant":
            return self.start
        if self.kind == "decay":
            return self.start * self.factor ** math.floor(periods)
        phase = periods % 1 if self.kind == "restarts" else periods
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * phase)) / 2


@dataclass(frozen=True)
class Stage:
    """A stage of a training, which begins with a new optimizer.

    - ``steps``: its iterations;
    - ``restore``: whether it trains to restore; else the network's contrastive part alone;
    - ``contrast``: the share of the contrastive loss, of networks that have one (AirNet).
    """

    steps: int
    learning_rate: LearningRate
    restore: bool = True
    contrast: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A published training.

    - ``source``: where it is published, and where this differs from it;
    - ``models``: the networks that it is the default of;
    - ``schedules``: the schedules that it is the default for;
    - ``optimizer``: a class of ``torch.optim`` by ``name``, and its arguments beside the learning rate;
    - ``loss``: of a sample, the mean of ``"l1"`` or ``"smooth-l1"`` over pixels and channels;
    - ``sampler``: by setting, arguments of :func:`.samplers.create`, or ``"default"`` for settings that are not named;
      instead of the factors of oversampling it has the tasks' ``shares`` of the samples;
    - ``average``: the decay of the moving average of the parameters, by which the network is judged; 0 without one;
    - ``order``: of the tasks in sequential training; tasks that are not named enter last;
    - ``shuffle_colours``: whether patches come with their channels in any order, see :class:`.data.Patches`.
    """

    name: str
    source: str
    models: tuple[str, ...]
    schedules: tuple[Schedule, ...]
    optimizer: Mapping[str, Any]
    loss: Literal["l1", "smooth-l1"]
    batch: int
    patch: int
    sampler: Mapping[str, Mapping[str, Any]]
    stages: tuple[Stage, ...]
    average: float = 0.0
    order: tuple[str, ...] = field(default=())
    shuffle_colours: bool = False

    @property
    def steps(self) -> int:
        """The iterations of the published training."""
        return sum(stage.steps for stage in self.stages)

    def make_optimizer(self, parameters: Iterable[Tensor], lr: float) -> Optimizer:
        """Construct the optimizer.

        Raises:
            ValueError: There is no such class, or it does not take these arguments.
        """
        given = dict(self.optimizer)
        kind = getattr(torch.optim, str(given.pop("name", None)), None)
        try:
            if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
                raise TypeError("no such class")
            made: Optimizer = kind(parameters, lr=lr, **given)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"recipe {self.name!r} has the optimizer {dict(self.optimizer)} ({error}); give the name of a class of "
                "torch.optim, and arguments that it takes"
            ) from None
        return made

    def described(self) -> dict[str, Any]:
        """Return what a run depends on, as JSON has it."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("source", "models", "schedules")}
        return {**kept, "stages": [dict(stage) for stage in kept["stages"]], "order": list(self.order)}


@dataclass(frozen=True)
class Span:
    """The steps ``start`` up to ``end`` of a run, in which it trains ``tasks`` by one stage of its recipe.

    - ``iterations``: those of the recipe that the span stands for;
    - ``weighed``: whether the method under study weighs the tasks; else their weights are equal.
    """

    stage: Stage
    tasks: tuple[str, ...]
    start: int
    end: int
    iterations: float
    weighed: bool

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the run."""
        return self.stage.learning_rate.at((step - self.start) / (self.end - self.start) * self.iterations)


def spans(recipe: Recipe, schedule: Schedule, tasks: Sequence[str], steps: int) -> list[Span]:
    """Divide a run of ``steps`` into the stages of its recipe.

    In sequential training, as MiOIR has it, the last stage of the recipe is divided: one task more in each part, and
    ``LAST`` parts with all of them. A learning rate with restarts starts anew in each part, another runs its course in
    each stage.

    The method under study weighs the stages that restore all tasks. The others have equal weights: while tasks are
    still missing there is nothing yet to balance, and the paper's "-S" and "-S + Art" then share all but the last
    stage.
    """
    *before, last = recipe.stages
    parts: list[
        tuple[Stage, tuple[str, ...], float, float]
    ] = []  # stage, tasks, length, iterations of its learning rate
    parts += [(stage, tuple(tasks), stage.steps, stage.steps) for stage in before]
    if schedule == "mixed":
        parts.append((last, tuple(tasks), last.steps, last.steps))
    else:
        order = sorted(tasks, key=lambda task: recipe.order.index(task) if task in recipe.order else len(recipe.order))
        unit = last.steps / (len(order) - 1 + LAST)
        restarts = last.learning_rate.kind == "restarts"
        stage = replace(last, learning_rate=replace(last.learning_rate, period=unit)) if restarts else last
        for number in range(1, len(order) + 1):
            length = unit * (LAST if number == len(order) else 1)
            parts.append((stage, tuple(order[:number]), length, length if restarts else last.steps))

    divided: list[Span] = []
    done, start = 0.0, 0
    for stage, names, length, iterations in parts:
        done += length
        end = math.floor(done / recipe.steps * steps + 1e-6)
        if end > start:  # a short run may have no step for a stage
            weighed = stage.restore and len(names) == len(tasks)
            divided.append(Span(stage, names, start, end, iterations, weighed))
        start = end
    return divided


def factors(shares: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, int]:
    """Return how often each sample of a task has to come, given their numbers, for tasks to have about their shares.

    Example:
        >>> factors({"rain": 24_000, "haze": 72_135}, {"rain": 200, "haze": 72_135})
        {'rain': 120, 'haze': 1}
    """
    often = {task: shares[task] / count for task, count in counts.items()}
    return {task: round(value / min(often.values())) for task, value in often.items()}


@cache
def available() -> dict[str, Recipe]:
    """Return the recipes by name.

    Example:
        >>> from benchmarks.restoration import recipes
        >>> recipes.available()["srresnet-mixed"].steps
        2500000
    """
    return {path.stem: read(path) for path in sorted(FOLDER.glob("*.toml"))}


def choose(name: str) -> Recipe:
    """Return the recipe of a name, or that in a TOML file.

    Raises:
        ValueError: There is none.
    """
    if name in available():
        return available()[name]
    if name.endswith(".toml") and Path(name).is_file():
        return read(Path(name))
    raise ValueError(f"recipe {name!r} is not known; choose one of {', '.join(available())}, or give a TOML file")


def default(model: str, schedule: Schedule) -> Recipe:
    """Return the recipe of a network for a schedule, or that of its other schedule.

    Raises:
        ValueError: The network has none.
    """
    fitting = [recipe for recipe in available().values() if model in recipe.models]
    if not fitting:
        raise ValueError(f"model {model!r} has no recipe of its own; choose one of {', '.join(available())}")
    return next((recipe for recipe in fitting if schedule in recipe.schedules), fitting[0])


def read(path: Path) -> Recipe:
    """Read a TOML file.

    Raises:
        ValueError: It is not TOML, lacks an entry, has one that is not known, or a value that is none of its choices.
    """
    try:
        given = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {path}: {error}; correct the file") from None
    stages = tuple(
        _make(
            Stage,
            {**stage, "learning_rate": _make(LearningRate, stage.get("learning_rate", {}), f"{path}: learning_rate")},
            f"{path}: stages",
        )
        for stage in given.pop("stages", [])
    )
    if not stages:
        raise ValueError(f"recipe {path} has no stages; give at least one, [[stages]]")
    recipe: Recipe = _make(
        Recipe,
        {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        | {"name": path.stem, "stages": stages},
        str(path),
    )
    for value, choices, what in (
        *((stage.learning_rate.kind, get_args(Kind), "kind") for stage in stages),
        *((schedule, get_args(Schedule), "schedule") for schedule in recipe.schedules),
        (recipe.loss, ("l1", "smooth-l1"), "loss"),
    ):
        if value not in choices:
            raise ValueError(f"recipe {path} has the {what} {value!r}; choose one of {', '.join(choices)}")
    for number, what in (
        *((getattr(stage.learning_rate, name), name) for stage in stages for name in ("start", "end", "factor")),
        *((stage.contrast, "contrast") for stage in stages),
        (recipe.average, "average"),
    ):
        if not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise ValueError(f"recipe {path} has the {what} {number!r}; give a number, at least 0")
    for setting, sampler in recipe.sampler.items():
        _check_sampler(path, setting, sampler)
    for count, least, what in (
        (recipe.batch, 1, "batch"),
        (recipe.patch, 1, "patch"),
        *((stage.steps, 1, "steps") for stage in stages),
        *((stage.learning_rate.period, 1, "period") for stage in stages),
        *((stage.learning_rate.warmup, 0, "warmup") for stage in stages),
    ):
        if not isinstance(count, int) or count < least:
            raise ValueError(f"recipe {path} has the {what} {count!r}; give a whole number, at least {least}")
    recipe.make_optimizer([torch.zeros(1, requires_grad=True)], lr=1e-3)
    return recipe


def _make(kind: type, values: Mapping[str, Any], place: str) -> Any:
    known = {f.name for f in fields(kind)}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(
            f"recipe {place} has the entries {', '.join(values)} ({error}); it takes {', '.join(sorted(known))}"
        ) from None


def _check_sampler(path: Path, setting: str, given: Any) -> None:
    if setting not in (*SETTINGS, "default"):
        raise ValueError(f"recipe {path} has a sampler for {setting!r}; give it for {', '.join(SETTINGS)} or default")
    entries = given if isinstance(given, Mapping) else {}
    if entries.get("kind") not in samplers.KINDS or not set(entries) <= {"kind", "by_type", "shares"}:
        raise ValueError(
            f"recipe {path} has the sampler {given!r} for {setting!r}; give a kind, one of "
            f"{', '.join(samplers.KINDS)}, and where wanted by_type or shares"
        )
    oversampling, shares = entries["kind"] == "oversampling", entries.get("shares", {})
    wanted = SETTINGS.get(setting, ()) if oversampling else ()
    if (oversampling and not wanted) or set(shares) != set(wanted) or not all(share > 0 for share in shares.values()):
        raise ValueError(
            f"recipe {path} has the sampler {given!r} for {setting!r}; 'oversampling' wants positive shares of all "
            "tasks of a setting that is named, the others none: correct them"
        )
