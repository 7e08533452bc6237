"""Train a network, or go on training it.

The paper's "-M", "-M + Art", "-S" and "-S + Art" are four runs with ``--setting multiple --model srresnet``::

    --schedule mixed --weighting equal            --schedule mixed --weighting art
    --schedule sequential --weighting equal       --schedule sequential --weighting art

In sequential training Art weighs the last stage, the one with all tasks; the stages before have equal weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from rich.console import Console

from .. import layouts, models, recipes, samplers, weighting_names
from ..progress import Progress
from ..recipes import Recipe, Schedule
from ..training import PRECISIONS, Config, Execution, Interrupted, train

HELP = "train a network by the paper's recipe, or go on training it"

# Batch, patch and steps of the smaller scales, at most; the paper's are the recipe's.
SIZES = {"tiny": (4, 32, 200), "small": (16, 64, 20_000)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--setting", choices=layouts.SETTINGS, required=True, help="the tasks, and their folders")
    parser.add_argument("--model", choices=models.available(), required=True, help="the network")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the setting's folder, as prepared")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="the run's folder; goes on if begun")
    weightings = "art, equal, art:temperature=1, fixed-at:RUN for that run's average weights, ..."
    parser.add_argument("--weighting", default="art", metavar="NAME", help=weightings)
    parser.add_argument("--interval", type=_count, default=1, metavar="N", help="weigh once in N steps")
    parser.add_argument("--schedule", choices=get_args(Schedule), default="mixed", help="how the tasks enter")
    parser.add_argument("--recipe", metavar="NAME", help=f"{', '.join(recipes.available())}, or a file; of the model")
    parser.add_argument("--scale", choices=models.SCALES, default="paper", help="of network, batch, patch and steps")
    parser.add_argument("--steps", type=_count, metavar="N", help="length of the run; the recipe keeps its proportions")
    parser.add_argument("--batch", type=_count, metavar="N", help="samples a step, of all processes together")
    parser.add_argument("--patch", type=_count, metavar="N", help="side of the patches")
    parser.add_argument("--sampler", choices=[k for k in samplers.KINDS if k != "oversampling"], help="who comes when")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial network and the samples")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network's arithmetic")
    parser.add_argument("--device", default="cpu", help="e.g. cuda")
    parser.add_argument("--channels-last", action="store_true", help="lay images out with their channels last")
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that load images; 0: this one")
    parser.add_argument("--save-every", type=_count, metavar="N", help="steps from a checkpoint to the next; 5 minutes")
    parser.add_argument(
        "--validate-every", type=_count, metavar="N", help="steps from a look at test images to the next"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard as well")


def run(given: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    console = Console() if int(os.environ.get("RANK", 0)) == 0 else None
    progress = Progress(console)
    if given.tensorboard and find_spec("tensorboard") is None:
        print("train: --tensorboard needs tensorboard: pip install tensorboard, or leave it out", file=sys.stderr)
        return 2
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
    except ValueError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
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
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number, at least 1")
    return int(text)
