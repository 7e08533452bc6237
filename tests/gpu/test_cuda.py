"""What only a CUDA device shows: no host sync, CUDA graphs, fused kernels, float16 and bfloat16."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from art_optim import Art, EqualWeighting, TaskReweightedOptimizer, per_task_mean
from art_optim.weighting import available, create

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical, parameters_of, train
from ..weighting.cases import EVERY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def model():
    return MultiTask().cuda()


def inputs(steps, size=16):
    return [torch.randn(size, 6, generator=torch.Generator().manual_seed(step)).cuda() for step in range(steps)]


def losses_of(model, x):
    return {
        task: 0.1 * (index + 1) * (output - x[:, index : index + 1]).square().mean()
        for index, (task, output) in enumerate(model(x).items())
    }


def adamw(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("path", ["mapping", "vector"])
@pytest.mark.parametrize("interval", [1, 8])
def test_no_host_sync(model, name, path, interval):
    """Fifty steps, some with an absent task."""
    if (name, path, interval) == ("gradnorm", "vector", 8):
        pytest.skip("the host waits to know which tasks are there to be measured")
    required = {"weights": (0.5, 1.0, 2.0)} if name == "fixed" else {}
    optimizer = TaskReweightedOptimizer(adamw(model), TASKS, create(name, **required), interval=interval)
    batches = inputs(52)
    task_ids = torch.arange(16, device="cuda") % 3
    optimizer.step(losses_of(model, batches[0]))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, x in enumerate(batches[1:]):
            optimizer.zero_grad()
            if path == "mapping":
                losses = losses_of(model, x)
                optimizer.step({task: loss for task, loss in losses.items() if step % 5 or task != "haze"})
            else:
                per_sample = torch.cat([*model(x).values()], 1).square().mean(1)
                optimizer.step(per_task_mean(per_sample, task_ids.clamp(max=1 + (step % 5 > 0)), 3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(weight.is_cuda and weight.isfinite() for weight in optimizer.weights.values())


@pytest.mark.parametrize("weighting", EVERY, ids=repr)
def test_weighing_itself_waits_for_nothing(weighting):
    state = weighting.init(4, "cuda")
    losses, present = torch.rand(4, device="cuda"), torch.tensor([True, False, True, True], device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            weights = weighting(losses, present, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert weights.isfinite().all()


INNERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "capturable": lambda model: adamw(model, capturable=True),
    "fused": lambda model: adamw(model, capturable=True, fused=True),
}


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("weighting", [Art(), EqualWeighting()], ids=["art", "equal"])
def test_a_captured_step_replays_as_the_eager_one(inner, weighting, compile):
    """Forward and ``step(losses)`` in one graph, a hundred replays, bit by bit."""
    warm_up, replays = 3, 100
    batches = inputs(warm_up + replays)
    model = MultiTask().cuda()
    optimizer = TaskReweightedOptimizer(INNERS[inner](model), TASKS, weighting, compile=compile)
    static = batches[0].clone()

    def step():
        optimizer.zero_grad(set_to_none=True)
        return optimizer.step(losses_of(model, static))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for x in batches[:warm_up]:
            static.copy_(x)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = step()

    eager = MultiTask().cuda()
    reference = TaskReweightedOptimizer(INNERS[inner](eager), TASKS, weighting, compile=compile)
    for x in batches[:warm_up]:
        reference.zero_grad()
        reference.step(losses_of(eager, x))
    for x in batches[warm_up:]:
        static.copy_(x)
        graph.replay()
        reference.zero_grad()
        expected = reference.step(losses_of(eager, x))
        assert torch.equal(total, expected)
        assert identical(optimizer.weights, reference.weights)
    assert identical(parameters_of(model), parameters_of(eager))
    assert identical(optimizer.task_state.tensors, reference.task_state.tensors)


@pytest.mark.parametrize("calls", [3, 4], ids=["within an interval", "at a weighing"])
def test_an_interval_is_refused_in_a_captured_graph(model, calls):
    """The host would not count the replays."""
    optimizer = TaskReweightedOptimizer(adamw(model, capturable=True), TASKS, interval=4)
    static = inputs(1)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(calls):
            optimizer.zero_grad()
            optimizer.step(losses_of(model, static))
    torch.cuda.current_stream().wait_stream(stream)
    before = copy.deepcopy(optimizer.task_state.state_dict())
    with (
        pytest.raises(RuntimeError, match="interval=4 is being compiled or captured in a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step(losses_of(model, static))
    assert identical(optimizer.task_state.state_dict(), before)


@pytest.mark.parametrize(
    "options",
    [{}, {"foreach": True}, {"fused": True}, {"capturable": True}, {"fused": True, "maximize": True}],
    ids=repr,
)
def test_any_implementation_is_bit_identical(options):
    model, plain = MultiTask().cuda(), MultiTask().cuda()
    optimizer = TaskReweightedOptimizer(adamw(model, **options), TASKS, EqualWeighting())
    reference = adamw(plain, **options)
    for x in inputs(5):
        optimizer.zero_grad()
        optimizer.step(losses_of(model, x))
        reference.zero_grad()
        sum(losses_of(plain, x).values()).backward()
        reference.step()
    assert identical(parameters_of(model), parameters_of(plain))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_float32_under_autocast(dtype):

    def weights(enabled):
        optimizer = TaskReweightedOptimizer(adamw(MultiTask().cuda()), TASKS)
        for scale in (1.0, 0.7, 0.9):
            losses = {task: torch.tensor(scale / (3 + i), device="cuda") for i, task in enumerate(TASKS)}
            with torch.autocast("cuda", dtype, enabled=enabled):
                total = optimizer.combine({task: loss.requires_grad_() for task, loss in losses.items()})
        assert total.dtype == torch.float32
        return optimizer.weights

    assert identical(weights(True), weights(False))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("phases", [1, 2])
def test_a_scaled_run_is_the_unwrapped_one_through_an_overflow(fused, phases):
    """In float16, with the losses out of an autocast region."""

    def run(wrapped):
        model = MultiTask().cuda()
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
        optimizer = TaskReweightedOptimizer(inner, TASKS, EqualWeighting()) if wrapped else inner
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
        for step, x in enumerate(inputs(8)):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                losses = losses_of(model, x * (1e30 if step == 4 else 1.0))
            if wrapped and phases == 1:
                optimizer.step(losses, scaler=scaler)
            else:
                if wrapped:
                    optimizer.backward(losses, scaler=scaler)
                else:
                    scaler.scale(sum(losses.values())).backward()
                if phases == 2:
                    scaler.unscale_(optimizer)
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                scaler.step(optimizer)
            scaler.update()
        return parameters_of(model), scaler.get_scale()

    assert identical(run(True), run(False))


def test_the_state_lives_with_the_losses_and_moves_between_machines(model):
    optimizer = TaskReweightedOptimizer(adamw(model), TASKS)
    assert all(tensor.is_cuda for tensor in optimizer.task_state.tensors.values())
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model).cpu()
    second = TaskReweightedOptimizer(adamw(other), TASKS)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert not any(tensor.is_cuda for tensor in second.task_state.tensors.values())
    torch.testing.assert_close(second.task_state.tensors, optimizer.task_state.tensors, check_device=False)
    train(other, second, [3])
    train(model, optimizer, [3])
    torch.testing.assert_close(second.weights, optimizer.weights, check_device=False, rtol=1e-4, atol=1e-5)
