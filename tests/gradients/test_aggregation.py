"""TorchJD's aggregators behind the protocol of a weighting, against TorchJD itself."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
import torchjd.aggregation
from torch import nn
from torchjd import autojac
from torchjd.aggregation import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    Constant,
    CRMOGMWeighting,
    DualProj,
    FairGrad,
    GradDrop,
    GradVac,
    GramianWeightedAggregator,
    Krum,
    Mean,
    NashMTL,
    PCGrad,
    Random,
    Sum,
    TrimmedMean,
    UPGrad,
    UPGradWeighting,
)

from art_optim import TaskLosses, TaskReweightedOptimizer, per_task_mean
from art_optim.gradients.aggregation import JacobianAggregation

pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")

TASKS = ("a", "b", "c")
WITHOUT_MEMORY = {
    "AlignedMTL": AlignedMTL,
    "CAGrad": lambda: CAGrad(c=0.5),
    "Constant": lambda: Constant(torch.tensor([0.5, 1.0, 2.0])),
    "DualProj": DualProj,
    "FairGrad": lambda: FairGrad(alpha=1.0),
    "IMTLG": IMTLG,
    "Krum": lambda: Krum(n_byzantine=0),
    "MGDA": MGDA,
    "Mean": Mean,
    "PCGrad": PCGrad,
    "Random": Random,
    "Sum": Sum,
    "UPGrad": UPGrad,
}
WITHOUT_WEIGHTS = {
    "ConFIG": ConFIG,
    "GradDrop": GradDrop,
    "TrimmedMean": lambda: TrimmedMean(trim_number=1),
}
WITH_MEMORY = {
    "CRMOGM": lambda: GramianWeightedAggregator(CRMOGMWeighting(UPGradWeighting())),
    "GradVac": GradVac,
    "NashMTL": lambda: NashMTL(n_tasks=3),
    "PCD": getattr(torchjd.aggregation, "PCD", None),  # of torchjd 0.18
}
EVERY = {**WITHOUT_MEMORY, **WITHOUT_WEIGHTS, **WITH_MEMORY}
NEED_ALL = {"Constant", "Krum", "TrimmedMean"}  # that take a number of tasks, or more than two
DRAW = {"GradDrop", "GradVac", "PCGrad", "Random"}


def every(makers, but=()):
    return pytest.mark.parametrize(
        "make",
        [
            pytest.param(make, id=n, marks=pytest.mark.skipif(make is None, reason=f"{n} needs a newer torchjd"))
            for n, make in makers.items()
            if n not in but
        ],
    )


class Model(nn.Module):
    """A trunk and a head a task."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(4, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})

    def losses(self, step, tasks=TASKS):
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        features = self.trunk(inputs).tanh()
        targets = {"a": inputs[:, :1], "b": -inputs[:, :1], "c": 10 * inputs[:, 1:2].sin()}
        return {task: (self.heads[task](features) - targets[task]).square().mean() for task in tasks}


def optimizer_of(model, aggregator, inner=None, **options):
    inner = inner or torch.optim.SGD(model.parameters(), lr=0.05)
    settings = {k: options.pop(k) for k in ("parallel_chunk_size", "seed", "normalize") if k in options}
    return TaskReweightedOptimizer(inner, TASKS, JacobianAggregation(aggregator, **settings), **options)


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def train(model, optimizer, steps, tasks=lambda step: TASKS):
    weights = []
    for step in steps:
        optimizer.zero_grad()
        optimizer.step(model.losses(step, tasks(step)))
        weights.append(torch.stack(list(optimizer.weights.values())))
    return weights


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@every(EVERY, but=DRAW)
def test_training_is_that_of_torchjd(make):
    model, theirs, aggregator = Model(), Model(), make()
    optimizer, inner = optimizer_of(model, make()), torch.optim.SGD(theirs.parameters(), lr=0.05)
    for step in range(4):
        train(model, optimizer, [step])
        inner.zero_grad()
        autojac.backward(list(theirs.losses(step).values()))
        autojac.jac_to_grad(theirs.parameters(), aggregator)
        inner.step()
        for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@every({**WITHOUT_MEMORY, **WITH_MEMORY})
