"""``interval=N``: weigh once in N calls, by each task's mean loss over them."""

from __future__ import annotations

import copy
import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from art_optim import (
    Art,
    EqualWeighting,
    FixedWeighting,
    GradNorm,
    ScaleInvariant,
    TaskLosses,
    TaskReweightedOptimizer,
    Weighting,
    compiled,
    per_task_mean,
)

from .conftest import needs_compilation
from .test_optimizer import same
from .weighting.cases import EVERY, NUM_TASKS, REQUIRED, available, create

TASKS = ["a", "b", "c", "d"]
every = pytest.mark.parametrize("weighting", EVERY, ids=repr)

# With interval=1, a lone task always has the same weight under the methods that compare tasks. The others are constant,
# or follow each loss by itself.
INERT_ALONE = sorted({*available()} - {"equal", "fixed"} - {"igb", "imtl_l", "si", "stch", "uncertainty"})


def made(weighting: Weighting | str, interval: int, **kwargs) -> TaskReweightedOptimizer:
    if isinstance(weighting, str):
        weighting = create(weighting, **REQUIRED.get(weighting, {}))
    parameter = torch.nn.Parameter(torch.ones(NUM_TASKS))
    return TaskReweightedOptimizer(torch.optim.SGD([parameter], lr=0.0), TASKS, weighting, interval=interval, **kwargs)


