"""The training of a network by a recipe: stages, steps, checkpoints, resuming.

A step depends on the configuration, the data and the step's number alone. So a run that was interrupted, or killed,
goes on from its last checkpoint to the same result; on one CPU bit for bit.
"""

from __future__ import annotations

import inspect
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import art_optim
from art_optim import EqualWeighting, TaskReweightedOptimizer, per_task_mean
from benchmarks import methods
from benchmarks.machine import processor

from . import data, layouts, models, processes, recipes, runs, samplers
from .data import Batch
from .degradations import to_uint8
from .history import History
from .layouts import Pair, Pairs
from .processes import Group
from .progress import Progress
from .recipes import Recipe, Schedule, Span, Stage
from .restoring import precision

Precision = Literal["fp32", "bf16", "fp16"]
LOSSES: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "smooth-l1": F.smooth_l1_loss}

SAVE_SECONDS = 300.0
ROWS = 100_000
"""The most steps of a run that its history has, about: of a longer run every second or third, and so on."""


@dataclass(frozen=True)
class Config:
    """What a run depends on, beside its data; ``weighting`` as :mod:`benchmarks.methods` writes it."""

    setting: str
    model: str
    recipe: Recipe
    steps: int
    batch: int
    patch: int
    schedule: Schedule = "mixed"
    scale: str = "paper"
    weighting: str = "art"
    interval: int = 1
    seed: int = 0
    precision: Precision = "fp32"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return layouts.SETTINGS[self.setting]

    @property
    def sampler(self) -> dict[str, Any]:
        """The arguments of the sampler in this setting."""
        given = self.recipe.sampler.get(self.setting, self.recipe.sampler.get("default"))
        if given is None:
            raise ValueError(
                f"recipe {self.recipe.name!r} has samplers for {', '.join(self.recipe.sampler)}, none for "
                f"{self.setting!r}; add one, or a default"
            )
        return dict(given)

    def described(self) -> dict[str, Any]:
        """Return the identity of the run, as JSON has it, but for its data."""
        given = {**asdict(self), "weighting": methods.canonical(self.weighting), "recipe": self.recipe.name}
        recipe = self.recipe.described()
        own = {key: recipe[key] for key in ("optimizer", "loss", "average", "stages", "order")}
        if self.recipe.shuffle_colours:
            own["shuffle_colours"] = True
        return {**given, "tasks": list(self.tasks), "sampler": self.sampler, **own}


@dataclass(frozen=True)
class Execution:
    """How a run is executed, which changes its result in the last bits at most.

    ``save_every`` and ``validate_every`` count steps; 0 saves every five minutes, and never validates.
    """

    device: str = "cpu"
    workers: int = 0
    channels_last: bool = False
    compile: bool = False
    save_every: int = 0
    validate_every: int = 0
    tensorboard: bool = False


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has saved a checkpoint."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"interrupted after step {step}")
        self.status = 128 + number


