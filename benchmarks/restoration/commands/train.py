"""Train a network, or go on training it.

The paper's "-M", "-M + Art", "-S" and "-S + Art" are four runs with ``--setting multiple --model srresnet``::

    --schedule mixed --weighting equal            --schedule mixed --weighting art
    --schedule sequential --weighting equal       --schedule sequential --weighting art

In sequential training Art weighs the last stage, the one with all tasks; the stages before have equal weights.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from .. import layouts, models, recipes, samplers, weighting_names
from ..progress import Progress
from ..recipes import Recipe, Schedule
from ..restoring import PRECISIONS
from ..training import Config, Execution, Interrupted, train

HELP = "train a network by the paper's recipe, or go on training it"

# Batch, patch and steps of the smaller scales, at most; the paper's are the recipe's.
SIZES = {"tiny": (4, 32, 200), "small": (16, 64, 20_000)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    known = ", ".join(recipes.available())
    add = parser.add_argument
    add("--setting", choices=layouts.SETTINGS, required=True, help="the tasks, and the layout of their folder")
    add("--model", choices=models.available(), required=True, help="the network")
    add("--data", type=Path, required=True, metavar="DIR", help="the setting's folder, e.g. as prepare writes it")
    add("--output", type=Path, required=True, metavar="RUN", help="the run's folder; a run in it goes on")
    add("--weighting", default="art", metavar="NAME", help="art, equal, art:temperature=1, fixed-at:RUN, ...")
    add("--interval", type=_count, default=1, metavar="N", help="steps from one weighing to the next (default: 1)")
    add("--schedule", choices=get_args(Schedule), default="mixed", help="all tasks at once, or one after the other")
    add("--recipe", metavar="NAME", help=f"{known}, or a TOML file (default: that of the model and schedule)")
    add("--scale", choices=models.SCALES, default="paper", help="of the network, and of steps, batch and patch")
    add("--steps", type=_count, metavar="N", help="length of the run, in which the recipe keeps its proportions")
    add("--batch", type=_count, metavar="N", help="samples of a step, over all processes")
    add("--patch", type=_count, metavar="N", help="side of the patches in pixels")
    kinds = [kind for kind in samplers.KINDS if kind != "oversampling"]
    add("--sampler", choices=kinds, help="how tasks share the batches (default: the recipe's)")
    add("--seed", type=_number, default=0, metavar="N", help="of the initial network and of the samples (default: 0)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the network's arithmetic (default: fp32)")
    add("--device", default="cpu", help="e.g. cuda (default: cpu)")
    add("--channels-last", action="store_true", help="channels-last memory format; on a CPU a fifth faster")
    add("--compile", action="store_true", help="compile the network")
    add("--workers", type=_number, default=0, metavar="N", help="processes that load images (default: this one does)")
    add("--save-every", type=_count, metavar="N", help="steps between checkpoints (default: one in five minutes)")
    add("--validate-every", type=_count, metavar="N", help="steps between looks at test images (default: none)")
    add("--tensorboard", action="store_true", help="write RUN/tensorboard as well")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    console = Console() if int(os.environ.get("RANK", 0)) == 0 else None
    progress = Progress(console)
    if given.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs tensorboard: pip install tensorboard, or leave it out")
    try:
        config = configure(given)
        execution = Execution(
            given.device,
            given.workers,
            given.channels_last,
            given.compile,
            given.save_every or 0,
            given.validate_every or 0,
            given.tensorboard,
        )
        result = train(config, given.data, given.output, execution, progress)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"give a smaller --batch or --patch, or --precision bf16: {error}") from None
    except Interrupted as interrupted:
        progress.say(f"{interrupted} of {config.steps}; the same command goes on from {given.output}")
        return interrupted.status
    if result["skipped"]:
        progress.say(f"{result['skipped']} steps were left out: their gradients were not finite")
    progress.say(f"trained {result['steps']} steps in {result['seconds']:.0f} s: {given.output}")
    return 0


def configure(given: argparse.Namespace) -> Config:
    """Return the configuration that the options ask for.

    Raises:
        ValueError: The recipe or the weighting is not known.
    """
    recipe = recipes.choose(given.recipe) if given.recipe else recipes.default(given.model, given.schedule)
    batch, patch, steps = _sizes(recipe, given.scale)
    if given.sampler:
        recipe = replace(recipe, sampler={"default": {"kind": given.sampler}})
    return Config(
        setting=given.setting,
        model=given.model,
        recipe=recipe,
        steps=given.steps or steps,
        batch=given.batch or batch,
        patch=given.patch or patch,
        schedule=given.schedule,
        scale=given.scale,
        weighting=weighting_names.resolve(given.weighting),
        interval=given.interval,
        seed=given.seed,
        precision=given.precision,
    )


def _sizes(recipe: Recipe, scale: str) -> tuple[int, int, int]:
    batch, patch, steps = SIZES.get(scale, (recipe.batch, recipe.patch, recipe.steps))
    return min(batch, recipe.batch), min(patch, recipe.patch), min(steps, recipe.steps)


def _count(text: str) -> int:
    if _number(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number, at least 1")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number of 63 bits, at least 0")
    return int(text)
