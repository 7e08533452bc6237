"""What a checkpoint says of the task state, and what is checked before it is loaded."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections import UserDict
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from torch._subclasses.fake_tensor import FakeTensorMode
from torchjd.aggregation import UPGrad

from art_optim import (
    FAMO,
    Art,
    ArtAblation,
    DynamicWeightAverage,
    EqualWeighting,
    FixedWeighting,
    GradNorm,
    RandomWeighting,
    TaskReweightedOptimizer,
    Weighting,
    checkpoint,
)
from art_optim.gradients.aggregation import JacobianAggregation

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, same

PLACE = 'param_groups[0]["task_reweighting"]'
WEIGHTINGS = [Art(), FAMO(), EqualWeighting(), FixedWeighting([0.5, 1, 2]), RandomWeighting(seed=1)]


def wrapped(weighting: Weighting = Art(), tasks=TASKS, model=None, **options) -> TaskReweightedOptimizer:  # noqa: B008
    inner = torch.optim.SGD((model or MultiTask()).parameters(), lr=0.01, momentum=0.9)
    return TaskReweightedOptimizer(inner, tasks, weighting, **options)


def trained(weighting: Weighting = Art(), steps=4, **options) -> TaskReweightedOptimizer:  # noqa: B008
    model = MultiTask()
    optimizer = wrapped(weighting, model=model, **options)
    for step in range(steps):
        optimizer.zero_grad()
        losses = model.losses(step)
        optimizer.step(losses if step % 3 else {task: losses[task] for task in TASKS[:2]})
    return optimizer


def task_state(optimizer: TaskReweightedOptimizer) -> dict:
    return optimizer.state_dict()["param_groups"][0]["task_reweighting"]


def with_task_state(optimizer: TaskReweightedOptimizer, state) -> dict:
    saved = optimizer.state_dict()
    saved["param_groups"][0]["task_reweighting"] = state
    return saved


def everything(optimizer: TaskReweightedOptimizer) -> tuple:
    return copy.deepcopy((optimizer.state_dict(), optimizer.task_state.weights, optimizer.task_state.losses))


def test_a_checkpoint_names_every_hyperparameter_and_its_format():
    state = task_state(trained(DynamicWeightAverage(period=3)))
    assert state["format"] == 1
    hyperparameters = {"normalize": "published", "temperature": 2.0, "period": 3}
    assert state["weighting"] == ("DynamicWeightAverage", hyperparameters)
    assert task_state(wrapped(FixedWeighting([1, 2, 3])))["weighting"][1]["weights"] == [1.0, 2.0, 3.0]
    assert (
        task_state(wrapped(Art(temperature=2)))["weighting"] == task_state(wrapped(Art(temperature=2.0)))["weighting"]
    )


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_it_is_plain_data_and_loads_exactly(weighting, interval):
    optimizer = trained(weighting, interval=interval)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for tasks in (TASKS, None):
        other = wrapped(weighting, tasks, interval=interval)
        other.load_state_dict(saved)
        assert identical(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("weighting", [Art(), RandomWeighting(), GradNorm(), JacobianAggregation(UPGrad())], ids=repr)
def test_a_run_with_an_interval_resumes_exactly_at_any_call(weighting, position):
    def run(optimizer, model, steps):
        for step in steps:
            optimizer.zero_grad()
            losses = model.losses(step)
            optimizer.step({TASKS[step % 3]: losses[TASKS[step % 3]]} if step > 4 else losses)
        return [parameter.detach().clone() for parameter in model.parameters()], optimizer.state_dict()

    model, other = MultiTask(), MultiTask()
    optimizer = wrapped(weighting, model=model, interval=4)
    run(optimizer, model, range(position))
    second = wrapped(weighting, model=other, interval=4)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(model.state_dict())
    assert identical(run(optimizer, model, range(position, 14)), run(second, other, range(position, 14)))


@pytest.mark.parametrize("interval", [64, 128, 130])
@pytest.mark.parametrize("position", [63, 64, 65, 127, 128, 129])
def test_long_intervals_resume_exactly_where_a_chunk_of_calls_ends(interval, position):
    def run(optimizer, steps):
        (parameter,) = optimizer.param_groups[0]["params"]
        for step in steps:
            optimizer.combine(dict(zip(TASKS, parameter * (0.1 + 0.01 * (step % 7)), strict=True)))
        return optimizer.state_dict()

    def fresh():
        inner = torch.optim.SGD([torch.nn.Parameter(torch.tensor([1.0, 0.3, 0.7]))])
        return TaskReweightedOptimizer(inner, TASKS, interval=interval)

    optimizer, second = fresh(), fresh()
    second.load_state_dict(copy.deepcopy(run(optimizer, range(position))))
    assert identical(run(optimizer, range(position, 270)), run(second, range(position, 270)))
    assert optimizer.task_state.tensors["smoothed"].isfinite().all()


def test_loading_replaces_the_losses_of_the_running_interval_and_those_of_the_last_step():
    optimizer, other = trained(interval=3, steps=4), trained(interval=3, steps=5)
    other.load_state_dict(optimizer.state_dict())
    assert all(value.isnan() for value in (*other.weights.values(), *other.losses.values()))
    assert identical(other.state_dict(), optimizer.state_dict())


def test_saving_within_an_interval_does_not_change_the_run():
    def run(saves):
        model = MultiTask()
        optimizer = wrapped(Art(), model=model, interval=5)
        for step in range(12):
            optimizer.step(model.losses(step))
            if saves:
                optimizer.state_dict()
        return optimizer.state_dict()

    assert identical(run(True), run(False))


FORMAT_0 = {
    "art": [Art(), ArtAblation()],
    "art temperature": [Art(temperature=1.0), ArtAblation(temperature=1.0)],
    "softadapt row": [ArtAblation(rate="raw", correction="none")],
    "reference": [Art.reference()],
    "famo": [FAMO()],
    "fixed": [FixedWeighting([0.5, 1, 2])],
    "rlw": [RandomWeighting(seed=3, normalize="sum")],
    "dwa": [DynamicWeightAverage(period=2)],
    "gradnorm": [GradNorm()],
    "upgrad": [JacobianAggregation(UPGrad())],
    "undeclared": [Art()],
}


@pytest.fixture(scope="module")
def format_0():
    """Optimizers of the version before formats were numbered, after four steps."""
    return torch.load(Path(__file__).parent / "checkpoints/format_0.pt", weights_only=True)


@pytest.mark.parametrize(("name", "weighting"), [(name, each) for name, of in FORMAT_0.items() for each in of], ids=str)
def test_a_checkpoint_without_a_format_loads(format_0, name, weighting):
    model = MultiTask()
    inner = torch.optim.SGD([model.heads["rain"].bias], lr=0.01)
    optimizer = TaskReweightedOptimizer(inner, None if name == "undeclared" else TASKS, weighting)
    optimizer.load_state_dict(format_0[name])
    saved = format_0[name]["param_groups"][0]["task_reweighting"]
    assert list(optimizer.tasks) == saved["tasks"]
    for key, tensor in saved["state"].items():
        assert same(optimizer.task_state.tensors[key], tensor)
    assert all(weight.isfinite() for weight in (optimizer.step(model.losses(4)), *optimizer.weights.values()))
    assert task_state(optimizer)["format"] == 1


@pytest.mark.parametrize(
    ("name", "weighting"),
    [
        ("art", Art(temperature=1.0)),
        ("art temperature", Art()),
        ("softadapt row", Art()),
        ("softadapt row", ArtAblation()),
        ("reference", Art(temperature=0.1)),
        ("rlw", RandomWeighting(seed=3)),
        ("dwa", Art()),
    ],
    ids=str,
)
def test_a_checkpoint_without_a_format_is_refused_by_another_weighting(format_0, name, weighting):
    optimizer = trained(weighting)
    before = everything(optimizer)
    inner = optimizer.inner.state_dict()
    saved = {**inner, "param_groups": [{**inner["param_groups"][0], **task_state_of(format_0[name])}]}
    with pytest.raises(ValueError, match=re.escape(f"{PLACE} has weighting")):
        optimizer.load_state_dict(saved)
    assert identical(everything(optimizer), before)


@pytest.mark.parametrize("name", FORMAT_0)
def test_a_checkpoint_without_a_format_must_be_whole(format_0, name):
    """Only what its version did not have yet may lack."""
    saved = format_0[name]["param_groups"][0]["task_reweighting"]
    for key in saved["state"]:
        optimizer = wrapped(FORMAT_0[name][0])
        before = everything(optimizer)
        lacking = {**saved, "state": {other: saved["state"][other] for other in saved["state"] if other != key}}
        with pytest.raises((TypeError, ValueError), match=re.escape(PLACE)):
            optimizer.load_state_dict(with_task_state(optimizer, lacking))
        assert identical(everything(optimizer), before)


@pytest.mark.parametrize("name", ["art", "famo", "gradnorm", "upgrad"])
@pytest.mark.filterwarnings("ignore:torch.distributed is .*unavailable or uninitialized")
@pytest.mark.filterwarnings("ignore:.*missing keys in checkpoint|.*Missing keys|.*_version._derived_version")
def test_a_distributed_checkpoint_without_a_format_loads_in_part(format_0, name, tmp_path):
    """It lacks entries that today's state has: ``allow_partial_load`` leaves these as they are."""
    saved = format_0[name]["param_groups"][0]["task_reweighting"]
    dcp.save({"tasks": saved}, checkpoint_id=tmp_path)
    loaded = wrapped(FORMAT_0[name][0]).task_state
    planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
    dcp.load({"tasks": loaded}, checkpoint_id=tmp_path, planner=planner)
    for key, tensor in saved["state"].items():
        assert same(loaded.tensors[key], tensor)


