"""GradNorm where it sees gradients, which the properties of all weightings do not give it."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from art_optim import GradNorm, TaskReweightedOptimizer, per_task_mean

TASKS = ("a", "b", "c")


class Model(nn.Module):
    """A trunk and a head a task."""

    def __init__(self, device="cpu"):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})
        self.to(device)

    def losses(self, step, tasks=TASKS):
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step)).to(self.heads["a"].weight)
        features = self.trunk(inputs).tanh()
        targets = {"a": inputs[:, :1], "b": -inputs[:, :1], "c": 10 * inputs[:, 1:2].sin()}
        return {task: (self.heads[task](features) - targets[task]).square().mean() for task in tasks}


def shared(model):
    return model.trunk[-1].parameters()


def optimizer_of(model, tasks=TASKS, **hyperparameters):
    weighting = GradNorm(**{"shared": shared(model), **hyperparameters})
    return TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.02), tasks, weighting)


def train(model, optimizer, steps, tasks=lambda step: TASKS):
    trace = []
    for step in steps:
        optimizer.zero_grad()
        optimizer.step(model.losses(step, tasks(step)))
        trace.append(optimizer.weights)
    return trace


def published(steps, alpha, lr):
    """The algorithm of the paper, by automatic differentiation of its loss, in float64."""
    model = Model().double()
    theta = list(shared(model))
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=lr)
    inner = torch.optim.SGD(model.parameters(), lr=0.02)
    initial, trace = None, []
    for step in range(steps):
        losses = torch.stack(list(model.losses(step).values()))
        trace.append(weights.detach().clone())
        inner.zero_grad()
        (weights.detach() * losses).sum().backward(retain_graph=True)
        norms = []
        for weight, loss in zip(weights, losses, strict=True):
            gradients = torch.autograd.grad(weight * loss, theta, retain_graph=True, create_graph=True)
            norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        norms = torch.stack(norms)
        initial = losses.detach() if initial is None else initial
        ratio = losses.detach() / initial
        target = (norms.mean() * (ratio / ratio.mean()) ** alpha).detach()
        adam.zero_grad()
        (weights.grad,) = torch.autograd.grad((norms - target).abs().sum(), weights)
        adam.step()
        weights.data *= 3 / weights.data.sum()
        inner.step()
    return torch.stack(trace)


@pytest.mark.parametrize(("alpha", "lr"), [(1.5, 0.025), (0.0, 0.025), (0.12, 0.1)])
def test_it_is_the_published_algorithm(alpha, lr):
    model = Model()
    weights = train(model, optimizer_of(model, alpha=alpha, lr=lr), range(12))
    weights = torch.stack([torch.stack(list(step.values())) for step in weights])
    torch.testing.assert_close(weights.double(), published(12, alpha, lr), rtol=1e-5, atol=1e-5)
    assert weights[-1].std() > 0.1


@pytest.mark.parametrize("absent", TASKS)
@pytest.mark.parametrize("theta", [shared, lambda model: None])
def test_an_absent_task_is_no_such_task(absent, theta):
    rest = tuple(task for task in TASKS if task != absent)
    model, smaller = Model(), Model()
    optimizer, declared = optimizer_of(model, shared=theta(model)), optimizer_of(smaller, rest, shared=theta(smaller))
    weights = train(model, optimizer, range(6), lambda _: rest)
    expected = train(smaller, declared, range(6), lambda _: rest)
    for step, wanted in zip(weights, expected, strict=True):
        assert step.pop(absent) == 0
        for task in rest:
            torch.testing.assert_close(step[task], wanted[task], rtol=1e-5, atol=0)
    index = TASKS.index(absent)
    fresh = optimizer.weighting.init(3)
    for name, tensor in optimizer.task_state.tensors.items():
        assert tensor[index] == fresh[name][index]


def test_the_weights_of_the_present_tasks_sum_to_their_number():
    model = Model()
    some = {0: TASKS, 1: ("a", "c"), 2: ("b",), 3: ("b", "c"), 4: TASKS}
    for step, weights in enumerate(train(model, optimizer_of(model, lr=0.5), range(5), some.get)):
        assert sum(weights.values()).item() == pytest.approx(len(some[step]))


def test_a_batch_that_mixes_tasks_is_the_same_as_named_losses():
    model, named = Model(), Model()
    ids = torch.tensor([0, 2, 0, 2, 2, 0])
    optimizer, by_name = optimizer_of(model), optimizer_of(named)
    for step in range(4):
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        factors = torch.tensor([1.0, 0.0, 7.0])[ids]

        def per_sample(each, inputs=inputs, factors=factors):
            return each.trunk(inputs).square().mean(1) * factors

        optimizer.step(per_task_mean(per_sample(model), ids, 3))
        losses = per_sample(named)
        by_name.step({"a": losses[ids == 0].mean(), "c": losses[ids == 2].mean()})
        for task, weight in optimizer.weights.items():
            torch.testing.assert_close(weight, by_name.weights[task], rtol=1e-5, atol=1e-7)


def test_save_load_and_continue_is_bit_exact():
    whole, first = Model(), Model()
    straight = train(whole, optimizer_of(whole), range(8))
    stopped = optimizer_of(first)
    train(first, stopped, range(5))
    checkpoint = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": stopped.state_dict()}, checkpoint)
    checkpoint.seek(0)
    loaded = torch.load(checkpoint, weights_only=True)
    second = Model()
    resumed = optimizer_of(second)
    second.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    for weights, expected in zip(train(second, resumed, range(5, 8)), straight[5:], strict=True):
        assert all(torch.equal(weights[task], expected[task]) for task in TASKS)


@pytest.mark.parametrize("theta", [shared, lambda model: None])
def test_the_whole_step_runs_without_values(theta):
    model = Model("meta")
    weights = train(model, optimizer_of(model, shared=theta(model)), range(3), {0: TASKS, 1: ("a",), 2: TASKS}.get)
    assert all(weight.is_meta for weight in weights[-1].values())


def test_all_parameters_are_shared_by_default():
    model, explicit = Model(), Model()
    default = train(model, optimizer_of(model, shared=None), range(4))
    given = train(explicit, optimizer_of(explicit, shared=explicit.parameters()), range(4))
    trunk = train(other := Model(), optimizer_of(other), range(4))
    for task in TASKS:
        torch.testing.assert_close(default[-1][task], given[-1][task], rtol=1e-5, atol=0)
    assert any(not torch.equal(default[-1][task], trunk[-1][task]) for task in TASKS)


def test_the_gradients_are_those_of_the_weighted_sum():
    model, plain = Model(), Model()
    optimizer = optimizer_of(model, lr=0.3)
    train(model, optimizer, range(3))
    plain.load_state_dict(model.state_dict())
    optimizer.zero_grad()
    optimizer.backward(model.losses(3))
    sum(optimizer.weights[task] * loss for task, loss in plain.losses(3).items()).backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_validation_moves_nothing():
    model = Model()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    before = copy.deepcopy(optimizer.task_state.tensors)
    with torch.no_grad():
        losses = model.losses(9)
        total = optimizer.combine(losses)
    weights = before["weight"]
    assert total.item() == pytest.approx(
        sum(w.item() * loss.item() for w, loss in zip(weights, losses.values(), strict=True))
    )
    assert all(torch.equal(tensor, optimizer.task_state.tensors[name]) for name, tensor in before.items())


@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_a_task_that_cannot_be_judged_is_as_if_absent_from_the_learning(factor):
    model = Model()
    optimizer, twin = optimizer_of(model), optimizer_of(model)
    for step in range(2):
        optimizer.backward(model.losses(step))
        twin.backward(model.losses(step))
    losses = model.losses(2)
    optimizer.backward({**losses, "b": losses["b"] * factor})
    twin.backward(model.losses(2, ("a", "c")))
    for name in optimizer.task_state.tensors.keys() - {"norm"}:  # which is measured again before it is used
        found, expected = optimizer.task_state.tensors[name], twin.task_state.tensors[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_teaches_nothing(factor):
    """1e30: the loss is finite, the square of its gradient is not."""
    model = Model()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(2))
    before = copy.deepcopy(optimizer.task_state.tensors)
    losses = model.losses(2)
    optimizer.backward({**losses, "b": losses["b"] * factor})
    after = optimizer.task_state.tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != "norm")
    assert after["norm"].isfinite().all()
    assert all(weight.isfinite() for weight in optimizer.weights.values())


def test_extreme_losses_break_nothing():
    x = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    weighting = GradNorm(alpha=30.0, lr=10.0, shared=[x])
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.0), TASKS, weighting)
    for factors in ([1e-30, 1e-12, 1.0], [1e17, 1e-30, 1.0], [1e-38, 1e17, 1e5], [1e17, 1e17, 0.0], [1.0, 1.0, 1.0]):
        optimizer.zero_grad()
        optimizer.step(dict(zip(TASKS, x * torch.tensor(factors), strict=True)))
        assert all(tensor.isfinite().all() for tensor in optimizer.task_state.tensors.values())
    weights = optimizer.task_state.tensors["weight"]
    assert (weights > 0).all()


def test_a_weight_that_adam_makes_negative_stays_at_a_thousandth():
    x = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.0), weighting=GradNorm(lr=5.0, shared=x))
    for step in range(4):
        optimizer.zero_grad()
        optimizer.step({"steep": 100 * x[0], "flat": x[1]})
        weights = optimizer.task_state.tensors["weight"]
        assert (weights > 0).all()
        if step == 0:  # Adam makes them -4 and 6
            assert weights.tolist() == pytest.approx([2 * 0.001 / 6.001, 2 * 6 / 6.001])
    assert optimizer.weights["flat"] > optimizer.weights["steep"]


def test_a_target_beyond_float32_teaches_nothing_else_than_its_sign():
    x = nn.Parameter(torch.tensor([1.0, 1.0]))
    weighting = GradNorm(alpha=1000.0, shared=x)
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.0), weighting=weighting)
    for factor in (1.0, 0.1):
        optimizer.zero_grad()
        optimizer.step({"slow": x[0] * 1, "fast": x[1] * factor})
    weights = optimizer.task_state.tensors["weight"]  # (1.82 ** 1000) is infinite
    assert weights.isfinite().all()
    assert weights[0] > 1 > weights[1]


def test_the_parameters_are_no_part_of_its_value():
    model, other = Model(), Model()
    weighting = GradNorm(shared=shared(model))
    assert weighting == GradNorm(shared=shared(other)) == GradNorm()
    assert hash(weighting) == hash(GradNorm())
    assert repr(weighting) == "GradNorm(normalize='published', alpha=1.5, lr=0.025)"
    assert replace(weighting, alpha=1.0).shared == weighting.shared
    optimizer_of(other, shared=None).load_state_dict(optimizer_of(model).state_dict())


def test_a_copy_of_model_and_optimizer_looks_at_the_copied_parameters():
    model = Model()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    for copied in (copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))):
        twin, twin_optimizer = copied((model, optimizer))
        assert twin_optimizer.weighting.shared[0] is twin.trunk[-1].weight


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"alpha is -1.0; it must be finite and at least 0"):
        GradNorm(alpha=-1)
    with pytest.raises(ValueError, match=r"shared is empty; give parameters, e.g. trunk\[-1\].parameters\(\), or None"):
        GradNorm(shared=[])
    with pytest.raises(TypeError, match="shared has a str; give parameters"):
        GradNorm(shared=["trunk"])
    with pytest.raises(ValueError, match=r"shared has a tensor of shape \(2,\) that requires no gradient"):
        GradNorm(shared=[torch.zeros(2)])


def test_the_norm_of_a_complex_gradient_is_that_of_both_parts():
    number = nn.Parameter(torch.ones(1, dtype=torch.complex64))
    real = nn.Parameter(torch.ones(2))
    found = []
    for loss in (
        lambda: {"a": (number.imag + 1).sum() * 3, "b": number.real.sum()},
        lambda: {"a": real[0] * 3, "b": real[1]},
    ):
        parameter = number if not found else real
        weighting = GradNorm(shared=[parameter])
        optimizer = TaskReweightedOptimizer(torch.optim.SGD([parameter], lr=0.0), ["a", "b"], weighting)
        optimizer.step(loss())
        found.append(optimizer.task_state.tensors["weight"].tolist())
    assert found[0] == pytest.approx(found[1])
    assert found[0][0] < 1 < found[0][1]


def test_losses_that_do_not_depend_on_the_shared_parameters_are_refused():
    model, other = Model(), Model()
    optimizer = optimizer_of(model, shared=shared(other))
    with pytest.raises(ValueError, match="no loss depends on a tensor of shared"):
        optimizer.step(model.losses(0))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_function_of_its_own_with_a_variable_is_no_leaf():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.variable = 3
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    model = Model()
    optimizer = optimizer_of(model, shared=None)
    optimizer.step({task: Double.apply(loss) for task, loss in model.losses(0).items()})
