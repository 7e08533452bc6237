"""Checkpoints: the inner optimizer's state dict with the task state in it."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from art_optim import Art, EqualWeighting, FixedWeighting, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of, train, wrap

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is .*unavailable or uninitialized")


def snapshot(model, optimizer):
    return parameters_of(model), optimizer.inner.state_dict()["state"], optimizer.task_state.state_dict()


def resumed(model):
    """The same network again, as it is now, with an optimizer that has not stepped yet."""
    other = MultiTask()
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture
def trained(model):
    optimizer = wrap(model)
    train(model, optimizer, range(4))
    return model, optimizer


def test_the_inner_state_dict_with_one_key_more(trained):
    model, optimizer = trained
    state_dict = optimizer.state_dict()
    task_state = state_dict["param_groups"][0].pop("task_reweighting")
    assert identical(state_dict, optimizer.inner.state_dict())
    assert task_state["tasks"] == list(TASKS)
    assert set(task_state["state"]) == {"smoothed", "minimum"}
    assert "task_reweighting" not in optimizer.param_groups[0]
    assert set(optimizer.state) == set(model.parameters())


def test_a_state_dict_is_a_copy(trained):
    """What was saved does not move with training."""
    model, optimizer = trained
    saved = optimizer.state_dict()["param_groups"][0]["task_reweighting"]
    before = copy.deepcopy(saved)
    train(model, optimizer, range(4, 6))
    assert identical(saved, before)


def test_resuming_is_exact_and_leaves_the_tensors_in_place(trained):
    """Through ``torch.load(weights_only=True)``, and addresses stay."""
    model, optimizer = trained
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = resumed(model)
    second = wrap(other)
    places = {name: tensor.data_ptr() for name, tensor in second.task_state.tensors.items()}
    second.load_state_dict(torch.load(file, weights_only=True))
    assert places == {name: tensor.data_ptr() for name, tensor in second.task_state.tensors.items()}
    train(model, optimizer, range(4, 8))
    train(other, second, range(4, 8))
    assert identical(snapshot(model, optimizer), snapshot(other, second))


def test_a_checkpoint_declares_the_tasks(trained):
    model, optimizer = trained
    other = resumed(model)
    second = wrap(other, tasks=None)
    second.load_state_dict(state_dict=copy.deepcopy(optimizer.state_dict()))  # by keyword, as in torch.distributed
    assert second.tasks == TASKS
    train(model, optimizer, [4])
    train(other, second, [4])
    assert identical(snapshot(model, optimizer), snapshot(other, second))


def test_a_checkpoint_from_before_the_first_step(model):
    for tasks in (TASKS, None):
        saved = wrap(model, tasks).state_dict()
        for others in (TASKS, None):
            second = wrap(MultiTask(), others)
            second.load_state_dict(saved)
            assert second.tasks == (tasks or others or ())


def test_a_bare_inner_checkpoint_starts_the_task_state_afresh(trained):
    _, optimizer = trained
    with pytest.warns(UserWarning, match="the checkpoint has no 'task_reweighting': the task state starts afresh"):
        optimizer.load_state_dict(optimizer.inner.state_dict())
    assert identical(optimizer.task_state.tensors, Art().init(3))
    assert optimizer.tasks == TASKS
    assert all(weight.isnan() for weight in optimizer.weights.values())


def test_our_checkpoint_loads_into_the_bare_inner(trained):
    model, optimizer = trained
    other = resumed(model)
    bare = torch.optim.AdamW(other.parameters(), lr=1e-2)
    bare.load_state_dict(optimizer.state_dict())
    for step in range(4, 6):
        bare.zero_grad()
        sum(other.losses(step).values()).backward()
        bare.step()
    assert not identical(parameters_of(model), parameters_of(other))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: (p, ["rain", "haze"]),
            r"has tasks \['rain', 'haze', 'noise'\], not \['rain', 'haze'\]",
        ),
        (lambda p: (p, ["haze", "rain", "noise"]), "has tasks"),
        (lambda p: (p, TASKS, EqualWeighting()), "is 'Art', not 'EqualWeighting'"),
        (lambda p: (p, TASKS, Art(temperature=1.0)), "temperature is 3.0, not 1.0"),
        (lambda p: (p, TASKS, Art(normalize="sum")), "normalize is 'published', not 'sum'"),
        (
            lambda p: (torch.optim.AdamW([{"params": [q]} for q in p.param_groups[0]["params"]]), TASKS),
            "parameter groups",
        ),
    ],
)
def test_a_checkpoint_of_something_else_changes_nothing(trained, make, message):
    """Refused before the inner optimizer is touched."""
    model, optimizer = trained
    other = TaskReweightedOptimizer(*make(torch.optim.AdamW(resumed(model).parameters(), lr=0.5)))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(optimizer.state_dict())
    assert identical(other.state_dict(), before)


def test_a_bare_checkpoint_loads_whole_where_warnings_are_errors(trained):
    model, optimizer = trained
    loaded = []
    optimizer.register_load_state_dict_post_hook(loaded.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="starts afresh"):
            optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    assert loaded == [optimizer]
    assert identical(optimizer.task_state.tensors, Art().init(3))


def test_a_plain_step_leaves_the_task_state_alone(trained):
    """``step()`` and ``step(closure=None)``, which checkpointing calls to make the inner state."""
    model, optimizer = trained
    twin_model, twin = copy.deepcopy((model, optimizer))
    for parameter, other in zip(model.parameters(), twin_model.parameters(), strict=True):
        other.grad = parameter.grad.clone()
    before = copy.deepcopy((optimizer.task_state.state_dict(), optimizer.weights))
    with pytest.warns(UserWarning, match="step\\(\\) follows no weighing"):
        optimizer.step()
    optimizer.step(closure=None)
    assert identical((optimizer.task_state.state_dict(), optimizer.weights), before)
    twin.inner.step()
    twin.inner.step()
    assert identical(parameters_of(model), parameters_of(twin_model))


def two_groups(model):
    groups = [{"params": model.trunk.parameters()}, {"params": model.heads.parameters(), "lr": 5e-3}]
    return TaskReweightedOptimizer(torch.optim.AdamW(groups, lr=1e-2), TASKS)


def test_several_parameter_groups(model):
    """In the first of them when saved, wherever it is when loaded, and in none of the live ones."""
    optimizer = two_groups(model)
    train(model, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    assert ["task_reweighting" in group for group in saved["param_groups"]] == [True, False]
    other = resumed(model)
    second = two_groups(other)
    saved["param_groups"][1]["task_reweighting"] = saved["param_groups"][0].pop("task_reweighting")
    given = copy.deepcopy(saved)
    second.load_state_dict(saved)
    assert identical(saved, given)
    assert not any("task_reweighting" in group for group in second.param_groups)
    train(model, optimizer, [2])
    train(other, second, [2])
    assert identical(snapshot(model, optimizer), snapshot(other, second))


@pytest.mark.parametrize("started", [True, False])
def test_a_reset_is_whole_and_in_place(trained, started):
    """From a bare checkpoint, and from one of before the tasks were known."""
    model, optimizer = trained
    fresh = wrap(resumed(model), None)
    places = {name: tensor.data_ptr() for name, tensor in optimizer.task_state.tensors.items()}
    if started:
        with pytest.warns(UserWarning, match="starts afresh") as warned:
            optimizer.load_state_dict(fresh.inner.state_dict())
        assert warned[0].filename == __file__
    else:
        optimizer.load_state_dict(fresh.state_dict())
    assert identical(optimizer.task_state.tensors, Art().init(3))
    assert all(weight.isnan() for weight in optimizer.weights.values())
    assert places == {name: tensor.data_ptr() for name, tensor in optimizer.task_state.tensors.items()}


def test_the_task_state_refuses_by_itself(trained):
    _, optimizer = trained
    other = wrap(MultiTask(), ["haze", "rain", "noise"]).task_state
    before = other.state_dict()
    with pytest.raises(ValueError, match="the task state has tasks"):
        other.load_state_dict(optimizer.task_state.state_dict())
    assert identical(other.state_dict(), before)


def test_a_weighting_without_state_resumes(model):
    """Also where an empty dict is lost on the way."""
    optimizer = wrap(model, weighting=EqualWeighting())
    train(model, optimizer, [0])
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["task_reweighting"]["state"]
    second = wrap(resumed(model), None, EqualWeighting())
    second.load_state_dict(saved)
    assert second.tasks == TASKS


def test_fixed_weights_resume():
    model = MultiTask()
    optimizer = wrap(model, weighting=FixedWeighting([0.1, 1, 2]))
    train(model, optimizer, [0])
    other = wrap(MultiTask(), weighting=FixedWeighting([0.1, 1, 2]))
    other.load_state_dict(optimizer.state_dict())
    assert identical(other.task_state.tensors, optimizer.task_state.tensors)


# --- torch.distributed.checkpoint, one process -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [StateDictOptions(), StateDictOptions(full_state_dict=True, cpu_offload=True)], ids=repr
)
def test_through_the_distributed_state_dict(trained, options):
    model, optimizer = trained
    other = resumed(model)
    second = wrap(other)
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    set_optimizer_state_dict(other, second, optim_state_dict=copy.deepcopy(saved), options=options)
    train(model, optimizer, range(4, 6))
    train(other, second, range(4, 6))
    assert identical(snapshot(model, optimizer), snapshot(other, second))


def test_through_distributed_checkpoint_files(trained, tmp_path):
    model, optimizer = trained
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path)
    other = resumed(model)
    second = wrap(other)
    loaded = {"optimizer": get_optimizer_state_dict(other, second)}
    dcp.load(loaded, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, second, optim_state_dict=loaded["optimizer"])
    train(model, optimizer, range(4, 6))
    train(other, second, range(4, 6))
    assert identical(snapshot(model, optimizer), snapshot(other, second))


def test_undeclared_tasks_cannot_come_from_distributed_checkpoint_files(trained, tmp_path):
    """It fills in only what is there already: refused with the way out, before anything has changed."""
    model, optimizer = trained
    dcp.save({"tasks": optimizer.task_state}, checkpoint_id=tmp_path)
    second = wrap(resumed(model), tasks=None)
    with pytest.raises(Exception, match="declare the tasks with tasks=") as raised:
        dcp.load({"tasks": second.task_state}, checkpoint_id=tmp_path)
    assert raised.type is not AttributeError
    assert second.tasks == ()


def test_flattened_it_is_lost_with_a_warning_and_saved_by_itself(trained, tmp_path):
    """The task state is a ``Stateful``."""
    model, optimizer = trained
    flatten = StateDictOptions(flatten_optimizer_state_dict=True)
    saved = {"optimizer": get_optimizer_state_dict(model, optimizer, options=flatten), "tasks": optimizer.task_state}
    dcp.save(saved, checkpoint_id=tmp_path)
    other = resumed(model)
    second = wrap(other)
    loaded = {"optimizer": get_optimizer_state_dict(other, second, options=flatten), "tasks": second.task_state}
    dcp.load(loaded, checkpoint_id=tmp_path)
    with pytest.warns(UserWarning, match="the task state starts afresh"):
        set_optimizer_state_dict(other, second, optim_state_dict=loaded["optimizer"], options=flatten)
    dcp.load({"tasks": second.task_state}, checkpoint_id=tmp_path)
    train(model, optimizer, range(4, 6))
    train(other, second, range(4, 6))
    assert identical(snapshot(model, optimizer), snapshot(other, second))


def test_no_warning_where_nothing_is_lost(trained):
    _, optimizer = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(optimizer.state_dict())


class Nested(torch.optim.SGD):
    """Saves its parameter groups within something else, as Lookahead of pytorch_optimizer does."""

    def state_dict(self):
        return {"base": super().state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict["base"])


def test_an_inner_that_nests_its_parameter_groups_is_saved_and_resumed(model):
    def optimizer_of(each):
        return TaskReweightedOptimizer(Nested(each.parameters(), lr=0.1, momentum=0.9), TASKS)

    optimizer = optimizer_of(model)
    for step in range(3):
        optimizer.step(model.losses(step))
    saved = optimizer.state_dict()
    assert {*saved} == {"base", "task_reweighting"}
    twin = resumed(model)
    other = optimizer_of(twin)
    other.load_state_dict(copy.deepcopy(saved))
    optimizer.zero_grad()
    other.zero_grad()
    optimizer.step(model.losses(3))
    other.step(twin.losses(3))
    assert identical(other.state_dict(), optimizer.state_dict())
    assert identical(parameters_of(twin), parameters_of(model))
    with pytest.warns(UserWarning, match="has no 'task_reweighting'"):
        other.load_state_dict(optimizer.inner.state_dict())


def test_an_optimizer_that_is_built_or_loaded_in_inference_mode_trains(model):
    saved = wrap(model).state_dict()
    with torch.inference_mode():
        built, loaded = wrap(model), wrap(model, tasks=None)
        loaded.load_state_dict(saved)
    for optimizer in (built, loaded):
        for step in range(2):
            optimizer.step(model.losses(step))


def test_the_task_state_is_in_a_group_that_has_parameters(model):
    """Through torch.distributed.checkpoint the others lose what is in them."""
    inner = torch.optim.AdamW([{"params": []}, {"params": [*model.parameters()]}])
    optimizer = TaskReweightedOptimizer(inner, TASKS)
    optimizer.step(model.losses(0))
    saved = get_optimizer_state_dict(model, optimizer)
    other = TaskReweightedOptimizer(torch.optim.AdamW([{"params": []}, {"params": [*model.parameters()]}]), TASKS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_optimizer_state_dict(model, other, saved)
    assert identical(other.task_state.state_dict(), optimizer.task_state.state_dict())


def test_a_bare_inner_that_has_loaded_our_checkpoint_is_wrapped_afresh(trained):
    _, optimizer = trained
    saved = copy.deepcopy(optimizer.state_dict())
    inner = copy.deepcopy(optimizer.inner)
    inner.load_state_dict(saved)
    other = TaskReweightedOptimizer(inner, TASKS)
    assert "task_reweighting" not in inner.param_groups[0]
    assert "task_reweighting" in other.state_dict()["param_groups"][0]