def task_state_of(saved: dict) -> dict:
    return {"task_reweighting": saved["param_groups"][0]["task_reweighting"]}


def test_a_hyperparameter_that_a_later_version_adds_may_be_lacking_at_its_default():
    optimizer, saved = trained(), task_state(trained())
    del saved["weighting"][1]["max_priority"]
    optimizer.load_state_dict(with_task_state(optimizer, saved))
    other = wrapped(Art(max_priority=5.0))
    with pytest.raises(ValueError, match=re.escape('["weighting"] has other hyperparameters: max_priority is None')):
        other.load_state_dict(with_task_state(other, saved))


META, SPARSE = torch.empty(3, device="meta"), torch.ones(3).to_sparse()
with FakeTensorMode():
    FAKE = torch.ones(3)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nested tensors are a prototype
    NESTED = torch.nested.nested_tensor([torch.ones(3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: None, " is a NoneType, not a mapping"),
        (lambda s: [1], " is a list, not a mapping"),
        (lambda s: {**s, "format": 2}, " has format 2, which a later version of art_optim has written"),
        (lambda s: {**s, "format": "1"}, "[\"format\"] is '1', not the number of a format"),
        (lambda s: {**s, "format": 0}, '["format"] is 0, not the number of a format'),
        (lambda s: {**s, "format": True}, '["format"] is True, not the number of a format'),
        (lambda s: {**s, "more": 1}, " lacks [] and has ['more'] too much"),
        (lambda s: {k: v for k, v in s.items() if k != "tasks"}, " lacks ['tasks'] and has [] too much"),
        (lambda s: {k: v for k, v in s.items() if k != "format"}, " lacks ['format'] and has [] too much"),
        (lambda s: {**s, "tasks": "abc"}, '["tasks"] is a str, not a list of names'),
        (lambda s: {**s, "tasks": torch.ones(3)}, '["tasks"] is a Tensor, not a list of names'),
        (lambda s: {**s, "tasks": [1, 2, 3]}, '["tasks"]: '),
        (lambda s: {**s, "tasks": ["rain", "rain", "noise"]}, '["tasks"]: '),
        (lambda s: {**s, "tasks": ["rain", "haze"]}, " has tasks ['rain', 'haze'], not ['rain', 'haze', 'noise']"),
        (lambda s: {**s, "weighting": 1}, '["weighting"] is 1, not a name and a mapping'),
        (
            lambda s: {**s, "weighting": ("Art", {**s["weighting"][1], "temperature": 1.0})},
            "temperature is 1.0, not 3.0",
        ),
        (
            lambda s: {**s, "weighting": ("Art", {**s["weighting"][1], "temperature": torch.ones(2)})},
            "temperature is tensor",
        ),
        (lambda s: {**s, "weighting": ("Art", {**s["weighting"][1], "new": 1})}, "other hyperparameters: new is 1"),
        (lambda s: {**s, "weighting": ("FAMO", {})}, "is 'FAMO', not 'Art'"),
        (lambda s: {**s, "interval": {"size": 4}}, " has interval 4, not 1"),
        (lambda s: {**s, "interval": {"size": torch.ones(2)}}, " has interval tensor([1., 1.]), not 1"),
        (lambda s: {**s, "interval": 1}, '["interval"] is a int, not a mapping'),
        (lambda s: {**s, "interval": {"size": 1, "position": 0}}, "[\"interval\"] lacks [] and has ['position'] too"),
        (lambda s: {**s, "skipped": -1}, '["skipped"] is -1, not a number of steps'),
        (lambda s: {**s, "skipped": torch.tensor(1)}, '["skipped"] is tensor(1), not a number of steps'),
        (lambda s: {**s, "state": [1]}, '["state"] is a list, not a mapping'),
        (lambda s: {**s, "state": {}}, "[\"state\"] lacks ['minimum', 'smoothed'] and has [] too much"),
        (lambda s: {**s, "state": {**s["state"], "smoothed": META}}, '["state"]["smoothed"] is on the meta device'),
        (lambda s: {**s, "state": {**s["state"], "smoothed": SPARSE}}, '["state"]["smoothed"] has shape, dtype'),
        (
            lambda s: {**s, "state": {**s["state"], "smoothed": torch.ones(3).half()}},
            "dtype and layout ((3,), torch.fl",
        ),
        (lambda s: {**s, "state": {**s["state"], "smoothed": torch.ones(3) * 1j}}, "dtype and layout ((3,), torch.com"),
        (lambda s: {**s, "state": {**s["state"], "smoothed": torch.ones(2)}}, "dtype and layout ((2,), torch.float32"),
        (lambda s: {**s, "state": {**s["state"], "smoothed": [0.1, 0.2, 0.3]}}, "is a list, not a plain tensor"),
        (
            lambda s: {**s, "state": {**s["state"], "smoothed": FAKE}},
            '["state"]["smoothed"] is a FakeTensor, not a pla',
        ),
        (
            lambda s: {**s, "state": {**s["state"], "smoothed": NESTED}},
            '["state"]["smoothed"] has shape, dtype and lay',
        ),
        (
            lambda s: {**s, "state": {**s["state"], "smoothed": torch.ones(3, requires_grad=True)}},
            "requires a gradient",
        ),
    ],
)
def test_a_task_state_that_does_not_fit_is_refused_by_its_place_and_moves_nothing(change, message):
    optimizer = trained()
    before = everything(optimizer)
    saved = with_task_state(optimizer, change(task_state(optimizer)))
    with pytest.raises(
        (TypeError, ValueError), match=re.escape(f"{PLACE}{message}" if message[0] in " [" else message)
    ):
        optimizer.load_state_dict(saved)
    assert identical(everything(optimizer), before)


