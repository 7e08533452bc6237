"""``compile=True``: the weighing as one program."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import shutil
import tempfile
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.torch_version import TorchVersion

from art_optim import Art, EqualWeighting, FixedWeighting, GradNorm, RandomWeighting, TaskReweightedOptimizer, compiled
from art_optim.compiled import CompiledWeighing

from .conftest import needs_compilation
from .test_optimizer import identical, same

TASKS = ["a", "b", "c"]
pytestmark = needs_compilation
needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


def history() -> Tensor:
    return 0.05 + 1.5 * torch.rand(12, 3, generator=torch.Generator().manual_seed(0))


def optimizer_of(weighting, **kwargs):
    parameter = torch.nn.Parameter(torch.linspace(0.2, 0.8, 3))
    return TaskReweightedOptimizer(torch.optim.Adam([parameter], lr=0.05), TASKS, weighting, compile=True, **kwargs)


def step(optimizer, factors, absent=()):
    (parameter,) = optimizer.param_groups[0]["params"]
    losses = (parameter - factors).square() + 0.01
    optimizer.zero_grad()
    return optimizer.step({task: loss for task, loss in zip(TASKS, losses, strict=True) if task not in absent})


@pytest.fixture
def compiles_nothing(monkeypatch):
    """What would be compiled runs as it is; return the layouts for which it would have been."""
    layouts = []

    def compile(formula, inputs):
        layouts.append([tuple(tensor.shape) for tensor in inputs])
        return lambda tensors: [formula(*tensors)]

    monkeypatch.setattr(compiled, "_compile", compile)
    return layouts


@needs_a_compiler
@pytest.mark.parametrize("weighting", [Art(), RandomWeighting(normalize="sum")], ids=repr)
def test_a_program_weighs_like_the_weighting(weighting):
    program, state, program_state = CompiledWeighing(weighting), weighting.init(3), weighting.init(3)
    places = [tensor.data_ptr() for tensor in program_state.values()]
    losses = history()
    losses[2, 1], losses[3, 0], losses[4, 2] = torch.nan, 0.0, torch.inf
    for now in losses:
        expected = weighting(now, None, state)
        torch.testing.assert_close(program(now, None, program_state), expected, rtol=1e-5, atol=1e-7)
    assert places == [tensor.data_ptr() for tensor in program_state.values()]
    for name, tensor in state.items():
        torch.testing.assert_close(program_state[name], tensor, rtol=1e-5, atol=1e-7)


@needs_a_compiler
def test_a_compiled_run_leaves_absent_tasks_out_and_resumes_exactly():
    optimizer, absent = optimizer_of(Art()), {3: "a", 8: "b"}
    (parameter,) = optimizer.param_groups[0]["params"]

    def run(steps):
        for number in steps:
            step(optimizer, history()[number], absent.get(number, ()))
        return copy.deepcopy([parameter.detach(), optimizer.weights, optimizer.task_state.tensors])

    run(range(4))
    assert optimizer.weights["a"] == 0
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), parameter.detach()], file)
    straight = run(range(4, 12))
    file.seek(0)
    state, saved = torch.load(file, weights_only=True)
    optimizer.load_state_dict(state)
    parameter.data.copy_(saved)
    assert identical(straight, run(range(4, 12)))


@needs_a_compiler
def test_a_program_leaves_no_files_outside_the_cache(tmp_path, monkeypatch):
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    program = CompiledWeighing(FixedWeighting([1, 2, 3]))
    assert program(torch.ones(3), None, program.weighting.init(3)).tolist() == [1, 2, 3]
    assert not list(tmp_path.rglob("*.pt2"))  # two processes would write the same one in the cache
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 2**23
    del program
    gc.collect()
    assert not list(temporary.iterdir())


def test_threads_may_compile_at_once(monkeypatch):
    """Exporting is not thread-safe; what follows it is left out here."""

    def load(exported, **options):
        module = exported.module()
        return SimpleNamespace(loader=SimpleNamespace(run=lambda inputs: [module(*inputs)]))

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda exported, **options: exported)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    begin, found = threading.Barrier(4), {}

    def weigh(number):
        program = CompiledWeighing(FixedWeighting(list(range(1, number + 1))))
        begin.wait()
        found[number] = program(torch.ones(number), None, program.weighting.init(number)).tolist()

    threads = [threading.Thread(target=weigh, args=(number,)) for number in (2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: list(range(1, number + 1)) for number in (2, 3, 4, 5)}
    assert not torch.compiler.is_compiling()


def test_a_program_runs_while_another_thread_exports(compiles_nothing, monkeypatch):
    monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)  # as exporting does for all threads
    CompiledWeighing(EqualWeighting())(torch.ones(3), None, {})
    assert compiles_nothing == [[(3,)]]


def test_the_losses_may_have_strides(monkeypatch):
    """A program reads what lies side by side."""
    monkeypatch.setattr(compiled, "_compile", lambda formula, inputs: lambda tensors: [tensors[0]])
    program = CompiledWeighing(Art())
    for losses in (torch.rand(3, 2)[:, 1], torch.rand(1).expand(3)):
        given = program(losses, None, Art().init(3))
        assert torch.equal(given, losses)
        assert given.stride() == (1,)


def test_a_program_is_compiled_once_for_all_tasks_and_once_for_some(compiles_nothing):
    optimizer = optimizer_of(Art())
    for number, factors in enumerate(history()):
        step(optimizer, factors, "ab"[number % 2] if number > 5 else ())
    assert compiles_nothing == [[(3,)] * 3, [(3,)] * 4]


def test_validation_leaves_the_state(compiles_nothing):
    optimizer = optimizer_of(Art())
    for factors in history():
        step(optimizer, factors)
    before = copy.deepcopy(optimizer.task_state.tensors)
    with torch.no_grad():
        optimizer.combine({task: torch.tensor(0.3) for task in TASKS})
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.task_state.tensors.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_compiles_for_itself(copied, compiles_nothing):
    optimizer = optimizer_of(Art())
    step(optimizer, history()[0])
    other = copied(optimizer)
    assert torch.equal(step(other, history()[1]), step(optimizer, history()[1]))
    assert len(compiles_nothing) == 2


def test_what_does_not_compile_changes_nothing(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    optimizer = optimizer_of(Art())
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"Art does not compile here \(RuntimeError: no C\+\+ compiler\); install"):
        step(optimizer, history()[0])
    after = optimizer.state_dict()
    assert after["state"] == before["state"] == {}
    assert all(weight.isnan() for weight in optimizer.weights.values())
    for name, tensor in optimizer.task_state.tensors.items():
        assert same(tensor, before["param_groups"][0]["task_reweighting"]["state"][name])


@pytest.mark.parametrize("version", ["2.6.0+cpu", "2.7.1", "2.8.0a0"])
def test_a_torch_that_is_too_old_is_refused_at_construction(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(RuntimeError, match=rf"torch is {version[:5]}.*; install torch>=2.8, or leave it False"):
        optimizer_of(Art())


def test_it_is_a_bool():
    with pytest.raises(TypeError, match="compile is 'yes'; give True or False"):
        TaskReweightedOptimizer(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), compile="yes")


def test_a_method_that_looks_at_gradients_is_refused():
    with pytest.raises(ValueError, match="compile is True, but GradNorm looks at gradients"):
        optimizer_of(GradNorm())


def test_without_values_nothing_is_compiled(compiles_nothing):
    parameter = torch.nn.Parameter(torch.ones(3, device="meta"))
    optimizer = TaskReweightedOptimizer(torch.optim.SGD([parameter]), TASKS, Art(), compile=True)
    optimizer.step(dict(zip(TASKS, parameter.square(), strict=True)))
    assert optimizer.weights["a"].is_meta
    assert compiles_nothing == []


def test_fake_losses_and_those_of_an_export_are_not_compiled_ahead_of_time(compiles_nothing):
    class Weighing(torch.nn.Module):
        program = CompiledWeighing(Art())

        def forward(self, losses):
            return self.program(losses, None, Art().init(3))

    with FakeTensorMode():
        assert Weighing()(torch.rand(3)).shape == (3,)
    exported = torch.export.export(Weighing(), (torch.rand(3),), strict=False)
    assert exported.module()(torch.rand(3)).sum().item() == pytest.approx(1.0)
    assert compiles_nothing == []


def test_under_torch_compile_it_is_compiled_by_that(compiles_nothing):
    torch.compiler.reset()
    optimizer = optimizer_of(EqualWeighting())
    combine = torch.compile(optimizer.combine, backend="eager", fullgraph=True)
    losses = {task: torch.tensor(0.5, requires_grad=True) for task in TASKS}
    assert combine(losses).item() == 1.5
    assert compiles_nothing == []