def test_the_weights_are_the_derivatives_of_the_total(make):
    model = Model()
    optimizer = optimizer_of(model, make())
    losses = model.losses(0)
    total = optimizer.backward(losses)
    weights = [weight.item() for weight in optimizer.weights.values()]
    assert total.item() == pytest.approx(sum(w * loss.item() for w, loss in zip(weights, losses.values(), strict=True)))
    expected = torch.autograd.grad(
        list(model.losses(0).values()), list(model.parameters()), list(torch.tensor(weights))
    )
    for gradient, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


@every({**WITHOUT_MEMORY, **WITHOUT_WEIGHTS}, but=NEED_ALL)
@pytest.mark.parametrize("absent", TASKS)
def test_an_absent_task_is_no_such_task(make, absent):
    rest = tuple(task for task in TASKS if task != absent)
    model, smaller = Model(), Model()
    optimizer = optimizer_of(model, make())
    declared = TaskReweightedOptimizer(torch.optim.SGD(smaller.parameters(), lr=0.05), rest, optimizer.weighting)
    for step in range(3):
        train(model, optimizer, [step], lambda _: rest)
        optimizer_weights = dict(optimizer.weights)
        declared.zero_grad()
        declared.step(smaller.losses(step, rest))
        assert optimizer_weights.pop(absent) == 0
        assert all(torch.equal(optimizer_weights[task], weight) for task, weight in declared.weights.items())
    assert same(model, smaller)
    assert model.heads[absent].weight.grad is None


@every(WITHOUT_MEMORY, but={*NEED_ALL, *DRAW})
def test_a_mixed_batch_is_the_same_as_named_losses(make):
    model, named = Model(), Model()
    inputs, ids = torch.randn(9, 4), torch.tensor([0, 0, 2, 2, 2, 0, 2, 0, 2])

    def per_sample(m):
        return m.trunk(inputs).square().mean(1) * torch.tensor([1.0, 1.0, 3.0])[ids] - m.trunk.weight.sum() * (ids == 2)

    optimizer_of(model, make()).step(per_task_mean(per_sample(model), ids, 3))
    losses = per_sample(named)
    optimizer_of(named, make()).step({"a": losses[ids == 0].mean(), "c": losses[ids == 2].mean()})
    for mine, other in zip(model.parameters(), named.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@every(EVERY)
def test_save_load_and_continue_is_bit_exact(make):
    whole, first = Model(), Model()
    straight = optimizer_of(whole, make())
    train(whole, straight, range(6))

    stopped = optimizer_of(first, make())
    train(first, stopped, range(3))
    checkpoint = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": stopped.state_dict()}, checkpoint)
    checkpoint.seek(0)
    loaded = torch.load(checkpoint, weights_only=True)

    second = Model(seed=1)
    resumed = optimizer_of(second, make())
    train(Model(seed=2), resumed, range(5, 7))  # what the aggregator remembers of another life is gone
    second.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    train(second, resumed, range(3, 6))
    assert same(second, whole)
    for name, tensor in straight.task_state.tensors.items():
        assert torch.equal(tensor, resumed.task_state.tensors[name])


@every(WITH_MEMORY)
def test_the_memory_matters(make):
    """Else the test above would show nothing."""
    model, forgetful = Model(), Model()
    optimizer = optimizer_of(model, make())
    train(model, optimizer, range(3))
    forgetful.load_state_dict(model.state_dict())
    train(model, optimizer, range(3, 6))
    train(forgetful, optimizer_of(forgetful, make()), range(3, 6))
    assert not same(model, forgetful)


@every({**WITH_MEMORY, "PCGrad": PCGrad})
def test_one_aggregator_may_serve_two_optimizers(make):
    shared, models = make(), [Model(0), Model(1)]
    optimizers = [optimizer_of(model, shared) for model in models]
    alone = [Model(0), Model(1)]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, [step])
    for model, lonely in zip(models, alone, strict=True):
        train(lonely, optimizer_of(lonely, make()), range(3))
        assert same(model, lonely)


