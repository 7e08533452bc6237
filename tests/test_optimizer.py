"""The wrapper as an optimizer: identity, live views, copies, hooks, and the one backward."""

from __future__ import annotations

import copy
import enum
import inspect
import pickle
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch_optimizer
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_flatten

from art_optim import Art, EqualWeighting, FixedWeighting, TaskLosses, TaskReweightedOptimizer, Weighting, per_task_mean

from .conftest import TASKS, MultiTask, needs_compilation

INNERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "yogi": lambda p: torch_optimizer.Yogi(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
}


def parameters_of(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def identical(left, right) -> bool:
    left, left_shape = tree_flatten(left)
    right, right_shape = tree_flatten(right)
    return left_shape == right_shape and all(
        same(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Like ``torch.equal``, but NaN is NaN, which stands for what there has not been yet."""
    return left.shape == right.shape and bool(((left == right) | (left.isnan() & right.isnan())).all())


def wrap(model, tasks=TASKS, weighting="art", **kwargs):
    return TaskReweightedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), tasks, weighting, **kwargs)


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        optimizer.step(model.losses(step))


# --- The update --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize(
    "weighting", [Art(), EqualWeighting(), FixedWeighting((0.2, 1.0, 3.0))], ids=["art", "equal", "fixed"]
)
def test_the_update_is_that_of_the_weighted_sum_bit_for_bit(inner, weighting):
    model, reference = MultiTask(), MultiTask()
    optimizer = TaskReweightedOptimizer(INNERS[inner](model.parameters()), TASKS, weighting)
    plain = INNERS[inner](reference.parameters())
    state = weighting.init(3)
    for step in range(20):
        absent = TASKS[step % 3] if step % 4 == 3 else None
        optimizer.zero_grad()
        total = optimizer.step({task: loss for task, loss in model.losses(step).items() if task != absent})

        losses = reference.losses(step)
        present = torch.tensor([task != absent for task in TASKS])
        weights = weighting(torch.stack([loss.detach() for loss in losses.values()]), present, state)
        plain.zero_grad()
        expected = sum(
            weight * loss for weight, (task, loss) in zip(weights, losses.items(), strict=True) if task != absent
        )
        expected.backward()
        plain.step()

        torch.testing.assert_close(total, expected.detach())
        assert not total.requires_grad
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.equal(ours, theirs)
            # the head of the absent task has no gradient, not one of zeros that would decay its moments
            assert (ours.grad is None) == (theirs.grad is None)


def test_a_mixed_batch_trains_like_the_dict_of_its_masked_means():
    def run(as_mapping):
        model = MultiTask()
        optimizer = wrap(model)
        for step in range(10):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(9, 6, generator=generator)
            task_ids = torch.randint(0, 3, (9,), generator=generator)
            if step % 3 == 2:
                task_ids.clamp_(max=1)  # the last task is absent
            per_sample = torch.cat([*model(x).values()], 1).square().mean(1) * (task_ids + 1) * 0.1
            optimizer.zero_grad()
            if as_mapping:
                masks = {task: task_ids == index for index, task in enumerate(TASKS)}
                optimizer.step({task: per_sample[mask].mean() for task, mask in masks.items() if mask.any()})
            else:
                optimizer.step(per_task_mean(per_sample, task_ids, 3))
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
        return gradients, parameters_of(model)

    torch.testing.assert_close(run(False), run(True), rtol=1e-4, atol=1e-6)


def test_one_backward_pass(model):
    visits = []

    def watch(module, args, features):
        features.register_hook(lambda gradient: visits.append(1))

    model.trunk.register_forward_hook(watch)
    wrap(model).step(model.losses(0))
    assert len(visits) == 1


def test_the_weights_are_no_part_of_the_graph(model):
    optimizer = wrap(model)
    for step in range(3):
        optimizer.step(model.losses(step))
        assert all(not weight.requires_grad and weight.dtype == torch.float32 for weight in optimizer.weights.values())
    model.zero_grad()
    optimizer.combine(model.losses(3)).backward()
    gradient = model.heads["rain"].bias.grad
    model.zero_grad()
    losses = model.losses(3)
    (optimizer.weights["rain"] * losses["rain"]).backward()
    torch.testing.assert_close(gradient, model.heads["rain"].bias.grad)


def test_backward_then_step_is_step(model):
    other = copy.deepcopy(model)
    one, two = wrap(model), wrap(other)
    for step in range(5):
        one.zero_grad()
        one.step(model.losses(step))
        two.zero_grad()
        two.backward(other.losses(step))
        two.step()
    assert identical(parameters_of(model), parameters_of(other))


def test_combine_then_backward_is_step_to_rounding(model):
    other = copy.deepcopy(model)
    one, two = wrap(model), wrap(other)
    for step in range(5):
        one.zero_grad()
        one.step(model.losses(step))
        total = two.combine(other.losses(step))
        two.zero_grad()  # may come between
        total.backward()
        two.step()
    torch.testing.assert_close(parameters_of(model), parameters_of(other))
    torch.testing.assert_close(one.weights, two.weights)


def test_combine_twice_before_one_backward(model):
    """The weights in a graph do not move with the state."""
    optimizer = wrap(model)
    (optimizer.combine(model.losses(0)) + optimizer.combine(model.losses(1))).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    other = MultiTask()
    second = wrap(other)
    second.backward(other.losses(0))
    second.backward(other.losses(1))
    torch.testing.assert_close(gradients, [parameter.grad for parameter in other.parameters()])


def test_the_state_moves_once_a_call_with_a_graph_and_not_in_validation(model):
    optimizer = wrap(model)
    train(model, optimizer, range(2))
    before, weights = copy.deepcopy(optimizer.task_state.tensors), optimizer.weights
    with torch.no_grad():
        optimizer.combine(model.losses(2))
    optimizer.combine({task: loss.detach() for task, loss in model.losses(2).items()})
    assert identical((optimizer.task_state.tensors, optimizer.weights), (before, weights))
    optimizer.combine(model.losses(2))
    assert not torch.equal(before["smoothed"], optimizer.task_state.tensors["smoothed"])


WARNING = "step\\(\\) follows no weighing: the gradients of a plain loss.backward\\(\\) are not weighted"


def test_a_step_that_follows_no_weighing_is_warned_of_once(model):
    optimizer = wrap(model)
    for how in (
        lambda: sum(model.losses(0).values()).backward(),
        lambda: optimizer.combine(model.losses(1)).backward(),
    ):
        optimizer.zero_grad()
        how()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()  # weighed
    sum(model.losses(2).values()).backward()
    with pytest.warns(UserWarning, match=WARNING) as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    optimizer.step()  # once


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_step_that_follows_a_weighing_is_not_warned_of(model, nonfinite):
    optimizer = wrap(model, nonfinite=nonfinite)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer.step(model.losses(0))
    optimizer.step(model.losses(1), scaler=scaler)
    scaler.update()
    optimizer.step(lambda: model.losses(2))
    optimizer.step(lambda: optimizer.backward(model.losses(3)))
    for step in (4, 5):
        optimizer.backward(model.losses(step))
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()  # without gradients nothing is trained
    optimizer.combine(model.losses(6)).backward()
    scaler.step(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0)
    optimizer.step()  # as torch.distributed.checkpoint does to make the state


def test_validation_before_training_does_not_fix_the_tasks(model):
    optimizer = wrap(model, tasks=None)
    with torch.no_grad():
        total = optimizer.combine({"rain": model.losses(0)["rain"]})
    torch.testing.assert_close(total, model.losses(0)["rain"].detach())
    assert optimizer.tasks == ()
    train(model, optimizer, range(1))
    assert optimizer.tasks == TASKS


def test_a_weight_of_zero_does_not_protect_from_nan(model):
    optimizer = wrap(model, weighting=FixedWeighting((0.0, 1.0, 1.0)))
    losses = model.losses(0)
    total = optimizer.backward({**losses, "rain": losses["rain"] * float("nan")})
    assert total.isnan()
    assert model.trunk[0].weight.grad.isnan().all()


def test_weights_are_float32_under_autocast(model):

    def run(autocast):
        other = copy.deepcopy(model)
        optimizer = wrap(other)
        for step in range(4):
            losses = {task: loss.detach().requires_grad_() for task, loss in model.losses(step).items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                total = optimizer.combine(losses)
        return total, optimizer.weights

    (total, weights), (total_autocast, weights_autocast) = run(False), run(True)
    assert total_autocast.dtype == torch.float32
    assert identical((total, weights), (total_autocast, weights_autocast))


def test_low_precision_losses(model):
    model.bfloat16()
    optimizer = wrap(model)
    total = optimizer.step({task: head.square().mean() for task, head in model(torch.randn(4, 6).bfloat16()).items()})
    assert total.dtype == torch.float32
    assert model.trunk[0].weight.grad.dtype == torch.bfloat16


def test_a_graph_made_before_validation_does_not_train_in_it(model):
    """The losses carry a graph, but gradients are off: nothing moves, and nothing becomes an inference tensor."""
    for off in (torch.no_grad, torch.inference_mode):
        optimizer = wrap(model, tasks=None)
        losses = TaskLosses.from_mapping(model.losses(0), TASKS)
        with off():
            optimizer.combine(losses)
            with pytest.raises(ValueError, match="losses carry no graph"):
                optimizer.backward(losses)
        assert optimizer.tasks == ()
        assert all(weight.isnan() for weight in optimizer.weights.values())
        optimizer.step(losses)


def test_a_model_initialised_on_meta_and_materialised_later():
    with torch.device("meta"):
        model = nn.Linear(6, 3)
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(model.parameters()), TASKS)
    model.to_empty(device="cpu")
    nn.init.constant_(model.weight, 0.1)
    nn.init.zeros_(model.bias)
    for _ in range(2):
        optimizer.step(dict(zip(TASKS, model(torch.rand(4, 6)).square().mean(0), strict=True)))
    assert all(tensor.isfinite().all() for tensor in optimizer.task_state.tensors.values())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the tracer looks at it
def test_combine_compiles_as_one_graph_and_once(model):
    """A counter in Python would compile anew at every step; an absent task is another program."""
    torch.compiler.reset()
    other = copy.deepcopy(model)
    optimizer, compiled = wrap(model), wrap(other)
    counter = CompileCounter()
    combine = torch.compile(compiled.combine, backend=counter, fullgraph=True)
    for step, absent, frames in [(0, (), 1), (1, (), 1), (2, (), 1), (3, "haze", 2), (4, "haze", 2), (5, (), 2)]:
        losses = {task: None if task in absent else loss for task, loss in model.losses(step).items()}
        assert torch.equal(combine(losses), optimizer.combine(losses))
        assert counter.frame_count == frames
    assert identical(optimizer.task_state.tensors, compiled.task_state.tensors)


def test_a_device_without_autocast_is_asked_first(model):
    ones = torch.ones(3, device="meta")
    assert not torch.amp.is_autocast_available("meta")
    assert wrap(model).combine(TaskLosses(ones.clone().requires_grad_(), ones)).is_meta


def test_validation_weighs_by_the_state_as_training_left_it(model):
    optimizer = wrap(model)
    train(model, optimizer, range(3))
    losses = model.losses(3)
    with torch.no_grad():
        peeked = optimizer.combine(losses)
    assert not torch.allclose(peeked, sum(losses.values()) / 3, rtol=1e-4)
    assert torch.equal(peeked, optimizer.combine(losses).detach())


def test_retain_graph_and_create_graph_reach_the_backward_pass(model):
    optimizer, losses = wrap(model), model.losses(0)
    optimizer.backward(losses, retain_graph=True)
    optimizer.backward(losses)
    optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True")
        optimizer.backward(model.losses(0), create_graph=True)
    assert model.trunk[0].weight.grad.requires_grad
    optimizer.zero_grad()  # or the graph would hold on to the parameters


def test_autocast_does_not_reach_a_weighting_that_multiplies_matrices():

    @dataclass(frozen=True)
    class Mixing(Weighting):
        def weigh(self, losses, present, state):
            return torch.full((3, 3), 0.1) @ losses

    def weights(enabled):
        optimizer = wrap(MultiTask(), weighting=Mixing())
        losses = {task: torch.tensor(0.3 + index / 7, requires_grad=True) for index, task in enumerate(TASKS)}
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            optimizer.combine(losses)
        return optimizer.weights

    assert identical(weights(True), weights(False))


def test_the_total_is_not_rounded_by_autocast():
    losses = {task: torch.tensor(0.1 + index / 7, requires_grad=True) for index, task in enumerate(TASKS)}
    with torch.autocast("cpu", torch.bfloat16):
        total = wrap(MultiTask(), weighting="equal").step(losses)
    torch.testing.assert_close(total, sum(losses.values()).detach())


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [TASKS, None], ids=["declared", "undeclared"])
@pytest.mark.parametrize("how", ["step", "backward", "combine"])
@pytest.mark.parametrize(
    ("corrupt", "error", "message"),
    [
        (lambda losses: {}, ValueError, "losses has no loss"),
        (lambda losses: dict.fromkeys(losses), ValueError, "losses has no loss"),
        (lambda losses: {**losses, "haze": 0.3}, TypeError, "is a float"),
        (lambda losses: {**losses, "haze": losses["haze"].expand(3)}, ValueError, "must be a scalar"),
        (lambda losses: {**losses, "haze": torch.rand((), device="meta")}, ValueError, "on meta"),
        (lambda losses: sum(losses.values()), TypeError, "losses is a Tensor; give a mapping"),
        (lambda losses: list(losses.values()), TypeError, "losses is a list; give a mapping"),
    ],
)
def test_bad_losses_change_nothing(model, tasks, how, corrupt, error, message):
    optimizer = wrap(model, tasks)
    if tasks:
        train(model, optimizer, range(2))

    def everything():
        gradients = [parameter.grad for parameter in model.parameters()]
        return optimizer.state_dict(), parameters_of(model), gradients, optimizer.weights

    before = copy.deepcopy(everything())
    with pytest.raises(error, match=message):
        getattr(optimizer, how)(corrupt(model.losses(2)))
    assert identical(everything(), before)


def test_a_first_step_that_fails_fixes_no_tasks(model):
    optimizer = wrap(model, tasks=None, weighting=FixedWeighting([1, 2]))
    with pytest.raises(ValueError, match="2 numbers for 3 tasks"):
        optimizer.step(model.losses(0))
    with pytest.raises(TypeError, match="losses has the name 0, which is not a string"):
        wrap(model, tasks=None).step({0: model.losses(0)["rain"], 1: model.losses(0)["haze"]})
    with pytest.raises(TypeError, match=r"scaler is a int; give a torch\.amp\.GradScaler"):
        optimizer.step(model.losses(0), scaler=3)
    assert optimizer.tasks == ()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_names_may_be_an_enumeration_of_strings(model):
    class Task(str, enum.Enum):
        RAIN = "rain"
        HAZE = "haze"

    optimizer = wrap(model, tasks=list(Task))
    optimizer.step({Task.RAIN: model.losses(0)["rain"]})
    undeclared = wrap(model, tasks=None)
    values = torch.stack([model.losses(0)["rain"], model.losses(0)["haze"]])
    undeclared.step(TaskLosses(values, torch.ones(2), tuple(Task)))
    for names in (optimizer.tasks, undeclared.tasks):
        assert [type(name) for name in names] == [str, str]


def test_an_unknown_name_says_how_to_declare_it(model):
    optimizer = wrap(model)
    with pytest.raises(
        ValueError, match=r"losses has \['fog'\], the tasks are \['rain', 'haze', 'noise'\]; declare every task"
    ):
        optimizer.step({**model.losses(0), "fog": model.losses(0)["rain"]})
    assert all(weight.isnan() for weight in optimizer.weights.values())


@pytest.mark.parametrize("how", ["step", "backward"])
def test_losses_without_a_graph_are_refused(model, how):
    optimizer = wrap(model, tasks=None)
    with pytest.raises(ValueError, match="losses carry no graph"):
        getattr(optimizer, how)({task: loss.detach() for task, loss in model.losses(0).items()})
    with torch.no_grad(), pytest.raises(ValueError, match="losses carry no graph"):
        getattr(optimizer, how)(model.losses(0))
    assert optimizer.tasks == ()
    losses = model.losses(0)
    optimizer.step({**losses, "haze": losses["haze"].detach()})  # one graph is enough


def test_task_losses_need_names_and_as_many_values(model):
    values = torch.stack([*model.losses(0).values()])
    with pytest.raises(ValueError, match="declare the tasks with tasks="):
        wrap(model, tasks=None).step(TaskLosses(values, torch.ones(3)))
    with pytest.raises(ValueError, match="each name once"):
        wrap(model, tasks=None).step(TaskLosses(values, torch.ones(3), ("a", "a", "b")))
    wrap(model).step(TaskLosses(values, torch.ones(3), list(TASKS)), closure=None)
    values = torch.stack([*model.losses(0).values()])
    with pytest.raises(ValueError, match="losses has 2 values for the 3 tasks"):
        wrap(model).step(TaskLosses(values[:2], torch.ones(2)))
    with pytest.raises(ValueError, match=r"losses is of the tasks \['a', 'b', 'c'\]"):
        wrap(model).step(TaskLosses(values, torch.ones(3), ("a", "b", "c")))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda p: (p,), TypeError, "inner is a list; give a constructed optimizer with parameter groups"),
        (lambda p: (torch.optim.AdamW,), TypeError, "inner is a type"),
        (lambda p: (torch.optim.Optimizer.__new__(torch.optim.SGD),), TypeError, "inner is a SGD; .* parameter groups"),
        (lambda p: (TaskReweightedOptimizer(torch.optim.SGD(p)),), TypeError, "inner is a TaskReweightedOptimizer"),
        (lambda p: (torch.optim.SGD(p), "rain"), TypeError, "give the names in order"),
        (lambda p: (torch.optim.SGD(p), {"rain", "haze"}), TypeError, "give the names in order"),
        (lambda p: (torch.optim.SGD(p), 5), TypeError, "give the names in order"),
        (lambda p: (torch.optim.SGD(p), [1, 2]), TypeError, "give the names in order"),
        (lambda p: (torch.optim.SGD(p), []), ValueError, "give at least one name"),
        (lambda p: (torch.optim.SGD(p), ["rain", "rain"]), ValueError, "each name once"),
        (lambda p: (torch.optim.SGD(p), None, "arts"), ValueError, "weighting 'arts' is not known"),
        (lambda p: (torch.optim.SGD(p), None, Art), TypeError, "give a Weighting such as"),
        (lambda p: (torch.optim.SGD(p), ["a"], FixedWeighting([1, 2])), ValueError, "2 numbers for 1 tasks"),
    ],
)
def test_bad_arguments_are_refused_in_clear_words(model, arguments, error, message):
    with pytest.raises(error, match=message):
        TaskReweightedOptimizer(*arguments(list(model.parameters())))


# --- Attributes --------------------------------------------------------------------------------------------------

SETTABLE = {"accumulation_steps", "nonfinite"}
OF_THE_INNER = {"param_groups", "state", "defaults", "grad_scale", "found_inf"}


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("accumulation_steps", 0, ValueError, "accumulation_steps is 0; give the number of batches, at least 1"),
        ("accumulation_steps", -4, ValueError, "accumulation_steps is -4; give the number of batches, at least 1"),
        ("accumulation_steps", 4.0, TypeError, "accumulation_steps is 4.0; give the number of batches, an integer"),
        ("accumulation_steps", True, TypeError, "accumulation_steps is True; give the number of batches, an integer"),
        ("accumulation_steps", None, TypeError, "accumulation_steps is None; give the number of batches, an integer"),
        ("accumulation_steps", torch.tensor(4), TypeError, r"accumulation_steps is tensor\(4\); give the number"),
        ("nonfinite", "skpi", ValueError, "nonfinite is 'skpi'; choose one of propagate, skip"),
        ("nonfinite", None, ValueError, "nonfinite is None; choose one of propagate, skip"),
        ("nonfinite", ["skip"], ValueError, r"nonfinite is \['skip'\]; choose one of propagate, skip"),
    ],
)
def test_an_attribute_is_checked_when_set_as_when_constructed(model, name, value, error, message):
    optimizer = wrap(model, accumulation_steps=2, nonfinite="skip")
    with pytest.raises(error, match=message):
        setattr(optimizer, name, value)
    assert (optimizer.accumulation_steps, optimizer.nonfinite) == (2, "skip")
    with pytest.raises(error, match=message):
        wrap(model, **{name: value})


def test_an_attribute_that_is_set_counts_from_the_next_step(model):
    optimizer = wrap(model, weighting="equal")
    optimizer.accumulation_steps = 4
    optimizer.backward(model.losses(0))
    assert all(weight == 0.25 for weight in optimizer.weights.values())
    optimizer.nonfinite = "skip"
    optimizer.step({task: loss * float("nan") for task, loss in model.losses(1).items()})
    assert optimizer.skipped == 1


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            *inspect.signature(TaskReweightedOptimizer).parameters,
            *TaskReweightedOptimizer.__annotations__,
            *(name for name, value in vars(TaskReweightedOptimizer).items() if isinstance(value, property)),
        }
        - SETTABLE
        - OF_THE_INNER
        - {"_step_supports_amp_scaling"}
    ),
)
def test_an_attribute_that_is_fixed_says_what_to_do_instead(model, name):
    """Every argument of the constructor and every property: one that was stored without an effect would mislead."""
    optimizer = wrap(model)
    before = repr(optimizer)
    with pytest.raises(AttributeError, match=f"^{name} cannot be set; .+"):
        setattr(optimizer, name, None)
    assert repr(optimizer) == before


def test_an_unknown_attribute_can_be_set_as_on_any_optimizer(model):
    """Schedulers and frameworks leave marks of their own."""
    optimizer = wrap(model)
    optimizer._opt_called = True
    assert optimizer._opt_called
    assert not hasattr(optimizer.inner, "_opt_called")


def test_arguments_that_are_refused_leave_the_inner_optimizer_as_it_was(model):
    inner = torch.optim.AdamW(model.parameters())
    inner.load_state_dict(wrap(model).state_dict())
    before = copy.deepcopy(inner.state_dict())
    for wrong in ({"accumulation_steps": 0}, {"nonfinite": "skpi"}, {"tasks": "rain"}, {"process_group": 3}):
        with pytest.raises((TypeError, ValueError)):
            TaskReweightedOptimizer(inner, **wrong)
    assert identical(inner.state_dict(), before)


# --- Identity and live views -------------------------------------------------------------------------------------


def test_it_is_an_optimizer_that_schedulers_accept(model):
    optimizer = wrap(model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(3):
            train(model, optimizer, [step])
            scheduler.step()
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(1e-2 / 8)


def test_groups_state_and_defaults_are_live_views(model):
    """Also after load_state_dict has rebound the inner's, and when they are set."""
    optimizer = wrap(model)
    train(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    for name in ("param_groups", "state", "defaults"):
        assert getattr(optimizer, name) is getattr(optimizer.inner, name)
    optimizer.param_groups[0]["lr"] = 0.0
    before = parameters_of(model)
    train(model, optimizer, [2])
    assert identical(before, parameters_of(model))
    groups = [dict(group) for group in optimizer.param_groups]
    optimizer.param_groups = groups
    assert optimizer.inner.param_groups is groups


def test_a_reload_does_not_detach_a_scheduler(model):
    """The learning rate after a reload in the middle of a run is the one the inner step uses."""
    optimizer = wrap(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    train(model, optimizer, [0])
    scheduler.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, [1])
    scheduler.step()
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.0025)


@pytest.mark.parametrize("name", ["param_groups", "state", "defaults"])
def test_views_are_set_through_and_follow_what_the_inner_sets(model, name):
    optimizer = wrap(model)
    value = copy.copy(getattr(optimizer, name))
    setattr(optimizer, name, value)
    assert getattr(optimizer.inner, name) is value
    other = copy.copy(value)
    setattr(optimizer.inner, name, other)
    assert getattr(optimizer, name) is other
    assert name not in optimizer.__dict__


def test_add_param_group_trains_the_new_parameters(model):
    optimizer = wrap(model)
    extra = nn.Parameter(torch.tensor(0.5))
    optimizer.add_param_group({"params": [extra], "lr": 0.1})
    assert optimizer.inner.param_groups[1]["params"] == [extra]
    losses = model.losses(0)
    optimizer.step({**losses, "rain": losses["rain"] + extra**2})
    assert extra != 0.5


def test_every_hook_dict_exists_and_hooks_see_the_wrapper(model):
    """Step hooks fire once an update, after the backward and before the inner step."""
    optimizer = wrap(model)
    seen = []

    def pre(caller, args, kwargs):
        seen.append(("pre", caller, model.trunk[0].weight.grad is not None, args[0] is caller))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-9)

    optimizer.register_step_pre_hook(pre)
    optimizer.register_step_post_hook(lambda caller, args, kwargs: seen.append(("post", caller)))
    optimizer.register_state_dict_pre_hook(lambda caller: seen.append(("saving", caller)))
    optimizer.register_state_dict_post_hook(lambda caller, state_dict: {**state_dict, "epoch": 3})
    optimizer.register_load_state_dict_pre_hook(
        lambda caller, state_dict: seen.append(("loading", state_dict.pop("epoch")))
    )
    optimizer.register_load_state_dict_post_hook(lambda caller: seen.append(("loaded", caller)))
    optimizer.step(model.losses(0))
    assert model.trunk[0].weight.grad.norm() < 1e-8
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [
        ("pre", optimizer, True, True),
        ("post", optimizer),
        ("saving", optimizer),
        ("loading", 3),
        ("loaded", optimizer),
    ]


def test_hooks_may_replace_what_they_are_given(model):
    optimizer, seen = wrap(model), []
    optimizer.register_state_dict_post_hook(lambda caller, state_dict: seen.append(caller))
    optimizer.register_load_state_dict_pre_hook(lambda caller, state_dict: seen.append(caller) or state_dict["wrapped"])
    optimizer.load_state_dict({"wrapped": optimizer.state_dict()})
    assert seen == [optimizer, optimizer]
    optimizer.register_step_pre_hook(lambda caller, args, kwargs: ((caller, lambda: seen.append("closure")), kwargs))
    optimizer.step(model.losses(0))
    assert seen[2:] == ["closure"]


def test_a_hook_that_returns_something_else_is_refused(model):
    optimizer = wrap(model)
    optimizer.register_step_pre_hook(lambda caller, args, kwargs: torch.ones(()))
    with pytest.raises(RuntimeError, match=r"a step pre-hook returned tensor\(1.\); return None, or a pair"):
        optimizer.step(model.losses(0))


def test_a_post_hook_sees_the_step_done(model):
    optimizer, start, seen = wrap(model), parameters_of(model), []
    optimizer.register_step_post_hook(
        lambda caller, args, kwargs: seen.append((args[0] is caller, identical(parameters_of(model), start)))
    )
    optimizer.step(model.losses(0))
    assert seen == [(True, False)]


def test_torch_does_not_profile_the_step_a_second_time(model):
    """Also after it has tried to, as it does for a copy."""
    optimizer, seen = wrap(model), []
    torch.optim.Optimizer._patch_step_function(optimizer)
    optimizer.register_step_pre_hook(lambda caller, args, kwargs: seen.append(caller))
    optimizer.step(model.losses(0))
    assert seen == [optimizer]


def test_global_hooks_fire_once_an_update(model):
    seen = []
    handle = register_optimizer_step_post_hook(lambda caller, args, kwargs: seen.append(type(caller)))
    try:
        train(model, wrap(model), range(2))
    finally:
        handle.remove()
    assert seen == [torch.optim.AdamW] * 2


def test_what_else_the_inner_has_is_reached(model):
    """Methods of the inner, but no dunder and none of our own names."""

    class ScheduleFreeLike(torch.optim.SGD):
        mode = "train"

        def eval(self):
            self.mode = "eval"

        def __len__(self):
            return 1

    optimizer = TaskReweightedOptimizer(ScheduleFreeLike(model.parameters()), TASKS)
    optimizer.eval()
    assert optimizer.inner.mode == optimizer.mode == "eval"
    assert not hasattr(optimizer, "consolidate_state_dict")
    assert not hasattr(optimizer, "__len__")
    blank = TaskReweightedOptimizer.__new__(TaskReweightedOptimizer)
    for name in ("inner", "task_state", "_optimizer_step_pre_hooks", "param_groups"):
        assert not hasattr(blank, name)


def test_methods_work_on_a_subclass_that_shares_the_attributes(model):
    """Frameworks run them on a dynamic subclass with a ``self`` of its own."""
    optimizer = wrap(model)
    shadow = object.__new__(type("Shadow", (TaskReweightedOptimizer,), {}))
    shadow.__dict__ = dict(optimizer.__dict__)
    names = set(optimizer.__dict__)
    train(model, shadow, range(2))
    shadow.load_state_dict(shadow.state_dict())
    train(model, shadow, [2])
    assert optimizer.weights.keys() == set(TASKS)
    assert optimizer.weights == shadow.weights
    assert optimizer.task_state is shadow.task_state
    shadow.accumulation_steps, optimizer.nonfinite = 2, "skip"
    assert (optimizer.accumulation_steps, shadow.nonfinite) == (2, "skip")
    shadow.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # rebinds the groups of the inner
    assert shadow.param_groups is optimizer.inner.param_groups
    seen = []
    optimizer.register_step_pre_hook(lambda caller, args, kwargs: seen.append(caller))
    train(model, shadow, [3])
    assert seen == [shadow]
    assert set(optimizer.__dict__) == set(shadow.__dict__) == names


def test_training_keeps_the_state_in_its_place(model):
    optimizer = wrap(model)
    places = {name: tensor.data_ptr() for name, tensor in optimizer.task_state.tensors.items()}
    train(model, optimizer, range(2))
    assert places == {name: tensor.data_ptr() for name, tensor in optimizer.task_state.tensors.items()}


def test_zero_grad_is_that_of_the_inner(model):
    """With the parameter that frameworks look for in its signature."""

    class Old(torch.optim.SGD):
        def zero_grad(self):
            super().zero_grad(set_to_none=False)

    optimizer = wrap(model)
    for set_to_none, is_none in ((None, True), (True, True), (False, False)):
        optimizer.backward(model.losses(0))
        optimizer.zero_grad() if set_to_none is None else optimizer.zero_grad(set_to_none=set_to_none)
        assert (model.trunk[0].weight.grad is None) == is_none
    optimizer = TaskReweightedOptimizer(Old(model.parameters()), TASKS)
    optimizer.backward(model.losses(0))
    optimizer.zero_grad()
    assert not model.trunk[0].weight.grad.any()
    assert "set_to_none" in inspect.signature(optimizer.zero_grad).parameters


# --- Copies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_a_copy_trains_on_by_itself(model, duplicate):
    """Also when a scheduler has patched ``step`` on the original."""
    optimizer = wrap(model)
    torch.optim.lr_scheduler.StepLR(optimizer, 100)
    train(model, optimizer, range(3))
    other_model, other = duplicate((model, optimizer))
    assert other.inner is not optimizer.inner
    assert "step" not in other.__dict__
    train(other_model, other, range(3, 6))
    frozen = parameters_of(other_model)
    train(model, optimizer, range(3, 6))
    assert identical(parameters_of(model), frozen)
    train(model, optimizer, [6])
    assert identical(parameters_of(other_model), frozen)


@needs_compilation
def test_repr_shows_the_parts_and_the_options_that_are_not_defaults(model):
    optimizer = wrap(model)
    start, end = "TaskReweightedOptimizer(tasks=['rain', 'haze', 'noise'], weighting=", f", inner={optimizer.inner!r})"
    assert repr(optimizer) == f"{start}{Art()!r}{end}"
    options = {"accumulation_steps": 4, "nonfinite": "skip", "process_group": False, "compile": True, "interval": 3}
    for name, value in options.items():
        assert repr(wrap(model, **{name: value})) == f"{start}{Art()!r}, {name}={value!r}{end}"
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert repr(wrap(model, weighting="equal", **options)) == f"{start}{EqualWeighting()!r}, {shown}{end}"
    changed = wrap(model)
    changed.accumulation_steps = 2
    assert ", accumulation_steps=2, inner=" in repr(changed)


def test_the_state_follows_the_losses_to_their_device(model):
    optimizer = wrap(model)
    train(model, optimizer, range(2))
    ones = torch.ones(3, device="meta")
    with torch.no_grad():
        assert optimizer.combine(TaskLosses(ones, ones)).is_meta
    assert not any(tensor.is_meta for tensor in optimizer.task_state.tensors.values())
    optimizer.combine(TaskLosses(ones.clone().requires_grad_(), ones))
    assert all(tensor.is_meta for tensor in optimizer.task_state.tensors.values())
    assert optimizer.task_state.device.type == "meta"
