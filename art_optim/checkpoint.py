"""The task state as a checkpoint has it: how it is described, where it lies, what is checked before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .losses import task_names
from .weighting import Weighting

if TYPE_CHECKING:
    from .task_state import TaskState

KEY = "task_reweighting"


def describe(task_state: TaskState) -> dict[str, Any]:
    """Return copies: the names, the weighting with what is not its default, its tensors, the skipped steps."""
    return {
        "tasks": list(task_state.tasks),
        "weighting": _describe(task_state.weighting),
        "state": {name: tensor.clone() for name, tensor in task_state.tensors.items()},
        "skipped": task_state.skipped,
    }


def check(state_dict: Mapping[str, Any], task_state: TaskState) -> None:
    """Raise if ``state_dict`` cannot be loaded.

    Raises:
        TypeError, ValueError: It is not of these tasks, or not of this weighting.
    """
    advice = f"build the optimizer as it was, or delete {KEY!r} from the checkpoint to start afresh"
    missing = {"tasks", "weighting"} - state_dict.keys()
    if missing:
        raise ValueError(f"the checkpoint's task state has no {' and no '.join(sorted(missing))}; {advice}")
    described = _describe(task_state.weighting)
    if state_dict["weighting"] != described:
        raise ValueError(f"the checkpoint has weighting {state_dict['weighting']}, not {described}; {advice}")
    if not state_dict["tasks"]:
        return
    tasks = task_names(state_dict["tasks"])
    if task_state.tasks and tasks != task_state.tasks:
        raise ValueError(f"the checkpoint has tasks {list(tasks)}, not {list(task_state.tasks)}; {advice}")
    saved = _layout(state_dict.get("state", {}))
    wanted = _layout(task_state.weighting.for_tasks(tasks).init(len(tasks), "meta"))
    if wanted and not saved and not task_state.tasks:
        raise ValueError(
            f"the checkpoint came without the state of its tasks {list(tasks)}, as torch.distributed.checkpoint "
            "fills in only what is there: declare the tasks with tasks=[...] before loading"
        )
    if saved != wanted:
        raise ValueError(f"the checkpoint has task state {saved}, not {wanted}; {advice}")


def insert(state_dict: dict[str, Any], task_state: dict[str, Any]) -> dict[str, Any]:
    """Return an inner optimizer's state dict with the task state in its first parameter group that is not empty."""
    state_dict = dict(state_dict)
    if "param_groups" not in state_dict:  # some wrappers nest it
        return {**state_dict, KEY: task_state}
    groups = list(state_dict["param_groups"])
    place = next((i for i, group in enumerate(groups) if group["params"]), 0)  # others are lost in a DCP
    groups[place] = {**groups[place], KEY: task_state}
    return {**state_dict, "param_groups": groups}


def extract(state_dict: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """Return the inner optimizer's state dict, and the task state, or None where there is none."""
    state_dict = dict(state_dict)
    task_state = state_dict.pop(KEY, None)
    if "param_groups" in state_dict:
        groups = state_dict["param_groups"]
        state_dict["param_groups"] = [{k: v for k, v in group.items() if k != KEY} for group in groups]
        task_state = next((group[KEY] for group in groups if KEY in group), task_state)
    return state_dict, task_state


def _describe(weighting: Weighting) -> str:
    # Without the defaults, so that a hyperparameter which a later version adds does not lock out a checkpoint.
    compared = {field.name: field.default for field in fields(weighting) if field.compare}
    values = {name: getattr(weighting, name) for name in compared}
    changed = [f"{name}={value!r}" for name, value in values.items() if value != compared[name]]
    # Of a function, repr has the address.
    return re.sub(r" at 0x[0-9a-f]+", "", f"{type(weighting).__name__}({', '.join(changed)})")


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