NOT_A_STATE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=3),
    st.builds(dict),
    st.sampled_from(
        [META, SPARSE, torch.ones(3, requires_grad=True), torch.ones(2), torch.tensor(3), torch.ones(2, 3)]
    ),
)


@st.composite
def mutated(draw, state):
    """A task state with one thing removed, renamed, replaced or added, anywhere in it."""
    state = copy.deepcopy(state)
    level = state
    while True:
        key = draw(st.sampled_from(sorted(level)))
        deeper = isinstance(level[key], dict) and level[key] and draw(st.booleans())
        if not deeper:
            break
        level = level[key]
    how = draw(st.sampled_from(["remove", "rename", "replace", "add"]))
    if how == "add":
        level[draw(st.text(max_size=3))] = draw(NOT_A_STATE)
    elif how == "replace":
        level[key] = draw(NOT_A_STATE)
    else:
        value = level.pop(key)
        if how == "rename":
            level[draw(st.text(max_size=3))] = value
    return state


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_mutated_checkpoint_loads_exactly_or_is_refused_and_moves_nothing(weighting, interval, data):
    optimizer, other = trained(weighting, interval=interval), trained(weighting, 2, interval=interval)
    good = task_state(optimizer)
    state = data.draw(mutated(good))
    before = everything(other)
    refused = ""
    try:
        other.load_state_dict(with_task_state(optimizer, state))
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused:
        assert PLACE in refused
        assert identical(everything(other), before)
        return
    # What may lack: an empty state, and a hyperparameter that has its default.
    assert identical(task_state(other), state) or identical(task_state(other), good)


