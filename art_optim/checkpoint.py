"""The task state as a checkpoint has it: how it is described, where it lies, what is checked before it is loaded.

A checkpoint has, under :data:`KEY`, plain data that ``torch.load(weights_only=True)`` reads::

    {
        "format": 1,
        "tasks": ["rain", "haze"],
        "weighting": ("Art", {"temperature": 3.0, ...}),  # all hyperparameters, defaults too
        "state": {"smoothed": Tensor, ...},  # as the weighting's init makes it
        "interval": {"size": 1},  # beyond 1 also what Interval.state_dict returns
        "skipped": 0,
    }

Format 0 has neither ``"format"`` nor ``"interval"``, and as ``"weighting"`` a string without defaults. From
``torch.distributed.checkpoint`` it loads with ``DefaultLoadPlanner(allow_partial_load=True)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Parameter

from .losses import task_names
from .weighting import ArtAblation, Weighting

if TYPE_CHECKING:
    from .task_state import TaskState

KEY = "task_reweighting"
FORMAT = 1
_ENTRIES = {"format", "tasks", "weighting", "state", "interval", "skipped"}
_ADDED = {"GradNorm": ["norm"], "JacobianAggregation": ["weight"]}  # since format 0
_ADVICE = f"build the optimizer as it was, or delete {KEY!r} from the checkpoint to start afresh"


def describe(task_state: TaskState) -> dict[str, Any]:
    """Return the task state as a checkpoint has it; the tensors are copies."""
    interval = {} if task_state.interval is None else task_state.interval.state_dict()
    return {
        "format": FORMAT,
        "tasks": list(task_state.tasks),
        "weighting": _hyperparameters(task_state.weighting),
        "state": {name: tensor.clone() for name, tensor in task_state.tensors.items()},
        "interval": {"size": task_state.interval_size, **interval},
        "skipped": task_state.skipped,
    }


def check(state_dict: Mapping[str, Any], task_state: TaskState, place: str = "the task state") -> dict[str, Any]:
    """Return copies of what is to be loaded, in today's format; raise if ``state_dict`` does not fit. Nothing changes.

    Args:
        state_dict: What :func:`describe` returned, of this version or an earlier one.
        task_state: That which it is to be loaded into.
        place: Where ``state_dict`` was found, for the errors.

    Raises:
        TypeError, ValueError: It is no task state, or not one of these tasks, this weighting, this interval.
    """
    _require(isinstance(state_dict, Mapping), place, f"is a {type(state_dict).__name__}, not a mapping")
    version = state_dict.get("format", FORMAT)
    _require(_is_count(version) and version > 0, f'{place}["format"]', f"is {version!r}, not the number of a format")
    if version > FORMAT:
        raise ValueError(
            f"{place} has format {version}, which a later version of art_optim has written; this one reads formats up "
            f"to {FORMAT}: install the later version"
        )
    weighting = task_state.weighting
    if isinstance(state_dict.get("weighting"), str):
        found = _upgrade(state_dict, task_state, place)
    else:  # an empty dict is lost on the way through torch.distributed.checkpoint
        found = {"state": {}, **state_dict}
    _require_keys(found, _ENTRIES, place)
    _require_weighting(found["weighting"], weighting, f'{place}["weighting"]')
    tasks = _tasks(found["tasks"], f'{place}["tasks"]')
    if tasks and task_state.tasks and tasks != task_state.tasks:
        raise ValueError(f"{place} has tasks {list(tasks)}, not {list(task_state.tasks)}; {_ADVICE}")

    interval, skipped = found["interval"], found["skipped"]
    for name in ("state", "interval"):
        kind = type(found[name])
        _require(issubclass(kind, Mapping), f'{place}["{name}"]', f"is a {kind.__name__}, not a mapping")
    if not (_is_count(interval.get("size")) and interval["size"] == task_state.interval_size):
        raise ValueError(f"{place} has interval {interval.get('size')!r}, not {task_state.interval_size}; {_ADVICE}")
    _require(_is_count(skipped), f'{place}["skipped"]', f"is {skipped!r}, not a number of steps")
    wanted, wanted_interval = task_state.layout(tasks)
    if wanted and not found["state"] and not task_state.tasks:
        raise ValueError(
            f"{place} came without the state of its tasks {list(tasks)}, as torch.distributed.checkpoint fills in only "
            "what is there: declare the tasks with tasks=[...] before loading"
        )
    on_meta = task_state.device.type == "meta"
    _require_tensors(found["state"], wanted, on_meta, f'{place}["state"]')
    counts = {name: value for name, value in interval.items() if name not in wanted_interval}
    tensors = {name: value for name, value in interval.items() if name in wanted_interval}
    _require_tensors(tensors, wanted_interval, on_meta, f'{place}["interval"]')
    _require_keys(counts, {"size", "position", "measured"} if wanted_interval else {"size"}, f'{place}["interval"]')
    if wanted_interval:
        for name, most in {"position": task_state.interval_size, "measured": 2 ** len(tasks) - 1}.items():
            fits = _is_count(counts[name]) and counts[name] <= most
            _require(fits, f'{place}["interval"]["{name}"]', f"is {counts[name]!r}, not a whole number up to {most}")
    return {**found, "state": _copies(found["state"]), "interval": _copies(interval)}


def insert(state_dict: Mapping[str, Any], task_state: dict[str, Any]) -> dict[str, Any]:
    """Return an inner optimizer's state dict with the task state in its first parameter group that is not empty."""
    stripped, _ = _strip(state_dict)
    if "param_groups" not in stripped:  # some wrappers nest it
        return {**stripped, KEY: task_state}
    groups = stripped["param_groups"]
    index = next((i for i, group in enumerate(groups) if group["params"]), 0)  # others are lost in a DCP
    groups[index] = {**groups[index], KEY: task_state}
    return stripped


