"""Inner optimizers that evaluate the losses themselves, several times a step."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_optimizer

from art_optim import TaskLosses, TaskReweightedOptimizer

from .conftest import TASKS, MultiTask
from .test_optimizer import identical, parameters_of, train, wrap


class SharpnessAware(torch.optim.SGD):
    """SAM: it climbs along the gradients that it finds, evaluates the closure there, and descends from where it was."""

    def step(self, closure):
        parameters = [p for group in self.param_groups for p in group["params"]]
        start = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p.add_(p.grad, alpha=0.05)
                p.grad = None
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for p, value in zip(parameters, start, strict=True):
                p.copy_(value)
        super().step()
        return loss


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_closure_may_return_losses_and_is_weighed_once_a_step(model, by_keyword):
    optimizer = TaskReweightedOptimizer(torch.optim.LBFGS(model.parameters(), max_iter=5), TASKS)
    evaluations, totals = [], []
    for _ in range(3):
        before = copy.deepcopy(optimizer.task_state.tensors)
        first = {task: loss.detach() for task, loss in model.losses(0).items()}

        def closure():
            optimizer.zero_grad()
            evaluations.append(1)
            return model.losses(0)

        totals.append(optimizer.step(closure=closure) if by_keyword else optimizer.step(closure))
        once = optimizer.weighting(torch.stack([*first.values()]), torch.ones(3, dtype=torch.bool), before)
        assert torch.equal(once, torch.stack([*optimizer.weights.values()]))
    assert len(evaluations) > 3
    assert totals[2] < totals[0]


def test_a_closure_that_returns_a_loss_is_the_inner_optimizers_own(model):
    other = copy.deepcopy(model)
    optimizer, plain = wrap(model), torch.optim.AdamW(other.parameters(), lr=1e-2)

    def closure(net, opt):
        opt.zero_grad()
        loss = sum(net.losses(0).values())
        loss.backward()
        return loss

    with pytest.warns(UserWarning, match="step\\(\\) follows no weighing"):
        loss = optimizer.step(lambda: closure(model, optimizer))
    assert loss == plain.step(lambda: closure(other, plain))
    assert identical(parameters_of(model), parameters_of(other))
    assert all(weight.isnan() for weight in optimizer.weights.values())


def test_losses_under_the_name_of_the_closure(model):
    """Some frameworks pass everything on as ``closure=``."""
    optimizer = wrap(model)
    total = optimizer.step(closure=model.losses(0))
    torch.testing.assert_close(total, sum(model.losses(0).values()).detach() / 3, rtol=0.1, atol=0.1)
    assert set(optimizer.weights) == set(TASKS)


def test_a_closure_may_return_a_vector_but_not_losses_without_a_graph(model):
    def vector():
        return TaskLosses(torch.stack([*model.losses(0).values()]), torch.ones(3))

    for step in (
        lambda optimizer: optimizer.step(vector),
        lambda optimizer: optimizer.step(closure=vector),
        lambda optimizer: optimizer.step(closure=vector()),
    ):
        optimizer = wrap(model)
        assert step(optimizer).ndim == 0
        assert set(optimizer.weights) == set(TASKS)
    with pytest.raises(ValueError, match="losses carry no graph"):
        optimizer.step(lambda: {task: loss.detach() for task, loss in model.losses(0).items()})


def test_losses_and_a_closure_together_are_weighed_once(model):
    """The closure of some frameworks does nothing; one that returns losses keeps the weights."""
    called = []
    for closure in (lambda: called.append(1), lambda: model.losses(1)):
        optimizer = wrap(model)
        train(model, optimizer, [0])
        expected = copy.deepcopy(optimizer.task_state)
        _, weights, _ = expected.weigh(expected.gather(model.losses(0)))
        total = optimizer.step(closure, closure=model.losses(0))
        assert torch.equal(torch.stack([*optimizer.weights.values()]), weights)
        assert identical(optimizer.task_state.tensors, expected.tensors)
        assert total.shape == ()
    assert called == [1]


@pytest.mark.parametrize("pair", [(lambda: None, lambda: None), ({}, {})])
def test_two_of_a_kind_are_refused(model, pair):
    with pytest.raises(TypeError, match="losses twice or two closures"):
        wrap(model).step(*pair)


def test_a_mapping_that_can_be_called_is_no_closure(model):
    class Losses(dict):
        def __call__(self):
            raise AssertionError

    optimizer = wrap(model)
    optimizer.step(Losses(model.losses(0)))
    assert set(optimizer.weights) == set(TASKS)


WAYS = {
    "losses": lambda optimizer, losses: losses,
    "backward": lambda optimizer, losses: optimizer.backward(losses),
    "combine": lambda optimizer, losses: backpropagated(optimizer.combine(losses)),
}


def backpropagated(loss):
    loss.backward()
    return loss.detach()


def minimise(way, line_search, steps=3):
    model = MultiTask()
    inner = torch.optim.LBFGS(model.parameters(), max_iter=6, line_search_fn="strong_wolfe" if line_search else None)
    optimizer = TaskReweightedOptimizer(inner, TASKS)
    evaluations = []

    def closure():
        evaluations.append(1)
        optimizer.zero_grad()
        return WAYS[way](optimizer, model.losses(0))

    for _ in range(steps):
        optimizer.step(closure)
    assert len(evaluations) > 2 * steps
    return parameters_of(model), optimizer.task_state.state_dict()


@pytest.mark.parametrize("line_search", [False, True])
@pytest.mark.parametrize("way", ["backward", "combine"])
def test_however_the_closure_weighs_it_weighs_once_a_step(way, line_search):
    """One objective for all evaluations, and one adaptation."""
    parameters, state = minimise(way, line_search)
    expected_parameters, expected_state = minimise("losses", line_search)
    torch.testing.assert_close(parameters, expected_parameters, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(state["state"], expected_state["state"], rtol=1e-4, atol=1e-6)


def test_several_weighings_in_one_evaluation_are_repeated_in_their_order(model):
    """Each of the parts has its own weight, in every evaluation."""
    optimizer = TaskReweightedOptimizer(torch.optim.LBFGS(model.parameters(), max_iter=6), TASKS)
    seen = []

    def closure():
        optimizer.zero_grad()
        rain, haze, noise = model.losses(0).items()
        first = optimizer.combine(dict([rain]))
        second = optimizer.combine(dict([haze, noise]))
        seen.append((first / rain[1]).item())
        return backpropagated(first + second)

    before = copy.deepcopy(optimizer.task_state)
    for losses in ({"rain"}, {"haze", "noise"}):
        before.weigh(before.gather({task: loss for task, loss in model.losses(0).items() if task in losses}))
    optimizer.step(closure)
    assert len(seen) > 2
    assert seen == pytest.approx([1.0] * len(seen))
    assert identical(optimizer.task_state.tensors, before.tensors)


def test_sharpness_aware_steps_adapt_once(model):
    """The losses of the step and those at the perturbed parameters are weighed alike."""
    optimizer = TaskReweightedOptimizer(SharpnessAware(model.parameters(), lr=0.05), TASKS)
    expected = copy.deepcopy(optimizer.task_state)
    totals = []
    for _ in range(4):
        expected.weigh(expected.gather(model.losses(0)))
        totals.append(optimizer.step(model.losses(0), lambda: model.losses(0)))
        assert identical(optimizer.task_state.tensors, expected.tensors)
    assert totals[-1] < totals[0]


def test_a_closure_that_fails_leaves_no_weights_behind(model):
    optimizer = wrap(model)

    def closure():
        optimizer.backward(model.losses(0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    weights = optimizer.weights
    optimizer.step(model.losses(1))
    assert not identical(weights, optimizer.weights)


def test_an_inner_that_needs_a_closure_says_so(model):
    """Before anything has changed, with and without a scaler."""
    optimizer = TaskReweightedOptimizer(torch.optim.LBFGS(model.parameters()), TASKS)
    for scaler in (None, torch.amp.GradScaler("cpu")):
        with pytest.raises(TypeError, match="without a closure, but LBFGS evaluates them several times a step"):
            optimizer.step(model.losses(0), scaler=scaler)
    assert all(weight.isnan() for weight in optimizer.weights.values())
    assert model.trunk[0].weight.grad is None


@pytest.mark.filterwarnings("ignore:This overload of", "ignore:Using backward")
def test_an_inner_that_differentiates_the_gradients_says_so(model):
    optimizer = TaskReweightedOptimizer(torch_optimizer.Adahessian(model.parameters()), TASKS)
    start = parameters_of(model)
    with pytest.raises(RuntimeError, match=r"Adahessian differentiates .* call backward\(losses, create_graph=True\)"):
        optimizer.step(model.losses(0))
    assert identical(parameters_of(model), start)
    optimizer.zero_grad()
    optimizer.backward(model.losses(0), create_graph=True)
    optimizer.step()
    assert not identical(parameters_of(model), start)
    optimizer.zero_grad()  # or the graph would hold on to the parameters


def test_other_errors_of_the_inner_are_its_own(model):
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        TaskReweightedOptimizer(Failing(model.parameters()), TASKS).step(model.losses(0))


def test_a_closure_that_is_no_function_is_refused_before_anything_changes(model):
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), TASKS)
    before = copy.deepcopy(optimizer.task_state.tensors)
    with pytest.raises(
        TypeError, match=r"closure is a GradScaler; give a function, and a scaler as step\(losses, scaler="
    ):
        optimizer.step(model.losses(0), torch.amp.GradScaler("cpu"))
    assert identical(before, optimizer.task_state.tensors)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:This overload of", "ignore:Using backward")
def test_an_error_of_a_hook_is_not_taken_for_one_of_the_inner(model):
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), TASKS)
    optimizer.register_step_pre_hook(lambda *_: torch.ones(()).backward())
    with pytest.raises(RuntimeError, match=r"^element 0 of tensors does not require grad"):
        optimizer.step(model.losses(0))


def test_losses_that_a_hook_weighs_are_no_evaluation_of_the_closure(model):
    other = copy.deepcopy(model)
    optimizer, expected = wrap(model), wrap(other)
    optimizer.register_step_pre_hook(lambda *_: optimizer.combine(model.losses(1)) and None)
    optimizer.step(lambda: model.losses(0))
    expected.combine(other.losses(1))
    expected.step(other.losses(0))
    assert identical((parameters_of(model), optimizer.weights), (parameters_of(other), expected.weights))
