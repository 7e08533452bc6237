"""What holds for every problem."""

from __future__ import annotations

import pytest
import torch

from art_optim import TaskReweightedOptimizer
from benchmarks.compare.identity import contents
from benchmarks.loops import as_vectors
from benchmarks.problems import PROBLEMS, create

NAMES = [f"{name}:batch=4,patch=16" if name == "restoration" else name for name in PROBLEMS]


@pytest.fixture(params=NAMES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def problem(name):
    return create(name)


@pytest.fixture
def network(problem):
    return problem.network()


def losses(problem, network, seed, step):
    values, counts = as_vectors(problem.losses(network, seed, step), tuple(problem.tasks))
    return values.detach().where(counts > 0, torch.nan)


def test_losses_are_a_function_of_seed_and_step(problem, network):
    first = losses(problem, network, 1, 5)
    others = [losses(problem, network, *of) for of in ((1, 6), (2, 5))]
    torch.rand(3)
    assert torch.equal(losses(problem, network, 1, 5).nan_to_num(), first.nan_to_num())
    assert not any(torch.equal(other.nan_to_num(), first.nan_to_num()) for other in others)


def test_losses_are_finite_and_train_the_network(problem, network):
    optimizer = TaskReweightedOptimizer(torch.optim.SGD(network.parameters(), lr=1e-6), problem.tasks, "equal")
    given = problem.losses(network, 0, 0)
    values, counts = as_vectors(given, tuple(problem.tasks))
    assert values[counts > 0].isfinite().all()
    optimizer.step(given)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in problem.shared(network))


def test_metrics_are_those_that_it_says_and_evaluation_changes_nothing(problem, network):
    before = [parameter.clone() for parameter in network.parameters()]
    state = torch.get_rng_state()
    scores = problem.evaluate(network, "validation")
    assert [*scores] == [*problem.metrics]
    assert scores == problem.evaluate(network, "validation") != problem.evaluate(network, "test")
    assert all(isinstance(value, float) for value in scores.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_it_says_of_itself(problem):
    assert problem.steps >= 1
    assert problem.epoch >= 1
    assert problem.learning_rate > 0
    assert {metric.task for metric in problem.metrics.values()} <= {None, *problem.tasks}
    assert type(problem).__doc__.split("\n\n")[0].endswith(".")


def test_its_network_and_its_data_are_the_same_every_time(problem, name):
    again = create(name)
    assert contents(problem.data()) == contents(again.data())
    networks = []
    for of in (problem, again):
        torch.manual_seed(3)
        networks.append(of.network())
    pairs = zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_training_improves_the_metric_that_decides(problem, name):
    if name.startswith(("restoration", "helmholtz", "burgers", "synthetic-conflict")):
        pytest.skip("it takes longer")
    torch.manual_seed(0)
    network = problem.network()
    metric, of = next(iter(problem.metrics.items()))
    before = problem.evaluate(network, "validation")[metric]
    optimizer = TaskReweightedOptimizer(
        torch.optim.Adam(network.parameters(), problem.learning_rate), problem.tasks, "equal"
    )
    for step in range(100):
        optimizer.zero_grad()
        optimizer.step(problem.losses(network, 0, step))
    gain = problem.evaluate(network, "validation")[metric] - before
    assert gain > 0 if of.higher else gain < 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "problem 'nothing' is not known; choose one of restoration, "),
        ("synthetic:", "'synthetic:' is not name"),
        ("synthetic:num_tasks", "is not name"),
        ("synthetic:tasks=3", "unexpected keyword argument 'tasks'"),
        ("restoration:setting=snow", "setting 'snow' is not known; choose one of multiple"),
        ("synthetic:conflict=2", "conflict is 2"),
        ("nothing:Class", "No module named 'nothing'"),
    ],
)
def test_what_is_no_problem_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        create(text)
