"""Losses by name: any mapping, by every way into the optimizer, and what is refused in its place."""

from __future__ import annotations

from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from art_optim import TaskLosses, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of


class Bare:
    """``keys()`` and ``[name]``; whoever asks for more is told off."""

    def __init__(self, losses):
        self.read = []
        self._losses = losses

    def keys(self):
        return iter([*self._losses])

    def __getitem__(self, name):
        self.read.append(name)
        return self._losses[name]

    def _refuse(self, *_):
        raise AssertionError("asked for more than keys() and [name]")

    __bool__ = __len__ = __iter__ = __contains__ = __eq__ = get = items = values = pop = _refuse
    __hash__ = None


class Strict(Bare, Mapping):
    """The same as a subclass of ``Mapping``, such as a TensorDict."""


class Lazy(dict):
    """Computes a loss when it is asked for."""

    def __init__(self, losses):
        super().__init__({name: lambda loss=loss: loss for name, loss in losses.items()})

    def __getitem__(self, name):
        return super().__getitem__(name)()


def tensordict(losses):
    return pytest.importorskip("tensordict").TensorDict(losses)


def model_output(losses):
    @dataclass
    class Output(pytest.importorskip("transformers").utils.ModelOutput):
        rain: torch.Tensor | None = None
        haze: torch.Tensor | None = None
        noise: torch.Tensor | None = None

    return Output(**losses)


MAPPINGS = {
    "bare": Bare,
    "strict": Strict,
    "lazy": Lazy,
    "OrderedDict": OrderedDict,
    "defaultdict": lambda losses: defaultdict(lambda: pytest.fail("inserted"), losses),
    "UserDict": UserDict,
    "MappingProxyType": MappingProxyType,
    "ChainMap": lambda losses: ChainMap({}, losses),
    "TensorDict": tensordict,
    "ModelOutput": model_output,
}
WAYS = {
    "step": lambda optimizer, losses: optimizer.step(losses),
    "step(closure=)": lambda optimizer, losses: optimizer.step(closure=losses),
    "closure": lambda optimizer, losses: optimizer.step(lambda: losses),
    "backward": lambda optimizer, losses: (optimizer.backward(losses), optimizer.step()),
    "combine": lambda optimizer, losses: (optimizer.combine(losses).backward(), optimizer.step()),
}


def optimizer_of(model, tasks=TASKS):
    return TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), tasks)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAPPINGS)
def test_any_mapping_trains_as_a_dict_does(kind, way, declared):
    trained = []
    for mapping in (dict, MAPPINGS[kind]):
        model = MultiTask()
        optimizer = optimizer_of(model, TASKS if declared else None)
        for step, tasks in enumerate([TASKS, ("noise", "rain"), ("haze",)]):
            losses = model.losses(step)
            optimizer.zero_grad()
            WAYS[way](optimizer, mapping({task: losses[task] for task in tasks}))
        trained.append((parameters_of(model), optimizer.task_state.state_dict(), optimizer.weights))
    assert identical(*trained)


@pytest.mark.parametrize("kind", [kind for kind in MAPPINGS if kind != "ModelOutput"])
def test_a_name_that_is_no_task_is_refused_in_any_mapping(model, kind):
    losses = {**model.losses(0), "fog": torch.ones(())}
    with pytest.raises(ValueError, match=r"losses has \['fog'\], the tasks are .* leave out what is no task's loss"):
        optimizer_of(model).step(MAPPINGS[kind](losses))


@pytest.mark.parametrize("kind", MAPPINGS)
def test_any_mapping_is_refused_by_the_step_of_a_scaler(model, kind):
    optimizer, scaler = optimizer_of(model), torch.amp.GradScaler("cpu")
    optimizer.backward(model.losses(0), scaler=scaler)
    with pytest.raises(TypeError, match=r"scaler\.step\(optimizer, losses\) would not scale the losses"):
        scaler.step(optimizer, MAPPINGS[kind](model.losses(0)))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in MAPPINGS if kind != "ModelOutput"])
def test_an_empty_mapping_has_no_loss(model, kind, declared):
    with pytest.raises(ValueError, match="losses has no loss for any of the tasks"):
        optimizer_of(model, TASKS if declared else None).step(MAPPINGS[kind]({}))


@pytest.mark.parametrize("tasks", [TASKS, ("noise", "rain")])
@pytest.mark.parametrize("kind", [Bare, Strict])
def test_each_loss_of_a_mapping_is_read_once(model, kind, tasks):
    losses = model.losses(0)
    mapping = kind({task: losses[task] for task in tasks})
    optimizer_of(model).step(mapping)
    assert mapping.read == list(tasks)


def test_reading_a_defaultdict_inserts_nothing(model):
    losses = defaultdict(lambda: torch.ones((), requires_grad=True), rain=model.losses(0)["rain"])
    optimizer = optimizer_of(model)
    optimizer.step(losses)
    assert list(losses) == ["rain"]
    assert optimizer.weights["haze"] == 0


