"""A weighting as a line of text: ``name[:key=value[,key=value]]``, as commands take it and runs record it.

``equal``, ``art:temperature=0.1``, ``art-ablation:rate=raw,correction=none``, ``fixed:rain=0.2,haze=0.5,noise=0.3``.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from art_optim import ArtAblation, FixedWeighting
from art_optim.weighting import Weighting, available
from art_optim.weighting import create as create_registered

from .history import weighed

ABLATION = "art-ablation"
FIXED = "fixed"
FIXED_AT = "fixed-at:"
CONSTANTS = {"true": True, "false": False}


def create(text: str, seed: int | None = None) -> Weighting:
    """Construct the weighting that a text names.

    Its weights sum to 1 (``normalize="mean"``) unless the text says otherwise: one learning rate then suits all.

    Args:
        text: A registered name or ``art-ablation``, and hyperparameters after a colon; those of ``fixed`` are the
            tasks' weights.
        seed: Of a weighting that draws, unless the text has one.

    Raises:
        ValueError: The name or a hyperparameter is not known, or a value is refused.

    Example:
        >>> create("art:temperature=0.1").temperature
        0.1
        >>> create("fixed:rain=1,haze=3").weights
        {'haze': 3.0, 'rain': 1.0}
    """
    kind, given = _parse(text)
    try:
        return _construct(kind, given, text, seed)
    except TypeError as error:
        raise ValueError(f"weighting {text!r}: {error}") from None


def _construct(kind: str, given: dict[str, Any], text: str, seed: int | None) -> Weighting:
    if kind == FIXED:
        normalize = given.pop("normalize", "mean")
        return FixedWeighting(given, normalize=normalize)
    known = [field.name for field in fields(_class(kind))]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"weighting {text!r} has no hyperparameter {unknown[0]!r}; {kind} takes {', '.join(known)}: choose of these"
        )
    if seed is not None and "seed" in known:
        given = {"seed": seed} | given
    return _class(kind)(**{"normalize": "mean"} | given)


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
    options = ",".join(f"{key}={_write(value)}" for key, value in sorted(differing.items()))
    return f"{kind}:{options}" if options else kind


def resolve(text: str) -> str:
    """Return the canonical text, with ``fixed-at:FOLDER`` replaced by that run's average weights, ``fixed:...``.

    Raises:
        ValueError: The folder has no finished run, or the text names no weighting.
    """
    if not text.startswith(FIXED_AT):
        return canonical(text)
    folder = Path(text.removeprefix(FIXED_AT))
    missing = [name for name in ("run.json", "history.npz") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"weighting {text!r}: {folder} has no {missing[0]}; give the folder of a run that was trained")
    if not json.loads((folder / "run.json").read_text())["finished"]:
        raise ValueError(
            f"weighting {text!r}: that run is not finished; an average is over all of a run: finish it first"
        )
    weights = ",".join(f"{task}={weight:.6g}" for task, weight in average_weights(folder).items())
    return canonical(f"{FIXED}:{weights}")


def average_weights(run: Path) -> dict[str, float]:
    """Average the weights of a finished run, of sum 1.

    The average of a task is over the steps that have a loss of it, in the stages that the method weighed: a sequential
    training begins with others.

    Raises:
        ValueError: A task has no loss in any of these steps.
    """
    config = json.loads((run / "run.json").read_text())
    with np.load(run / "history.npz") as history:
        steps, losses, weights = (history[name] for name in ("steps", "losses", "weights"))
    present = np.isfinite(losses) & weighed(steps, config["spans"])[:, None]
    counts = present.sum(axis=0)
    if not counts.all():
        raise ValueError(
            f"the history of {run} has no loss of task {config['tasks'][int(counts.argmin())]!r} where it weighs; an "
            "average weight wants every task: train longer"
        )
    average = np.where(present, weights, 0).sum(axis=0, dtype=np.float64) / counts
    return dict(zip(config["tasks"], (average / average.sum()).tolist(), strict=True))


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    kind, colon, options = text.partition(":")
    pairs = [option.partition("=") for option in options.split(",")] if colon else []
    if not all(key and equals and value for key, equals, value in pairs) or (kind == FIXED and not pairs):
        example = "fixed:rain=0.2,haze=0.8" if kind == FIXED else "art:temperature=0.1,decay=0.999"
        raise ValueError(f"weighting {text!r} is not name[:key=value[,key=value]]; write it as in {example}")
    keys = [key for key, _, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"weighting {text!r} has {twice[0]!r} twice; a hyperparameter has one value: leave one out")
    return kind, {key: _read(value) for key, _, value in pairs}


def _class(kind: str) -> type[Weighting]:
    if kind == ABLATION:
        return ArtAblation
    if kind not in available():
        names = ", ".join([*available(), ABLATION])
        raise ValueError(f"weighting {kind!r} is not known; choose one of {names}, or {FIXED_AT}FOLDER of a run")
    return type(create_registered(kind))


def _read(value: str) -> Any:
    if value in CONSTANTS:
        return CONSTANTS[value]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _write(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
