"""A schedule-free optimizer inside behaves as it does by itself."""

from __future__ import annotations

import copy

import pytest
import torch

from art_optim import TaskReweightedOptimizer
from examples.problem import TASKS, Network, batch, losses

from ..test_optimizer import identical, parameters_of
from . import by_hand

schedulefree = pytest.importorskip("schedulefree")
example = pytest.importorskip("examples.schedule_free")


def test_the_example(capsys):
    example.main(steps=6)
    assert capsys.readouterr().out.count("weight") == 2 * len(TASKS)


def test_a_run_is_the_loop_by_hand():
    network, optimizer = example.build()
    recorded = by_hand.Recorded(network, optimizer)
    example.train(network, optimizer, range(6))

    torch.manual_seed(0)
    plain = Network()
    inner = schedulefree.AdamWScheduleFree(plain.parameters(), lr=0.01, warmup_steps=20)
    inner.train()
    expected = by_hand.train(plain, [[batch(step)] for step in range(6)], inner)
    inner.eval()
    assert identical(recorded.result, expected._replace(parameters=parameters_of(plain)))
    assert identical(optimizer.param_groups[0]["scheduled_lr"], inner.param_groups[0]["scheduled_lr"])


def test_train_and_eval_reach_the_inner():
    """The network is at another point in each of them."""
    network, optimizer = example.build()
    example.train(network, optimizer, range(3))
    average = parameters_of(network)
    optimizer.train()
    assert optimizer.inner.param_groups[0]["train_mode"]
    training = parameters_of(network)
    assert not identical(training, average)
    optimizer.eval()
    assert not optimizer.inner.param_groups[0]["train_mode"]
    torch.testing.assert_close(parameters_of(network), average)


def test_train_and_eval_reach_it_through_accelerate():
    accelerate = pytest.importorskip("accelerate")
    _, optimizer = example.build()
    prepared = accelerate.Accelerator(cpu=True).prepare(optimizer)
    for mode in (True, False):
        prepared.train() if mode else prepared.eval()
        assert optimizer.inner.param_groups[0]["train_mode"] is mode


def test_a_step_in_eval_mode_is_refused_by_the_inner():
    network, optimizer = example.build()
    with pytest.raises(Exception, match="not in train mode"):
        optimizer.step(losses(network, batch(0)))


def test_a_checkpoint_resumes_exactly():
    network, optimizer = example.build()
    example.train(network, optimizer, range(3))
    checkpoint = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    example.train(network, optimizer, range(3, 6))

    resumed, second = example.build()
    resumed.load_state_dict(checkpoint[0])
    second.load_state_dict(checkpoint[1])
    example.train(resumed, second, range(3, 6))
    assert identical(parameters_of(network), parameters_of(resumed))
    assert identical(optimizer.state_dict(), second.state_dict())


def test_a_closure_of_losses_serves_the_closure_variant():
    """It needs no train and eval: the closure is evaluated where the gradient belongs."""
    network, optimizer = example.build()
    example.train(network, optimizer, range(6))

    torch.manual_seed(0)
    second = Network()
    inner = schedulefree.AdamWScheduleFreeClosure(second.parameters(), lr=0.01, warmup_steps=20)
    by_closure = TaskReweightedOptimizer(inner, TASKS)
    for step in range(6):
        by_closure.zero_grad()
        by_closure.step(lambda step=step: losses(second, batch(step)))
    torch.testing.assert_close(parameters_of(second), parameters_of(network))
    torch.testing.assert_close(by_closure.weights, optimizer.weights)