@every(WITH_MEMORY)
def test_copies_go_on_by_themselves(make):
    model = Model()
    optimizer = optimizer_of(model, make())
    train(model, optimizer, range(2))
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, range(2, 4))
    train(twin, twin_optimizer, range(2, 4))
    assert same(model, twin)


def test_an_optimizer_with_an_aggregator_is_pickled():
    model = Model()
    optimizer = optimizer_of(model, UPGrad())
    train(model, optimizer, range(2))
    twin, twin_optimizer = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, [2])
    train(twin, twin_optimizer, [2])
    assert same(model, twin)


@every(WITH_MEMORY)
def test_an_aggregator_that_remembers_rows_refuses_to_miss_one(make):
    model = Model()
    optimizer = optimizer_of(model, make())
    train(model, optimizer, range(2))
    parameters, state = copy.deepcopy((list(model.parameters()), optimizer.task_state.tensors))
    with pytest.raises(ValueError, match=r"a task is absent, but .* remembers tasks by their rows"):
        optimizer.step(model.losses(2, ("a", "b")))
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(tensor, optimizer.task_state.tensors[name]) for name, tensor in state.items())


@every({n: EVERY[n] for n in sorted(DRAW)})
def test_random_draws_leave_the_global_generator_alone_and_follow_the_seed(make):
    runs = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        model = Model()
        torch.manual_seed(len(name))
        before = torch.get_rng_state()
        train(model, optimizer_of(model, make(), seed=seed), range(8))
        assert torch.equal(torch.get_rng_state(), before)
        runs[name] = model
    assert same(runs["one"], runs["again"])
    assert not same(runs["one"], runs["other"])


def test_the_draws_differ_from_step_to_step():
    model = Model()
    weights = train(model, optimizer_of(model, Random(), inner=torch.optim.SGD(model.parameters(), lr=0.0)), range(5))
    assert len({tuple(w.tolist()) for w in weights}) == 5


def test_the_streams_of_seeds_do_not_overlap():
    """A seed must not draw in one step what the next seed draws in the step before."""
    drawn = set()
    for seed in range(4):
        model = Model()
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        drawn |= {tuple(w.tolist()) for w in train(model, optimizer_of(model, Random(), still, seed=seed), range(4))}
    assert len(drawn) == 16


@every(EVERY)
def test_only_an_aggregator_that_draws_touches_the_global_generator(make):
    """Another thread may draw from it at the same time."""
    seeds = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seeds.append(torch.default_generator.initial_seed())
            return func(*args, **(kwargs or {}))

    aggregator, model = make(), Model()
    draws = any(isinstance(aggregator, getattr(torchjd.aggregation, name)) for name in DRAW)
    optimizer = optimizer_of(model, aggregator)
    for step in range(3):
        torch.manual_seed(123)
        seeds.clear()
        with Watched():
            optimizer.step(model.losses(step))
        assert (set(seeds) != {123}) == draws


@every({"UPGrad": UPGrad, "ConFIG": ConFIG})
@pytest.mark.parametrize("size", [1, 2])
def test_fewer_tasks_at_once_are_the_same(make, size):
    model, chunked = Model(), Model()
    train(model, optimizer_of(model, make()), range(3))
    train(chunked, optimizer_of(chunked, make(), parallel_chunk_size=size), range(3))
    for mine, other in zip(model.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@every({"UPGrad": UPGrad, "ConFIG": ConFIG})
def test_combine_accumulate_and_scale(make):
    model, combined, accumulated, scaled = (Model() for _ in range(4))
    optimizer_of(model, make()).backward(model.losses(0))
    optimizer_of(combined, make()).combine(combined.losses(0)).backward()
    optimizer = optimizer_of(accumulated, make(), accumulation_steps=2)
    for _ in range(2):
        optimizer.backward(accumulated.losses(0))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer_of(scaled, make()).backward(scaled.losses(0), scaler=scaler)
    for expected, *others, large in zip(*map(gradients, (model, combined, accumulated, scaled)), strict=True):
        for other in (*others, large / 4):
            torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-8)