def extract(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], Any, str]:
    """Return an inner optimizer's state dict, the task state, and where it was: "" if there is none.

    Raises:
        ValueError: There are several.
    """
    stripped, found = _strip(state_dict)
    if len(found) > 1:
        raise ValueError(f"the checkpoint has several task states, {' and '.join(found)}; keep that of its run")
    place, task_state = next(iter(found.items()), ("", None))
    return stripped, task_state, place


def _strip(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a state dict without task states, and these by their places."""
    stripped = dict(state_dict)
    found = {f'state_dict["{KEY}"]': stripped.pop(KEY)} if KEY in stripped else {}
    groups = stripped.get("param_groups")
    if isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
        found |= {f'param_groups[{i}]["{KEY}"]': group[KEY] for i, group in enumerate(groups) if KEY in group}
        stripped["param_groups"] = [{k: v for k, v in group.items() if k != KEY} for group in groups]
    return stripped, found


def _hyperparameters(weighting: Weighting) -> tuple[str, dict[str, Any]]:
    # A tuple is one entry of a distributed checkpoint, so that one more hyperparameter is no more entry.
    compared = (field.name for field in fields(weighting) if field.compare)
    return type(weighting).__name__, {name: _plain(getattr(weighting, name)) for name in compared}


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # which the repr of a function has


def _require_weighting(saved: Any, weighting: Weighting, place: str) -> None:
    named = isinstance(saved, (tuple, list)) and len(saved) == 2 and isinstance(saved[1], Mapping)
    _require(named, place, f"is {saved!r}, not a name and a mapping")
    (name, values), (wanted_name, wanted) = saved, _hyperparameters(weighting)
    if name != wanted_name:
        raise ValueError(f"{place} is {name!r}, not {wanted_name!r}; {_ADVICE}")
    # One that a later version has added does, by default, what the version of the checkpoint did without it.
    defaults = {field.name for field in fields(weighting) if getattr(weighting, field.name) == field.default}
    differ = [
        f"{name} is {values.get(name)!r}, not {wanted.get(name)!r}"
        for name in {**wanted, **values}
        if name not in defaults - values.keys() and repr(values.get(name)) != repr(wanted.get(name))
    ]
    if differ:
        raise ValueError(f"{place} has other hyperparameters: {'; '.join(differ)}; {_ADVICE}")


def _upgrade(state_dict: Mapping[str, Any], task_state: TaskState, place: str) -> dict[str, Any]:
    """Bring format 0 to today's; a tensor that its weighting did not keep yet begins as ``init`` makes it.

    It may have entries of today: ``torch.distributed.checkpoint`` leaves those that it lacks as they are.
    """
    _require_keys(state_dict, {"tasks", "weighting"} | (_ENTRIES & state_dict.keys()), place)
    weighting, state = task_state.weighting, state_dict.get("state", {})
    described = _describe_0(weighting)
    if state_dict["weighting"] != described:
        raise ValueError(f"{place} has weighting {state_dict['weighting']!r}, not {described!r}; {_ADVICE}")
    tasks = _tasks(state_dict["tasks"], f'{place}["tasks"]')
    if tasks and isinstance(state, Mapping) and state:
        fresh = weighting.for_tasks(tasks).init(len(tasks), task_state.device)
        state = {**{name: fresh[name] for name in _ADDED.get(type(weighting).__name__, ())}, **state}
    return {
        "format": FORMAT,
        "tasks": list(tasks),
        "weighting": _hyperparameters(weighting),
        "state": state,
        "interval": state_dict.get("interval", {"size": 1}),
        "skipped": state_dict.get("skipped", 0),
    }


def _describe_0(weighting: Weighting) -> str:
    compared = {field.name: field.default for field in fields(weighting) if field.compare}
    values = {name: getattr(weighting, name) for name in compared}
    changed = [f"{name}={value!r}" for name, value in values.items() if value != compared[name]]
    name = "Art" if isinstance(weighting, ArtAblation) else type(weighting).__name__
    return _without_addresses(f"{name}({', '.join(changed)})")


def _tasks(names: Any, place: str) -> tuple[str, ...]:
    _require(isinstance(names, (list, tuple)), place, f"is a {type(names).__name__}, not a list of names")
    try:
        return task_names(names) if names else ()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from None


def _require_tensors(saved: Any, wanted: Mapping[str, Tensor], on_meta: bool, place: str) -> None:
    _require_keys(saved, wanted.keys(), place)
    for name, like in wanted.items():
        tensor = saved[name]
        where = f'{place}["{name}"]'
        # Of a subclass, such as a DTensor, the copy would fail when the inner optimizer has been loaded already.
        plain = type(tensor) in (Tensor, Parameter)
        _require(plain, where, f"is a {type(tensor).__name__}, not a plain tensor")
        given, expected = ((None if t.is_nested else tuple(t.shape), t.dtype, t.layout) for t in (tensor, like))
        if given != expected:
            raise ValueError(f"{where} has shape, dtype and layout {given}, not {expected}; {_ADVICE}")
        if tensor.is_meta and not on_meta:
            raise ValueError(f"{where} is on the meta device, without values; load the checkpoint onto a device")
        _require(not tensor.requires_grad, where, "requires a gradient; give a detached tensor")


def _copies(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}


def _require_keys(saved: Mapping[str, Any], wanted: Any, place: str) -> None:
    lacking, unknown = [*(wanted - saved.keys())], [*(saved.keys() - wanted)]
    if lacking or unknown:
        raise ValueError(f"{place} lacks {sorted(lacking)} and has {sorted(map(str, unknown))} too much; {_ADVICE}")


def _require(fits: bool, place: str, what: str) -> None:
    if not fits:
        raise TypeError(f"{place} {what}; {_ADVICE}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