SHAPES = [(), (1,), (1, 1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
one_loss = st.none() | st.builds(
    lambda value, shape, dtype: torch.full(shape, value, dtype=dtype, requires_grad=True),
    st.floats(-8, 8, width=16),
    st.sampled_from(SHAPES),
    st.sampled_from(DTYPES),
)


@settings(deadline=None)
@given(data=st.data())
def test_losses_of_any_names_shapes_dtypes_and_subset_become_a_vector(data):
    losses = data.draw(st.dictionaries(st.text(max_size=3), one_loss, min_size=1, max_size=6))
    present = [name for name, loss in losses.items() if loss is not None]
    assume(present)
    tasks = tuple(data.draw(st.permutations([*losses, "undrawn"])))
    kind = data.draw(st.sampled_from([dict, Bare, Strict, UserDict, OrderedDict]))
    result = TaskLosses.from_mapping(kind(losses), tasks)
    widest = max((losses[name].dtype for name in present), key=lambda dtype: torch.finfo(dtype).bits)
    promoted = {losses[name].dtype for name in present} == {torch.float16, torch.bfloat16}
    assert result.values.dtype == (torch.float32 if promoted else widest)
    assert result.present.tolist() == [task in present for task in tasks]
    assert result.values.tolist() == [losses[task].item() if task in present else 0 for task in tasks]
    gradient = torch.arange(1, len(tasks) + 1, dtype=result.values.dtype)
    result.values.backward(gradient)
    for task, expected in zip(tasks, gradient, strict=True):
        if task in present:
            assert losses[task].grad.dtype == losses[task].dtype
            assert losses[task].grad.item() == expected


# --- What is refused ---------------------------------------------------------------------------------------------


NO_LOSSES = {
    "list": (lambda losses: list(losses.values()), r"a list; .* e\.g\. dict\(zip\(optimizer\.tasks, losses\)\)"),
    "tuple": (lambda losses: tuple(losses.values()), r"a tuple; .* e\.g\. dict\(zip\(optimizer\.tasks, losses\)\)"),
    "empty list": (lambda losses: [], r"a list; .* e\.g\. dict\(zip\(optimizer\.tasks, losses\)\)"),
    "pairs": (lambda losses: list(losses.items()), r"a list; .* e\.g\. dict\(losses\)"),
    "vector": (lambda losses: torch.stack([*losses.values()]), r"a Tensor; .* e\.g\. TaskLosses\(losses\), in the"),
    "matrix": (lambda losses: torch.ones(2, 2, requires_grad=True), r"a Tensor; .* e\.g\. \{'rain': rain_loss, "),
    "values": (lambda losses: losses.values(), r"a dict_values; .* e\.g\. \{'rain': rain_loss, "),
    "generator": (lambda losses: (loss for loss in losses.values()), "a generator; give a mapping"),
    "set": (lambda losses: set(losses.values()), "a set; give a mapping"),
    "name": (lambda losses: "rain", "a str; give a mapping"),
    "object": (lambda losses: object(), "a object; give a mapping"),
}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "step(closure=)"])
@pytest.mark.parametrize("kind", NO_LOSSES)
def test_what_is_no_mapping_is_refused_whichever_way_it_comes(model, kind, way):
    """Also as what a closure returns, which would train nothing under an optimizer that does not look at it."""
    make, message = NO_LOSSES[kind]
    optimizer = optimizer_of(model)
    start = parameters_of(model), optimizer.task_state.state_dict()
    with pytest.raises(TypeError, match=f"^losses is {message}"):
        WAYS[way](optimizer, make(model.losses(0)))
    assert identical(start, (parameters_of(model), optimizer.task_state.state_dict()))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings(r"ignore:step\(\) follows no weighing")
@pytest.mark.parametrize(
    "result", [None, 0.5, 1, torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5).numpy()[()]]
)
def test_a_closure_that_calls_backward_itself_returns_one_number_or_none(model, result):
    optimizer, other = optimizer_of(model), MultiTask()
    plain = torch.optim.SGD(other.parameters(), lr=0.1)

    def closure(network):
        sum(network.losses(0).values()).backward()
        return result

    assert optimizer.step(lambda: closure(model)) is plain.step(lambda: closure(other)) is result
    assert identical(parameters_of(model), parameters_of(other))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (0.0, r"is a float; .* loss function returns it, or None \(or leave the name out\) where the task is absent"),
        (0, "is a int; .* or None"),
        (torch.tensor(0.5).numpy(), "is a ndarray; .* or None"),
        ([torch.rand(()), torch.rand(())], r"is a list; .* reduce it to one, e\.g\. torch\.stack\(losses\)\.mean"),
        ((torch.rand(()), torch.rand(())), "is a tuple; .* reduce it to one"),
        ({"l1": torch.rand(())}, "is a dict; .* do not nest: give each a name of its own, or their sum"),
        (UserDict(), "is a UserDict; .* do not nest"),
        (lambda: torch.rand(()), "is a function; .* as the loss function returns it"),
        (torch.rand(2), r"has shape \(2,\); .* reduce it"),
        (torch.tensor(1), r"is torch\.int64; .* floating point"),
        (torch.tensor(True), r"is torch\.bool; .* floating point"),
        (torch.tensor(1j), r"is torch\.complex64; .* floating point"),
    ],
)
@pytest.mark.parametrize("others", [True, False])
def test_what_is_no_loss_of_a_task_is_refused_alone_and_beside_others(model, loss, message, others):
    losses = {**(model.losses(0) if others else {}), "haze": loss}
    with pytest.raises((TypeError, ValueError), match=f"^loss of task 'haze' {message}"):
        optimizer_of(model).step(losses)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("name", [0, None, ("rain", "l1"), b"rain", 1.5])
def test_a_name_that_is_no_string_is_refused(model, name, declared):
    optimizer = optimizer_of(model, TASKS if declared else None)
    with pytest.raises(TypeError, match=r"losses has the name .*, which is not a string; give strings, e\.g\. \{str"):
        optimizer.step({name: torch.ones((), requires_grad=True)})


# --- Zero, and absent --------------------------------------------------------------------------------------------


def test_a_loss_of_zero_is_there_and_takes_a_share_of_the_weight(model):
    losses = model.losses(0)
    optimizer = optimizer_of(model)
    optimizer.step({"rain": losses["rain"], "haze": torch.zeros(())})
    assert optimizer.weights["haze"] == 0.5
    optimizer.step({"rain": model.losses(0)["rain"], "haze": None})
    assert optimizer.weights["haze"] == 0