@every({"UPGrad": UPGrad, "GradVac": GradVac, "ConFIG": ConFIG})
def test_validation_moves_nothing(make):
    model, undisturbed = Model(), Model()
    optimizer = optimizer_of(model, make())
    train(model, optimizer, range(2))
    with torch.no_grad():
        losses = model.losses(9, ("a", "b"))
        assert optimizer.combine(losses).item() == pytest.approx(sum(loss.item() for loss in losses.values()))
    train(model, optimizer, range(2, 4))
    train(undisturbed, optimizer_of(undisturbed, make()), range(4))
    assert same(model, undisturbed)


@every({"UPGrad": UPGrad, "GradVac": GradVac, "ConFIG": ConFIG})
def test_a_gradient_that_is_not_finite_shows_and_is_not_remembered(make):
    model = Model()
    optimizer = optimizer_of(model, make(), nonfinite="skip")
    train(model, optimizer, range(2))
    before, state = copy.deepcopy((list(model.parameters()), optimizer.task_state.tensors))
    losses = model.losses(2)
    optimizer.zero_grad()
    optimizer.step({**losses, "b": losses["b"] * float("nan")})
    assert optimizer.skipped == 1
    assert all(weight.isfinite() for weight in optimizer.weights.values())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for name, tensor in state.items():
        assert torch.equal(tensor, optimizer.task_state.tensors[name])
    train(model, optimizer, range(2, 4))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@every({"UPGrad": lambda: UPGrad(pref_vector=torch.ones(3)), "Krum": EVERY["Krum"], "ConFIG": ConFIG})
def test_one_gradient_of_several_that_is_too_large(make):
    """Some aggregators want to see a fixed number of rows."""
    x = nn.Parameter(torch.ones(3))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.1), TASKS, JacobianAggregation(make()))
    optimizer.backward({"a": x[0], "b": x[1] * 1e30, "c": x[2] ** 2})
    assert torch.stack(list(optimizer.weights.values())).tolist() == [1, 1, 1]
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 1e30, 2.0]))


@every({**WITHOUT_MEMORY, **WITHOUT_WEIGHTS}, but=NEED_ALL)
@pytest.mark.parametrize(("norm", "steps"), [(0.9e18, 1), (1.1e18, 0)])
def test_gradients_are_aggregated_up_to_the_norm_whose_square_is_a_float32(make, norm, steps):
    x = nn.Parameter(torch.ones(2))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.1), ["a", "b"], JacobianAggregation(make()))
    optimizer.backward({"a": x[0] * norm, "b": x[1] * norm})
    assert optimizer.task_state.tensors["steps"] == steps
    assert x.grad.isfinite().all()
    if not steps:
        assert torch.stack(list(optimizer.weights.values())).tolist() == [1, 1]


@every({"UPGrad": UPGrad, "ConFIG": ConFIG, "GradDrop": GradDrop})
def test_a_batch_without_any_task_moves_nothing(make):
    x = nn.Parameter(torch.ones(3))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([x], lr=0.1), TASKS, JacobianAggregation(make()))
    optimizer.step(TaskLosses(x * 2, torch.zeros(3)))
    assert x.tolist() == [1, 1, 1]


@every({"UPGrad": UPGrad, "PCGrad": PCGrad, "MGDA": MGDA})
def test_the_weights_are_scaled(make):
    model = Model()
    train(model, optimizer := optimizer_of(model, make(), normalize="mean"), [0])
    assert sum(weight.item() for weight in optimizer.weights.values()) == pytest.approx(1.0)
    train(model, optimizer := optimizer_of(model, make(), normalize="sum"), [0], lambda _: ("a", "c"))
    assert sum(weight.item() for weight in optimizer.weights.values()) == pytest.approx(2.0)