class Training:
    """A network in training: all that a step changes, and a checkpoint has."""

    def __init__(self, config: Config, group: Group, execution: Execution) -> None:
        self.config, self.group, self.execution = config, group, execution
        torch.manual_seed(config.seed)
        self.network = models.create(config.model, config.scale)
        if any(stage.contrast for stage in config.recipe.stages) and not _has_contrast(self.network):
            raise ValueError(
                f"recipe {config.recipe.name!r} trains a contrastive loss, which model {config.model!r} does not have; "
                f"choose another recipe, such as {recipes.default(config.model, config.schedule).name!r}"
            )
        self.memory_format = torch.channels_last if execution.channels_last else torch.preserve_format
        self.network.to(group.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.average = Average(self.network, config.recipe.average) if config.recipe.average else None
        self.scaler = torch.amp.GradScaler(group.device.type) if config.precision == "fp16" else None
        self.step = 0
        self.skipped = 0

    def optimizer_for(self, span: Span) -> TaskReweightedOptimizer:
        """Return a new optimizer of a stage."""
        config = self.config
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        inner = config.recipe.make_optimizer(parameters, lr=span.learning_rate(span.start))
        equal = EqualWeighting(normalize="mean")
        return TaskReweightedOptimizer(
            inner,
            config.tasks,
            methods.create(config.weighting, config.seed) if span.weighed else equal,
            interval=config.interval if span.weighed else 1,
            nonfinite="skip",
        )

    def enter(self, span: Span) -> None:
        """Begin a stage: with a new optimizer, and a network that computes what the stage trains."""
        self.span, self.optimizer = span, self.optimizer_for(span)
        self.model = self.group.wrap(self.network.train())
        if self.execution.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def train(self, batch: Batch) -> None:
        """Train one step, whose random numbers (drop path) come from the seed, the step and the rank alone."""
        torch.manual_seed(_hash(self.config.seed, self.step, self.group.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.span.learning_rate(self.step)
        degraded = batch.degraded.contiguous(memory_format=self.memory_format)
        with precision(self.config.precision, self.group.device):
            per_sample, restored = sample_losses(
                self.model, degraded, batch.clean, batch.key, self.span.stage, LOSSES[self.config.recipe.loss]
            )
        losses = per_task_mean(per_sample, batch.task_ids, len(self.config.tasks))
        self.optimizer.zero_grad()
        skipped = self.optimizer.skipped
        self.optimizer.step(losses, scaler=self.scaler)
        self.skipped += self.optimizer.skipped - skipped
        if self.scaler is not None:
            scale = self.scaler.get_scale()
            self.scaler.update()
            self.skipped += self.scaler.get_scale() < scale
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        self._outputs = restored, batch.clean

    @torch.no_grad()
    def row(self) -> Tensor:
        """Return what the history has of the last step: losses, weights and PSNR, [2K + 1], on the device."""
        restored, clean = self._outputs
        psnr = torch.full((), torch.nan, device=clean.device)
        if restored is not None:
            error = (restored.float() - clean).square().flatten(1).mean(1)
            psnr = self.group.mean(-10 * error.clamp_min(1e-10).log10().mean())
        return torch.stack([*self.optimizer.losses.values(), *self.optimizer.weights.values(), psnr])

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint, but for the identity of the run."""
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, but for its optimizer, which is there once a stage is entered."""
        self.network.load_state_dict(state["network"])
        self.step, self.skipped = state["step"], state["skipped"]
        if self.average is not None:
            self.average.load(state["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


class Average:
    """The exponential moving average of a network's parameters; ``state`` [name] is what the network would load.

    The decay of step n is at most (1 + n) / (10 + n), or the average of a short run would be its initial network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        current = network.state_dict()
        self.state = {name: value.clone() for name, value in current.items()}
        floating = [name for name, value in current.items() if value.is_floating_point()]
        self._averages, self._values = ([values[name] for name in floating] for values in (self.state, current))
        self._copies = [(self.state[name], value) for name, value in current.items() if name not in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after a step, counted from 1."""
        torch._foreach_lerp_(self._averages, self._values, 1 - min(self.decay, (1 + step) / (10 + step)))
        for copy, value in self._copies:
            copy.copy_(value)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over the ``state`` of a checkpoint."""
        for name, value in state.items():
            self.state[name].copy_(value)


def sample_losses(
    model: nn.Module, degraded: Tensor, clean: Tensor, key: Tensor | None, stage: Stage, loss: Callable[..., Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of each sample [B], float32, and the restored images, if the stage restores.

    A sample's loss is the mean over its pixels, plus the stage's share of its contrastive loss: the cross entropy of
    its key against the queue, whose right class is 0.
    """
    if not stage.contrast:
        restored = model(degraded)
    elif stage.restore:
        restored, logits = model(degraded, key)
    else:
        restored, logits = None, model(degraded, key, restore=False)
    per_sample = torch.zeros(len(degraded), device=degraded.device)
    if restored is not None:
        per_sample = loss(restored.float(), clean, reduction="none").flatten(1).mean(1)
        restored = restored.detach()
    if stage.contrast:
        right = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        per_sample = per_sample + stage.contrast * F.cross_entropy(logits.float(), right, reduction="none")
    return per_sample, restored


def train(config: Config, folder: Path, output: Path, execution: Execution, progress: Progress) -> dict[str, Any]:
    """Train a network on the pairs in ``folder``, or go on training it, and return what ``output/run.json`` says.

    Raises:
        ValueError: The data, an option or the recipe does not fit, or ``output`` holds another run. Nothing has been
            written then.
        Interrupted: The process got SIGINT or SIGTERM; the same call goes on from here.
    """
    with processes.joined(execution.device) as group:
        pairs = layouts.read(config.setting, folder)
        identity = {**config.described(), "data": {"digest": layouts.digest(pairs)}}
        loop = _Loop(config, execution, group, pairs, output, identity, progress)
        saved = runs.resume(output, identity, group.device)
        if saved is not None and runs.finished(output):
            progress.say(f"{output} is finished")
            return runs.load(output).config
        loop.start(saved)
        del saved  # as large as the training itself
        with _signals(once=group.size == 1) as signals:
            return loop.run(signals)


def loader(
    config: Config, span: Span, pairs: Pairs, group: Group, workers: int
) -> Callable[[range], DataLoader[Batch]]:
    """Return what makes a loader of this process's part of the batches of a range of a span's steps.

    Raises:
        ValueError: The batch or the sampler does not fit.
    """
    given = config.sampler
    if "shares" in given:
        counts = np.bincount(pairs.task_ids, minlength=len(config.tasks)).tolist()
        given["factors"] = recipes.factors(given.pop("shares"), dict(zip(config.tasks, counts, strict=True)))
    sampler = samplers.create(
        pairs=pairs,
        batch=config.batch,
        seed=config.seed,
        tasks=span.tasks,
        rank=group.rank,
        world=group.size,
        **given,
    )
    options = {"key": bool(span.stage.contrast), "shuffle_colours": config.recipe.shuffle_colours}
    return lambda steps: data.loader(pairs, sampler, config.patch, steps, **options, workers=workers)


class _Loop:
    def __init__(
        self,
        config: Config,
        execution: Execution,
        group: Group,
        pairs: Pairs,
        output: Path,
        identity: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.config, self.execution, self.group, self.pairs = config, execution, group, pairs
        self.output, self.identity, self.progress = output, identity, progress
        self.training = Training(config, group, execution)
        self.spans = recipes.spans(config.recipe, config.schedule, config.tasks, config.steps)
        for span in self.spans:  # refuses what does not fit before anything starts
            self.training.optimizer_for(span)
        self.loaders = [loader(config, span, pairs, group, execution.workers) for span in self.spans]
        self.seconds, self.began, self.saved_at = 0.0, time.perf_counter(), time.perf_counter()
        if group.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all patches are of one size
        self.test: list[Pair] = []
        if execution.validate_every:
            self.test = _some_a_task(layouts.read(config.setting, pairs.folder, "test"))

    def start(self, saved: dict[str, Any] | None) -> None:
        """Begin the run, or go on from a checkpoint."""
        config, training = self.config, self.training
        self.history = History(len(config.tasks))
        if saved is not None:
            self.history = History(len(config.tasks), self.output, saved["step"])
            self.seconds = runs.load(self.output).config["seconds"]
            training.load_state_dict(saved)
        elif self.group.first:
            self.output.mkdir(parents=True, exist_ok=True)
            runs.write_json(self.output / runs.CONFIG, self._described())
        span = next((span for span in self.spans if training.step < span.end), self.spans[-1])
        training.enter(span)
        if saved is not None and training.step > span.start:  # else it has the optimizer of the stage before
            training.optimizer.load_state_dict(saved["optimizer"])
        self.progress.say(
            f"{config.model} of {config.scale} scale, {config.schedule} by {config.recipe.name}, {config.weighting}: "
            f"{config.steps} steps of {config.batch} patches of {config.patch}"
            + (f"; going on after step {training.step}" if saved else "")
        )

    def run(self, signals: list[int]) -> dict[str, Any]:
        """Train to the end; return what ``run.json`` says."""
        config, training, group = self.config, self.training, self.group
        every = max(1, config.steps // ROWS)
        with self.progress.over(config, training.step, self.output, self.execution.tensorboard):
            for span, loader in zip(self.spans, self.loaders, strict=True):
                if training.step >= span.end:
                    continue
                if training.span is not span:
                    training.enter(span)
                for batch in loader(range(training.step, span.end)):
                    training.train(batch.to(group.device))
                    if training.step % every == 0 or training.step == config.steps:
                        row = training.row()  # on every rank: it averages over them
                        if group.first:
                            self.history.append(training.step, row)
                    self.watch()
                    self.stop_at(signals)
        return self.save()

    def watch(self) -> None:
        step = self.training.step
        if self.execution.validate_every and step % self.execution.validate_every == 0 and self.group.first:
            self.history.validation[step] = self.validate()
            self.progress.validated(step, self.history.validation[step])
        if self.progress.due(step):
            self.progress.show(step, self.history.read(), self.training.optimizer.param_groups[0]["lr"])
        every = self.execution.save_every
        due = step % every == 0 if every else time.perf_counter() - self.saved_at > SAVE_SECONDS
        if due and step < self.config.steps:
            self.save()

    def stop_at(self, signals: list[int]) -> None:
        """Stop where a signal came; several processes agree on it, every tenth step."""
        step = self.training.step
        if step == self.config.steps or (self.group.size > 1 and step % 10):
            return
        if self.group.any(bool(signals)):
            self.save()
            raise Interrupted(signals[0] if signals else signal.SIGINT, step)

    def save(self) -> dict[str, Any]:
        """Write the history, then the checkpoint that it must not be behind, then how far the run is; return that."""
        described = self._described()
        if self.group.first:
            self.history.save(self.output / runs.HISTORY)
            checkpoint = {"run": self.identity, **self.training.state_dict()}
            runs.write(self.output / runs.CHECKPOINT, lambda file: torch.save(checkpoint, file))
            runs.write_json(self.output / runs.CONFIG, described)
        self.saved_at = time.perf_counter()
        return described

    @torch.inference_mode()
    def validate(self) -> list[float]:
        """Return the mean PSNR of the first test images of each task, restored by the network as it would be saved."""
        from .metrics import psnr  # its import takes as long as torch's

        network = models.create(self.config.model, self.config.scale).to(self.group.device)
        state = self.training.state_dict()
        network.load_state_dict(state.get("average", state["network"]))
        network.eval()
        scores: list[list[float]] = [[] for _ in self.config.tasks]
        for pair in self.test:
            degraded, clean = data.load(pair)
            restored = network(degraded[None].to(self.group.device) / 255)[0].cpu()
            scores[pair.task].append(psnr(to_uint8(restored), clean))
        return [float(np.mean(values)) for values in scores]

    def _described(self) -> dict[str, Any]:
        step = self.training.step
        return {
            **self.identity,
            "data": {"folder": str(self.pairs.folder), **self.identity["data"]},
            "spans": [
                {"start": span.start, "end": span.end, "tasks": list(span.tasks), "weighed": span.weighed}
                for span in self.spans
            ],
            "execution": asdict(self.execution),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "art_optim": art_optim.__version__,
            },
            "machine": self._machine(),
            "parameters": sum(parameter.numel() for parameter in self.training.network.parameters()),
            "step": step,
            "skipped": self.training.skipped,
            "finished": step == self.config.steps,
            "seconds": self.seconds + time.perf_counter() - self.began,
        }

    def _machine(self) -> dict[str, Any]:
        device = self.group.device
        return {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": self.group.size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        }


def _some_a_task(pairs: Pairs, number: int = 4) -> list[Pair]:
    first = np.searchsorted(pairs.task_ids, np.arange(len(pairs.tasks)))
    last = np.searchsorted(pairs.task_ids, np.arange(len(pairs.tasks)), side="right")
    return [
        pairs[int(index)]
        for start, end in zip(first, last, strict=True)
        for index in np.unique(np.linspace(start, end - 1, number).round())
    ]


@contextmanager
def _signals(once: bool) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, to end between two steps.

    ``once``: another of the same ends the process as usual. Else it does not: torchrun hands on to its processes an
    interrupt that the terminal has sent to them already.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if once:
            signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_contrast(network: nn.Module) -> bool:
    return "key" in inspect.signature(network.forward).parameters


def _hash(*numbers: int) -> int:
    return int.from_bytes(sha256(repr(numbers).encode()).digest()[:8], "little") >> 1
