"""Accelerate runs the loop by hand bit for bit, and resumes exactly."""

from __future__ import annotations

import pytest
import torch

from examples.problem import Network, batch, losses

from ..test_optimizer import identical, parameters_of
from . import by_hand

accelerate = pytest.importorskip("accelerate")
example = pytest.importorskip("examples.with_accelerate")


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def test_the_example(capsys):
    example.main(micro_batches=6)
    assert capsys.readouterr().out.count("wave") == 3


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_is_the_loop_by_hand(accumulation):
    """Accelerate divides the last window of an epoch, though it is short, like the others."""
    run = example.build(7, epochs=2, accumulation=accumulation)
    recorded = by_hand.Recorded(run.network, run.optimizer)
    for _ in range(2):
        example.train(run)

    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 14 // accumulation)
    epoch = by_hand.windows([batch(step) for step in range(7)], accumulation)
    expected = by_hand.train(network, epoch * 2, optimizer, scheduler, divisor=lambda _: accumulation)
    assert identical(recorded.result, expected)
    assert run.scheduler.get_last_lr() == scheduler.get_last_lr()


def test_what_is_prepared_is_the_wrapper():
    run = example.build(1, epochs=1, accumulation=1)
    assert isinstance(run.prepared, accelerate.optimizer.AcceleratedOptimizer)
    assert run.prepared.optimizer is run.optimizer
    assert run.scheduler.optimizers == [run.prepared]


def test_the_learning_rate_can_be_set_on_what_was_prepared():
    run = example.build(1, epochs=1, accumulation=1)
    run.prepared.param_groups[0]["lr"] = 0.0
    before = parameters_of(run.network)
    example.train(run)
    assert identical(parameters_of(run.network), before)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_save_state_resumes_exactly(tmp_path, accumulation):
    run = example.build(4, epochs=2, accumulation=accumulation)
    recorded = by_hand.Recorded(run.network, run.optimizer)
    example.train(run)
    run.accelerator.save_state(str(tmp_path))
    example.train(run)

    second = example.build(4, epochs=2, accumulation=accumulation)
    second.accelerator.load_state(str(tmp_path))
    resumed = by_hand.Recorded(second.network, second.optimizer)
    example.train(second)
    assert identical(resumed.result._replace(learning_rates=recorded.rates), recorded.result)
    assert resumed.rates == recorded.rates[-len(resumed.rates) :]
    assert identical(run.optimizer.state_dict(), second.optimizer.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_gradient_scaler_the_update_is_the_same(fused):
    """Accelerate steps through the scaler; an overflow skips the update but not the weighting."""
    accelerate.Accelerator()
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        torch.manual_seed(0)
        network = Network()
        inner = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=fused)
        optimizer = example.TaskReweightedOptimizer(inner, example.TASKS)
        prepared = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)
        for step in range(4):
            prepared.zero_grad()
            total = optimizer.combine(losses(network, batch(step)))
            (total if scaler is None else scaler.scale(total)).backward()
            prepared.step()
            assert not prepared.step_was_skipped
        results.append(by_hand.Recorded(network, optimizer).result)
    assert identical(*results)

    prepared.zero_grad()
    optimizer.combine(losses(network, batch(4))).mul(torch.inf).backward()
    prepared.step()
    assert prepared.step_was_skipped is not fused  # a fused optimizer is called, and skips by itself
    assert identical(parameters_of(network), results[0].parameters)


def update_of(step, accumulation, prepare=True):
    """What ``step(optimizer, losses)`` does with an optimizer that is prepared, or not, on some batches."""
    run = example.build(3, epochs=1, accumulation=accumulation)
    recorded = by_hand.Recorded(run.network, run.optimizer)
    for micro_batch in run.loader:
        with run.accelerator.accumulate(run.network):
            optimizer = run.prepared if prepare else run.optimizer
            step(optimizer, lambda b=micro_batch: losses(run.network, b))
            optimizer.zero_grad()
    return run, recorded.result


HANDED_OVER = {
    "losses": lambda optimizer, evaluate: optimizer.step(evaluate()),
    "a closure": lambda optimizer, evaluate: optimizer.step(evaluate),
}


@pytest.mark.parametrize("step", HANDED_OVER.values(), ids=HANDED_OVER)
def test_a_prepared_optimizer_takes_losses_where_nothing_is_accumulated(step):
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    expected = by_hand.train(network, [[batch(number)] for number in range(3)], optimizer)
    assert identical(update_of(step, accumulation=1)[1], expected)


@pytest.mark.parametrize("step", HANDED_OVER.values(), ids=HANDED_OVER)
def test_a_prepared_optimizer_takes_no_losses_while_gradients_are_accumulated(step):
    """Accelerate hands over those of the last batch alone. The optimizer inside may be given all of them."""
    run = example.build(2, epochs=1, accumulation=2)
    before, state = parameters_of(run.network), run.optimizer.task_state.state_dict()
    first, last = run.loader
    with run.accelerator.accumulate(run.network):
        step(run.prepared, lambda: losses(run.network, first))
    with (
        run.accelerator.accumulate(run.network),
        pytest.raises(RuntimeError, match=r"gradients of 2 batches.*accelerator.backward\(.*combine\(losses\)\)"),
    ):
        step(run.prepared, lambda: losses(run.network, last))
    assert identical(parameters_of(run.network), before)
    assert identical(run.optimizer.task_state.state_dict(), state)
    assert identical(update_of(step, 2, prepare=False)[1], update_of(step, 1)[1])