@every({"UPGrad": UPGrad, "ConFIG": ConFIG})
def test_a_closure_that_is_evaluated_several_times_descends(make):
    model = Model()
    inner = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    optimizer = optimizer_of(model, make(), inner=inner)
    before = model.losses(0)

    def closure():
        optimizer.zero_grad()
        return model.losses(0)

    for _ in range(3):
        optimizer.step(closure)
    after = model.losses(0)
    assert sum(after.values()) < sum(before.values())
    if make is UPGrad:
        assert all(after[task] < before[task] for task in TASKS)


def test_later_evaluations_of_a_closure_aggregate_again_where_there_are_no_weights():
    model = Model()

    class Twice(torch.optim.SGD):
        def step(self, closure):
            closure()
            first = gradients(model)
            closure()
            for one, other in zip(first, gradients(model), strict=True):
                assert torch.equal(one, other)

    for aggregator in (GradDrop(), ConFIG()):
        optimizer = optimizer_of(model, aggregator, inner=Twice(model.parameters(), lr=0.1))

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            return model.losses(0)

        optimizer.step(closure)


def test_parameters_of_several_dtypes():
    model, plain = Model(), Model()
    for each in (model, plain):
        each.heads.double()

    def losses(each):
        features = each.trunk(torch.linspace(-1, 1, 24).view(6, 4)).double()
        return {task: head(features).square().mean() for task, head in each.heads.items()}

    optimizer_of(model, Sum()).backward(losses(model))
    sum(losses(plain).values()).backward()
    for mine, other in zip(gradients(model), gradients(plain), strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@every({"UPGrad": UPGrad, "ConFIG": ConFIG})
def test_a_step_within_autocast_is_the_same(make):
    model, within = Model(), Model()
    train(model, optimizer_of(model, make()), [0])
    losses, optimizer = within.losses(0), optimizer_of(within, make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimizer.step(losses)
    assert same(model, within)


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"aggregator is <class .*UPGrad'>; give one of torchjd.aggregation, constr"):
        JacobianAggregation(UPGrad)
    with pytest.raises(ValueError, match="normalize is 'mean', but ConFIG has no weights to scale; choose published"):
        JacobianAggregation(ConFIG(), normalize="mean")
    with pytest.raises(ValueError, match="parallel_chunk_size is 0; it must be a whole number, at least 1"):
        JacobianAggregation(UPGrad(), parallel_chunk_size=0)
    with pytest.raises(ValueError, match="seed is -1"):
        JacobianAggregation(UPGrad(), seed=-1)


def test_a_memory_of_the_size_of_the_parameters_is_refused():
    excess = getattr(torchjd.aggregation, "ExcessMTL", None)
    if excess is None:
        pytest.skip("ExcessMTL needs torchjd>=0.17")
    with pytest.raises(ValueError, match="ExcessMTL remembers a number for every parameter"):
        JacobianAggregation(excess()).init(3)


def test_the_checkpoint_of_another_aggregator_is_refused():
    saved = optimizer_of(Model(), UPGrad()).state_dict()
    with pytest.raises(ValueError, match=r"has other hyperparameters: aggregator is 'UPGrad\(.*, not 'MGDA\("):
        optimizer_of(Model(), MGDA()).load_state_dict(saved)
    optimizer_of(Model(), UPGrad()).load_state_dict(saved)


def test_the_checkpoint_of_an_aggregator_with_a_function_loads_in_another_process():
    description = optimizer_of(Model(), GradDrop()).state_dict()["param_groups"][0]["task_reweighting"]["weighting"]
    assert "GradDrop(f=<function" in description[1]["aggregator"]
    assert " at 0x" not in description[1]["aggregator"]


def error_of_the_import(before="", path=""):
    code = f"{before}\nimport art_optim\ntry: import art_optim.gradients.aggregation\nexcept ImportError as e: print(e)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.getcwd()])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_without_torchjd_the_package_works_and_the_error_names_the_extra():
    not_installed = (
        "import sys, importlib.metadata as metadata; sys.modules['torchjd'] = None\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version"
    )
    wanted = "needs torchjd>=0.14, which is not installed; run: pip install --upgrade 'art_optim[torchjd]'"
    assert wanted in error_of_the_import(not_installed)


def test_a_torchjd_that_is_too_old_is_named_with_its_version(tmp_path):
    (tmp_path / "torchjd").mkdir()
    (tmp_path / "torchjd" / "__init__.py").touch()
    (tmp_path / "torchjd" / "aggregation.py").write_text("Aggregator = WeightedAggregator = object")
    (tmp_path / "torchjd" / "autojac.py").write_text("jac = None")
    (tmp_path / "torchjd-0.13.0.dist-info").mkdir()
    (tmp_path / "torchjd-0.13.0.dist-info" / "METADATA").write_text("Name: torchjd\nVersion: 0.13.0\n")
    error = error_of_the_import(path=tmp_path)
    assert "needs torchjd>=0.14, but torchjd 0.13.0 is installed (cannot import name 'Stateful' from" in error


def test_the_package_does_not_import_torchjd():
    """Which takes as long as torch."""
    code = "import sys, art_optim; print('torchjd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@every(WITH_MEMORY, but={"PCD"})
def test_a_gradient_too_large_to_square_is_not_remembered(make):
    model = Model()
    optimizer = optimizer_of(model, make(), nonfinite="skip")
    train(model, optimizer, range(2))
    losses = model.losses(2)
    optimizer.zero_grad()
    optimizer.step({**losses, "b": losses["b"] * 1e20})
    assert all(tensor.isfinite().all() for tensor in optimizer.task_state.tensors.values())


def test_resuming_draws_nothing_from_the_global_generator():
    model = Model()
    optimizer = optimizer_of(model, GradVac())
    train(model, optimizer, range(2))
    resumed = optimizer_of(model, GradVac())
    resumed.load_state_dict(optimizer.state_dict())
    before = torch.get_rng_state()
    train(model, resumed, [2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_largest_seed_has_a_stream():
    model = Model()
    train(model, optimizer_of(model, Random(), seed=2**63 - 1), range(2))


def test_what_cannot_be_aggregated_is_refused_before_anything_changes():
    model = Model()
    hook = model.trunk.weight.register_hook(lambda gradient: gradient * 0.5)
    optimizer = optimizer_of(model, UPGrad())
    with pytest.raises(ValueError, match="a parameter is complex, or has a gradient hook"):
        optimizer.step(model.losses(0))
    assert optimizer.task_state.tensors["steps"] == 0
    assert all(gradient is None for gradient in gradients(model))
    hook.remove()
    optimizer.step(model.losses(0))
    number = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([number], lr=0.1), ["a"], JacobianAggregation(UPGrad()))
    with pytest.raises(ValueError, match="a parameter is complex, or has a gradient hook"):
        optimizer.step({"a": number.abs().sum()})


def test_a_later_evaluation_of_a_closure_is_not_rounded_by_autocast():
    model = Model()

    class Twice(torch.optim.SGD):
        def step(self, closure):
            found = []
            for _ in range(2):
                closure()
                found.append(gradients(model))
            for one, other in zip(*found, strict=True):
                assert torch.equal(one, other)

    optimizer = optimizer_of(model, ConFIG(), inner=Twice(model.parameters(), lr=0.1))
    losses = model.losses(0)

    def closure():
        optimizer.zero_grad()
        return losses

    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimizer.step(closure)


def test_a_task_that_is_absent_where_an_interval_begins_keeps_its_weight():
    model = Model()
    optimizer = optimizer_of(model, UPGrad(), interval=2)
    weights = []
    for tasks in (TASKS, TASKS, TASKS[:2], TASKS):
        optimizer.step(model.losses(0, tasks))
        weights.append(optimizer.weights["c"])
    assert weights[0] > 0
    assert weights[3] == weights[0]