def losses_of(optimizer: TaskReweightedOptimizer, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses of given values; the gradient of task i by the parameter is i + 1 times a unit vector."""
    (parameter,) = optimizer.param_groups[0]["params"]
    slopes = [(task + 1) * (parameter[task] - parameter[task].detach()) for task in range(NUM_TASKS)]
    return {task: value + slope for task, value, slope in zip(TASKS, values, slopes, strict=True)}


def history(rounds: int, seed: int = 0) -> torch.Tensor:
    """Losses [rounds, K] below 1, each task at a rate of its own."""
    generator = torch.Generator().manual_seed(seed)
    falling = torch.tensor([0.99, 0.9, 0.97, 0.8]) ** torch.arange(rounds)[:, None]
    return falling * (0.3 + 0.4 * torch.rand(rounds, NUM_TASKS, generator=generator))


def stacked(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(weights.values()))


def round_of_lone_tasks(optimizer: TaskReweightedOptimizer, values: torch.Tensor) -> torch.Tensor:
    """A call for each task alone; return the weight of each in its call."""
    weights = []
    for task, loss in losses_of(optimizer, values).items():
        optimizer.backward({task: loss})
        weights.append(optimizer.weights[task])
    return torch.stack(weights)


@pytest.mark.parametrize("name", INERT_ALONE)
def test_methods_that_are_inert_on_lone_tasks_weigh_them_with_an_interval(name):
    alone, rounds = made(name, 1), made(name, NUM_TASKS)
    for values in history(12):
        inert, weights = round_of_lone_tasks(alone, values), round_of_lone_tasks(rounds, values)
        assert (inert == inert[0]).all()
    assert weights.unique().numel() == NUM_TASKS


@every
def test_lone_tasks_weigh_like_joint_batches_of_the_round_before(weighting):
    joint, rounds = made(weighting, 1), made(weighting, NUM_TASKS)
    before = None
    for values in history(12):
        weights = round_of_lone_tasks(rounds, values)
        if before is not None:
            torch.testing.assert_close(weights, before, rtol=1e-5, atol=1e-7)
        joint.step(losses_of(joint, values))
        before = stacked(joint.weights)
    for name, tensor in joint.task_state.tensors.items():
        if name != "norm" and tensor.is_floating_point():
            assert tensor.shape == rounds.task_state.tensors[name].shape


@every
@pytest.mark.parametrize("interval", [2, 3, 7])
def test_weights_are_held_for_an_interval_and_are_those_of_the_means_before(weighting, interval):
    optimizer, state = made(weighting, interval), weighting.init(NUM_TASKS)
    expected = weighting(torch.full((NUM_TASKS,), 0.5), None, weighting.init(NUM_TASKS))
    if isinstance(weighting, GradNorm):
        pytest.skip("its own test looks at its gradients")
    for values in history(4 * interval).split(interval):
        for call in values:
            optimizer.step(losses_of(optimizer, call))
            torch.testing.assert_close(stacked(optimizer.weights), expected, rtol=1e-5, atol=1e-7)
        expected = weighting(values.mean(0), None, state)


@every
def test_an_interval_of_one_is_the_default_bit_for_bit(weighting):
    one, default = (
        made(weighting, 1),
        TaskReweightedOptimizer(torch.optim.SGD([torch.nn.Parameter(torch.ones(NUM_TASKS))], lr=0.0), TASKS, weighting),
    )
    for values in history(6):
        assert same(one.step(losses_of(one, values)), default.step(losses_of(default, values)))
        assert same(stacked(one.weights), stacked(default.weights))


@every
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_an_interval_survives_any_losses_and_any_absence(weighting, data):
    """The bare formula of Art is one of losses in (0, 1) alone."""
    special, ordinary = [torch.nan, torch.inf], st.floats(0.0625, 0.9375, width=32)
    if getattr(weighting, "guarded", True):
        special, ordinary = [*special, -torch.inf, 0.0, 1e-45, 1e-30, 3e38, -3e38], st.floats(width=32)
    loss = st.one_of(st.sampled_from(special), ordinary)
    optimizer = made(weighting, 3)
    for _ in range(10):
        values = torch.tensor(data.draw(st.lists(loss, min_size=NUM_TASKS, max_size=NUM_TASKS)))
        here = data.draw(st.sets(st.sampled_from(TASKS), min_size=1))
        losses = losses_of(optimizer, values)
        optimizer.combine({task: losses[task] for task in here})
        weights = stacked(optimizer.weights)
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert all(float(optimizer.weights[task]) == 0 for task in TASKS if task not in here)


def test_a_loss_that_is_not_finite_is_excluded_from_its_mean():
    optimizer = made(ScaleInvariant(), 4)
    for value in (0.2, torch.nan, 0.4, torch.inf):
        optimizer.step(losses_of(optimizer, torch.tensor([value, 0.5, 0.5, 0.5])))
    optimizer.step(losses_of(optimizer, torch.ones(NUM_TASKS)))
    torch.testing.assert_close(stacked(optimizer.weights), 1 / torch.tensor([0.3, 0.5, 0.5, 0.5]))


def test_a_loss_that_is_not_finite_is_excluded_with_its_samples():
    optimizer = made(ScaleInvariant(), 2)
    (parameter,) = optimizer.param_groups[0]["params"]
    for value, count in ((0.2, 1.0), (torch.nan, 5.0), (1.0, 1.0)):
        optimizer.step(TaskLosses(value * parameter, torch.full((NUM_TASKS,), count)))
    torch.testing.assert_close(stacked(optimizer.weights), torch.full((NUM_TASKS,), 5.0))


def test_an_interval_without_a_finite_loss_leaves_the_weights_of_equal_losses():
    optimizer = made(Art(), 2)
    for _ in range(5):
        optimizer.step(losses_of(optimizer, torch.full((NUM_TASKS,), torch.nan)))
        assert stacked(optimizer.weights).tolist() == [0.25] * NUM_TASKS


@every
@pytest.mark.parametrize("counted", [False, True])
def test_a_task_without_a_finite_loss_is_weighed_as_with_a_loss_that_is_not_finite(weighting, counted):
    if isinstance(weighting, GradNorm):
        pytest.skip("it weighs by gradients, which such a loss does not have")
    optimizer, state = made(weighting, 2), weighting.init(NUM_TASKS)
    (parameter,) = optimizer.param_groups[0]["params"]
    for values in torch.tensor([[0.5, 0.4, 0.3, 0.2], [torch.nan, 0.5, 0.5, 0.5], [0.4, 0.3, 0.2, 0.1]]):
        for _ in range(2):
            losses = TaskLosses(values * parameter, torch.ones(NUM_TASKS)) if counted else losses_of(optimizer, values)
            optimizer.combine(losses)
        weights = weighting(values, None, state)
    optimizer.combine(losses_of(optimizer, torch.ones(NUM_TASKS)))
    torch.testing.assert_close(stacked(optimizer.weights), weights, rtol=1e-5, atol=1e-7)


def test_the_mean_is_over_samples_where_their_number_is_known():
    optimizer = made(ScaleInvariant(), 2)
    (parameter,) = optimizer.param_groups[0]["params"]
    for value, count in ((0.1, 3.0), (0.5, 1.0), (1.0, 1.0)):
        optimizer.step(TaskLosses(value * parameter, torch.full((NUM_TASKS,), count)))
    torch.testing.assert_close(stacked(optimizer.weights), torch.full((NUM_TASKS,), 5.0))


def test_the_caller_may_fill_the_same_tensors_anew_for_each_call():
    optimizer, values, counts = made(ScaleInvariant(), NUM_TASKS), torch.ones(NUM_TASKS), torch.zeros(NUM_TASKS)
    for call in range(NUM_TASKS + 1):
        task = call % NUM_TASKS
        values.fill_(2.0**task)
        counts.zero_()[task] = 3
        optimizer.combine(TaskLosses(values.view(-1).requires_grad_(), counts))
        values = values.detach()
    assert optimizer.task_state.interval.held.tolist() == [1.0, 0.5, 0.25, 0.125]


def test_a_task_that_was_never_weighed_has_the_mean_weight_of_the_others():
    optimizer = made(ScaleInvariant(), 2)
    for _ in range(2):
        losses = losses_of(optimizer, torch.tensor([0.5, 0.25, 1.0, 1.0]))
        optimizer.step({"a": losses["a"], "b": losses["b"]})
        assert stacked(optimizer.weights).tolist() == [2, 2, 0, 0]  # those of equal losses
    optimizer.step(losses_of(optimizer, torch.ones(NUM_TASKS)))
    assert stacked(optimizer.weights).tolist() == [2, 4, 3, 3]


def test_before_the_first_weighing_weights_are_those_of_equal_losses():
    for weighting, expected in ((Art(), 0.25), (Art(normalize="sum"), 1.0), (create("gls"), 0.25)):
        optimizer = made(weighting, 3)
        optimizer.step(losses_of(optimizer, torch.tensor([0.1, 0.2, 0.3, 0.4])))
        torch.testing.assert_close(stacked(optimizer.weights), torch.full((NUM_TASKS,), expected))


def test_a_mixed_batch_of_one_task_is_one_task_a_batch():
    named, mixed = made(Art(), NUM_TASKS), made(Art(), NUM_TASKS)
    for values in history(6):
        weights = round_of_lone_tasks(named, values)
        found = []
        for index, loss in enumerate(losses_of(mixed, values).values()):
            mixed.backward(per_task_mean(loss.expand(3), torch.full((3,), index), NUM_TASKS))
            found.append(stacked(mixed.weights)[index])
        torch.testing.assert_close(torch.stack(found), weights)


def test_validation_moves_nothing_and_is_weighed_by_the_held_weights():
    optimizer = made(Art(), 2)
    for values in history(5):
        optimizer.step(losses_of(optimizer, values))
    before, weights = optimizer.state_dict(), stacked(optimizer.weights)
    with torch.no_grad():
        total = optimizer.combine(dict(zip(TASKS, torch.tensor([0.9, 0.1, 0.1, 0.1]), strict=True)))
    torch.testing.assert_close(total, 0.9 * weights[0] + 0.1 * weights[1:].sum())
    after = optimizer.state_dict()
    assert str(before) == str(after)


def test_micro_batches_of_one_step_each_count_as_a_call():
    optimizer = made(Art(), NUM_TASKS, accumulation_steps=NUM_TASKS)
    plain = made(Art(), NUM_TASKS)
    for values in history(5):
        torch.testing.assert_close(
            round_of_lone_tasks(optimizer, values), round_of_lone_tasks(plain, values) / NUM_TASKS
        )


def test_a_scaler_scales_held_weights():
    plain, scaled = made(Art(), 2), made(Art(), 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for values in history(5):
        for optimizer, kwargs in ((plain, {}), (scaled, {"scaler": scaler})):
            optimizer.zero_grad()
            optimizer.backward(losses_of(optimizer, values), **kwargs)
        (left,), (right,) = (o.param_groups[0]["params"] for o in (plain, scaled))
        assert torch.equal(1024 * left.grad, right.grad)
        assert same(stacked(plain.weights), stacked(scaled.weights))


def test_a_closure_counts_as_one_call_a_step():
    parameter = torch.nn.Parameter(torch.full((NUM_TASKS,), 0.9))
    inner = torch.optim.LBFGS([parameter], lr=0.1, max_iter=4)
    optimizer = TaskReweightedOptimizer(inner, TASKS, ScaleInvariant(), interval=3)
    evaluations, weights = [], []

    def closure():
        optimizer.zero_grad()
        evaluations.append(1)
        return dict(zip(TASKS, (parameter - torch.linspace(0, 0.3, NUM_TASKS)).square() + 0.01, strict=True))

    for _ in range(7):
        optimizer.step(closure)
        weights.append(stacked(optimizer.weights))
    assert len(evaluations) > 7
    changed = [not torch.equal(left, right) for left, right in itertools.pairwise(weights)]
    assert changed == [False, False, True, False, False, True]


@needs_compilation
def test_compiled_weighing_has_an_interval(monkeypatch):
    layouts = []

    def compile(formula, inputs):
        layouts.append(len(inputs))
        return lambda tensors: [formula(*tensors)]

    monkeypatch.setattr(compiled, "_compile", compile)
    eager, program = made(Art(), 2), made(Art(), 2, compile=True)
    for values in history(7):
        assert same(eager.step(losses_of(eager, values)), program.step(losses_of(program, values)))
    assert layouts == [3]  # one program: losses and two tensors of state


def test_a_call_between_two_weighings_neither_weighs_nor_waits_for_the_device():
    parameter = torch.nn.Parameter(torch.ones(NUM_TASKS, device="meta"))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([parameter]), TASKS, Art(), interval=3)
    for call in range(8):
        losses = dict(zip(TASKS, parameter.square(), strict=True))
        optimizer.step(losses if call % 2 else {task: losses[task] for task in "ab"})
    assert optimizer.weights["a"].is_meta


def test_many_calls_are_added_up_in_pieces_of_bounded_memory():
    optimizer, values = made(ScaleInvariant(), 150), history(150)
    for call in values:
        optimizer.combine(losses_of(optimizer, call))
        assert len(optimizer.task_state.interval._pending) <= 64
    optimizer.combine(losses_of(optimizer, call))
    torch.testing.assert_close(stacked(optimizer.weights), 1 / values.mean(0))


def test_held_weights_are_no_part_of_what_is_handed_out():
    """The gradient of a loss that is a parameter is a view of them, which clipping scales in place."""
    parameters = [torch.nn.Parameter(torch.tensor(1.0)) for _ in TASKS]
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(parameters, lr=0.0), TASKS, EqualWeighting(), interval=5)
    for _ in range(4):
        optimizer.zero_grad()
        optimizer.backward(dict(zip(TASKS, parameters, strict=True)))
        torch.nn.utils.clip_grad_norm_(parameters, 1e-3)
        assert optimizer.losses == dict.fromkeys(TASKS, 1.0)
    optimizer.backward(dict(zip(TASKS, parameters, strict=True)))
    assert optimizer.weights == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize("lone", [False, True])
def test_gradnorm_measures_each_task_once_an_interval(lone, monkeypatch):
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or grad(*args, **kwargs))
    optimizer = made(GradNorm(), 2 * NUM_TASKS)
    for call in range(4 * NUM_TASKS):
        losses = losses_of(optimizer, history(1)[0])
        optimizer.step({TASKS[call % NUM_TASKS]: losses[TASKS[call % NUM_TASKS]]} if lone else losses)
    assert len(passes) == 2 * NUM_TASKS


@pytest.mark.parametrize("way", ["mapping", "mixed batch"])
def test_gradnorm_learns_alike_from_lone_tasks_in_any_order(way):
    """Where losses and gradients do not change, the order of the tasks in a round makes no difference."""
    joint, lone = made(GradNorm(), 1), made(GradNorm(), NUM_TASKS)
    generator, values = torch.Generator().manual_seed(0), history(1)[0]
    for turn in range(6):
        for task in torch.randperm(NUM_TASKS, generator=generator).tolist():
            loss = losses_of(lone, values)[TASKS[task]]
            mixed = way == "mixed batch"
            lone.backward(per_task_mean(loss[None], torch.tensor([task]), NUM_TASKS) if mixed else {TASKS[task]: loss})
        if turn:
            joint.combine(losses_of(joint, values))
    assert joint.task_state.tensors["step"].tolist() == [5.0] * NUM_TASKS
    torch.testing.assert_close(lone.task_state.tensors, joint.task_state.tensors)


def test_gradnorm_learns_alike_at_intervals():
    """Where losses and gradients do not change, a weighing is a step of its learning."""
    each, rounds = made(GradNorm(), 1), made(GradNorm(), 3)
    values, trace = history(1)[0], []
    for _ in range(5):
        each.step(losses_of(each, values))
        trace.append(stacked(each.weights))
        for _ in range(3):
            rounds.step(losses_of(rounds, values))
        torch.testing.assert_close(stacked(rounds.weights), trace[-1])
    assert trace[-1].unique().numel() > 1


@needs_compilation
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("calls", [0, 1, 2], ids=["at the start", "within an interval", "at a weighing"])
def test_under_torch_compile_an_interval_is_refused_in_one_graph_and_right_in_several(calls):
    eager, optimizer = made(Art(), 2), made(Art(), 2)

    def leaves(values):
        return {task: value.clone().requires_grad_() for task, value in zip(TASKS, values, strict=True)}

    for values in history(calls):
        assert same(optimizer.combine(leaves(values)), eager.combine(leaves(values)))
    torch.compiler.reset()
    with pytest.raises(Exception, match="a step with interval=2 is being compiled or captured"):
        torch.compile(optimizer.combine, backend="eager", fullgraph=True)(leaves(history(1)[0]))
    assert optimizer.task_state.interval.position == calls
    torch.compiler.reset()
    combine = torch.compile(optimizer.combine, backend="eager")
    for values in history(6):
        assert same(combine(leaves(values)), eager.combine(leaves(values)))


def test_tasks_may_become_known_with_the_first_losses():
    declared = made(Art(), 2)
    parameter = torch.nn.Parameter(torch.ones(NUM_TASKS))
    found = TaskReweightedOptimizer(torch.optim.SGD([parameter], lr=0.0), weighting=Art(), interval=2)
    for values in history(5):
        assert same(found.step(losses_of(found, values)), declared.step(losses_of(declared, values)))


@pytest.mark.parametrize(
    ("interval", "error", "message"),
    [
        (0, ValueError, "interval is 0; give the number of calls between two weighings, at least 1"),
        (2.0, TypeError, "interval is 2.0; give the number of calls between two weighings, an integer"),
        (True, TypeError, "interval is True; give the number"),
        (None, TypeError, "interval is None; give the number"),
    ],
)
def test_an_interval_is_a_positive_integer(interval, error, message):
    with pytest.raises(error, match=message):
        made(Art(), interval)


def test_a_fixed_weighting_is_fixed_from_the_first_call():
    optimizer = made(FixedWeighting([1, 2, 3, 4]), 3)
    for values in history(5):
        optimizer.step(losses_of(optimizer, values))
        assert stacked(optimizer.weights).tolist() == [1, 2, 3, 4]


def test_a_copy_goes_on_by_itself():
    optimizer = made(Art(), 3)
    for values in history(4):
        optimizer.step(losses_of(optimizer, values))
    other = copy.deepcopy(optimizer)
    for values in history(7, seed=1):
        assert same(optimizer.step(losses_of(optimizer, values)), other.step(losses_of(other, values)))