@pytest.mark.parametrize("name", ["art", "fixed", "gradnorm"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_mutated_checkpoint_without_a_format_loads_exactly_or_is_refused_and_moves_nothing(format_0, name, data):
    saved = format_0[name]["param_groups"][0]["task_reweighting"]
    optimizer = wrapped(FORMAT_0[name][0])
    state = data.draw(mutated(saved))
    before = everything(optimizer)
    refused = ""
    try:
        optimizer.load_state_dict(with_task_state(optimizer, state))
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused:
        assert PLACE in refused
        assert identical(everything(optimizer), before)
        return
    assert all(same(optimizer.task_state.tensors[key], tensor) for key, tensor in state["state"].items())
    assert optimizer.skipped == state.get("skipped", 0)


def test_several_task_states_are_refused():
    optimizer = trained()
    saved = optimizer.state_dict()
    saved["task_reweighting"] = task_state(trained(steps=2))
    before = everything(optimizer)
    with pytest.raises(ValueError, match="the checkpoint has several task states, state_dict"):
        optimizer.load_state_dict(saved)
    assert identical(everything(optimizer), before)


def test_an_inner_checkpoint_that_does_not_fit_leaves_the_task_state():
    optimizer = trained()
    saved = trained(steps=2).state_dict()
    saved["param_groups"] = [*saved["param_groups"], {"params": []}]
    before = everything(optimizer)
    with pytest.raises(ValueError, match="parameter groups"):
        optimizer.load_state_dict(saved)
    assert identical(everything(optimizer), before)


@pytest.mark.parametrize("names", [("smoothed", "minimum"), ("minimum", "smoothed")])
def test_a_state_that_shares_the_memory_of_the_live_one_loads(names):
    optimizer = trained()
    live = optimizer.task_state.tensors
    state = {name: live[source] for name, source in zip(("smoothed", "minimum"), names, strict=True)}
    before = copy.deepcopy(state)
    optimizer.load_state_dict(with_task_state(optimizer, UserDict({**task_state(optimizer), "state": state})))
    assert identical(optimizer.task_state.tensors, before)


@pytest.mark.parametrize("tasks", [TASKS, None])
def test_a_wrapper_takes_over_what_its_inner_optimizer_has_loaded(tasks):
    optimizer = trained()
    inner = torch.optim.SGD(MultiTask().parameters(), lr=0.5, momentum=0.9)
    inner.load_state_dict(optimizer.state_dict())
    second = TaskReweightedOptimizer(inner, tasks)
    assert identical(second.state_dict(), optimizer.state_dict())
    assert not any(checkpoint.KEY in group for group in inner.param_groups)


def test_a_wrapper_refuses_what_its_inner_optimizer_has_loaded_if_it_does_not_fit():
    inner = torch.optim.SGD(MultiTask().parameters(), lr=0.5, momentum=0.9)
    inner.load_state_dict(trained().state_dict())
    message = re.escape(f'inner.{PLACE}["weighting"] has other hyperparameters: temperature is 3.0, not 1.0')
    with pytest.raises(ValueError, match=message):
        TaskReweightedOptimizer(inner, TASKS, Art(temperature=1.0))
    assert checkpoint.KEY in inner.param_groups[0]  # nothing has changed
    with pytest.raises(ValueError, match=re.escape(f"inner.{PLACE} has tasks")):
        TaskReweightedOptimizer(inner, ["a", "b"])
    del inner.param_groups[0][checkpoint.KEY]
    TaskReweightedOptimizer(inner, TASKS, Art(temperature=1.0))


def test_what_a_wrapped_optimizer_loads_by_itself_is_neither_saved_twice_nor_dropped_in_silence():
    optimizer = wrapped()
    optimizer.inner.load_state_dict(trained().state_dict())
    with pytest.warns(UserWarning, match="inner optimizer has loaded the task state of a checkpoint by itself"):
        saved = optimizer.state_dict()
    assert [checkpoint.KEY in group for group in saved["param_groups"]] == [True]
    assert identical(task_state(optimizer), task_state(wrapped()))
