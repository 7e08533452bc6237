"""The cost of a step: every contestant trains, the loop on the host is Art, ratios by hand, what is left behind."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from art_optim import Art, TaskReweightedOptimizer
from art_optim import compiled as compiled_weighing
from art_optim.weighting import available, registry
from benchmarks import timing
from benchmarks.authors import HostArt
from benchmarks.overhead import __main__ as command
from benchmarks.overhead import counting, measuring, methods, profile, steps
from benchmarks.overhead.inputs import INPUTS, Mixed, Named
from benchmarks.overhead.measuring import Combination
from benchmarks.overhead.problems import PROBLEMS

TINY = ["--tasks", "3", "--seconds", "0", "--rounds", "1"]


@pytest.fixture(params=[(problem, given) for problem in PROBLEMS for given in INPUTS], ids="-".join)
def combination(request):
    return Combination(*request.param, 3)


def test_every_contestant_trains(combination, monkeypatch):
    made = []
    given_to = Combination.given
    monkeypatch.setattr(Combination, "given", lambda *arguments: made.append(given_to(*arguments)) or made[-1])
    steps, without = measuring.contestants(combination, methods.names(), "cpu")
    assert {*steps} | {*without} == {*methods.names()}
    networks = {
        name: given.problem.network
        for name, given in zip(methods.names(), made, strict=True)
        if given.problem.network is not None
    }
    assert {*without} == (set() if networks else {"stacked", *LOOK_AT_GRADIENTS})
    for name, step in steps.items():
        before = [parameter.detach().clone() for parameter in networks[name].parameters()] if networks else []
        step()
        after = [*networks[name].parameters()] if networks else []
        assert all(parameter.isfinite().all() for parameter in after), name
        assert not before or not all(map(torch.equal, before, after)), name


LOOK_AT_GRADIENTS = {"gradnorm", "gradnorm every 8", "upgrad", "upgrad every 8"}


@pytest.mark.parametrize("of", [("mlp", "named", 3), ("mlp", "mixed", 3), ("synthetic", "own", 4)], ids=str)
def test_all_that_weigh_nothing_train_alike(of):
    """The plain loop, its second turn, the stacked sum, equal weights and TorchJD's sum: one training."""
    alike = ["plain", "plain again", "stacked", "equal", "torchjd Sum"]
    if of[1] == "mixed":  # where plain is the mean over the samples
        alike = ["stacked", "equal", "torchjd Sum"]
    gradients = []
    for name in alike:
        given = Combination(*of).given("cpu")
        steps.step_of(name, given)()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in given.problem.network.parameters()]))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_both_inputs_have_the_same_losses():
    problem = PROBLEMS["srresnet"](3, "cpu")
    named, mixed = Named(problem), Mixed(problem)
    torch.testing.assert_close(named.vector(), mixed.vector())
    torch.testing.assert_close(named.vector(), torch.stack(mixed.one_by_one()))
    torch.testing.assert_close(named.plain() / 3, mixed.plain())


@pytest.mark.parametrize("temperature", [0.1, 3.0])
def test_the_loop_on_the_host_is_the_authors_art(temperature):
    ours, host, present = Art.reference(temperature), HostArt(4, temperature), torch.ones(4, dtype=torch.bool)
    state = ours.init(4)
    for losses in 0.05 + 0.9 * torch.rand(20, 4, generator=torch.Generator().manual_seed(0)):
        torch.testing.assert_close(torch.tensor(host.weigh(losses)), ours(losses, present, state), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.tensor(host.smoothed), state["smoothed"])
    torch.testing.assert_close(torch.tensor(host.minimum), state["minimum"])


def test_the_loop_on_the_host_leaves_absent_tasks_alone():
    ours, host, state = Art.reference(3.0), HostArt(3, 3.0), Art.reference(3.0).init(3)
    losses, present = torch.tensor([0.4, 0.0, 0.2]), torch.tensor([True, False, True])
    weights = host.weigh([losses[0], None, losses[2]])
    torch.testing.assert_close(torch.tensor(weights), ours(losses, present, state))
    assert host.smoothed[1] == host.minimum[1] == 0.1


def test_every_registered_weighting_is_a_contestant_without_an_edit(monkeypatch):
    assert {*available()} <= {*methods.names()}
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "new": Art})
    steps, _ = measuring.contestants(Combination("mlp", "named", 3), ["new"], "cpu")
    assert [*steps] == ["plain", "plain again", "new"]


@pytest.mark.parametrize(
    ("axes", "method", "why"),
    [
        (("mlp", "named", 200), "upgrad", "a backward pass a task is too much for more than 40 tasks"),
        (("mlp", "named", 200), "gradnorm", "a backward pass a task is too much for more than 40 tasks"),
        (("weighing", "named", 2), "gradnorm", "gradients need a network"),
        (("conv", "mixed", 40), "torchjd UW", "a scalarizer wants a loss of every task"),
        (("mlp", "named", 7), "compiled gradnorm", "which are not compiled here"),
    ],
)
def test_what_makes_no_sense_is_named(axes, method, why):
    assert why in methods.skipped(method, Combination(*axes).given("cpu"))


def test_gradnorm_looks_at_the_last_shared_layer():
    for problem, shape in (("mlp", (256, 256)), ("conv", (32, 32, 3, 3)), ("srresnet", (3, 32, 3, 3))):
        given = Combination(problem, "named", 3).given("cpu")
        assert methods.weighting(methods.method_of("gradnorm"), given.problem).shared[0].shape == shape


def test_ratios_by_hand():
    """The ratio of the medians would be 2; in the rounds it was 3, 2 and 1."""
    times = pd.DataFrame({"plain": [1e-6, 2e-6, 4e-6], "slow": [3e-6, 4e-6, 4e-6]})
    of = timing.quartiles(times, "plain")
    assert of.loc["slow", "ratio"].to_dict() == pytest.approx({"low": 1.5, "median": 2.0, "high": 2.5})
    assert of.loc["slow", "extra"].to_dict() == pytest.approx({"low": 1.0, "median": 2.0, "high": 2.0})
    assert of.loc["slow", "time"].to_dict() == pytest.approx({"low": 3.5, "median": 4.0, "high": 4.0})
    assert of.loc["plain", "ratio"].to_dict() == {"low": 1.0, "median": 1.0, "high": 1.0}


def test_all_take_turns_in_every_round_and_the_first_warms_up():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in ("plain", "other", "third")}
    times = timing.rounds(steps, "cpu", least=3, seconds=0)
    assert times.shape == (3, 3)
    turns = [name for index, name in enumerate(calls) if index == 0 or calls[index - 1] != name]
    assert calls.count("other") == calls.count("third")
    assert len({tuple(turns[-start:][:3]) for start in (3, 6, 9)}) > 1  # not always in one order


def test_operators_and_memory_by_hand():
    x = torch.ones(1024)

    def step():
        y = x + x  # 4 KiB, and with z 8
        z = y * y
        del y
        return z.sum()

    assert counting.count(step, "cpu") == {"operators": 3, "peak bytes": 8192}


def test_memory_of_an_earlier_step_is_not_this_ones():
    def event(time, address, size):
        return {"name": "[memory]", "ts": time, "args": {"Addr": address, "Bytes": size}}

    trace = [event(3, 1, -100), event(1, 9, -7), event(2, 1, 100), {"name": "aten::add"}, event(4, 2, 30)]
    assert counting.peak(trace) == 100


def test_it_leaves_a_table_results_and_a_picture(tmp_path, capsys):
    few = ["--inputs", "named", "--methods", "stacked", "on the host", "art", "gradnorm", "torchjd UW"]
    arguments = [*TINY, "--problems", "weighing", "mlp", *few, "--output", str(tmp_path)]
    assert command.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"].startswith("python -m benchmarks.overhead --tasks 3 ")
    assert results["machine"]["threads"] == 1
    measured = {(of["problem"], of["input"], of["method"]): of for of in results["results"]}
    assert len(measured) == 5 + 7  # weighing alone has no network to stack for, nor gradients
    assert {of["what"] for of in results["skipped"]} == {"stacked", "gradnorm"}
    for of in measured.values():
        assert of["ratio"]["low"] <= of["ratio"]["median"] <= of["ratio"]["high"]
        assert of["operators"] > 0
    assert measured["mlp", "named", "plain"]["ratio"]["median"] == 1
    assert measured["mlp", "named", "plain again"]["operators"] == measured["mlp", "named", "plain"]["operators"]
    assert measured["mlp", "named", "stacked"]["bytes beyond"] < 1024
    table = (tmp_path / "table.md").read_text()
    assert "## MLP, 3 layers of 256, 64 samples: named losses, 3 tasks (1 rounds)" in table
    assert "- Not measured, gradients need a network: gradnorm." in table
    assert table.partition("\n# Each")[0].strip() in capsys.readouterr().out
    with Image.open(tmp_path / "overhead.png") as picture:
        assert min(picture.size) > 100


def test_a_problem_of_the_comparison_has_its_own_losses_and_tasks(tmp_path):
    few = ["--problems", "synthetic", "synthetic-rare:rare=0.000001", "--methods", "art", "torchjd UW"]
    assert command.main([*TINY, *few, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(of["input"], of["tasks"]) for of in results["results"]} == {("own", 4)}
    methods_of = {
        problem: {of["method"] for of in results["results"] if of["problem"] == problem} for problem in few[1:3]
    }
    assert methods_of["synthetic"] == {"plain", "plain again", "art", "torchjd UW"}
    assert methods_of["synthetic-rare:rare=0.000001"] == {"plain", "plain again", "art"}  # a task is absent


def test_a_combination_that_makes_no_sense_is_left_out():
    given = command.parse([*TINY, "--methods", "art"])
    records, skipped = command.sweep([Combination("srresnet", "named", 200)], ["art"], given, Console(quiet=True))
    assert records == []
    assert [*skipped.values()] == [{"srresnet": "a batch with an image of every task, for more than 40 tasks"}]


def test_an_interrupt_leaves_what_was_finished(monkeypatch, tmp_path, capsys):
    measured = []

    def measure(of, *arguments):
        if measured:
            raise KeyboardInterrupt
        measured.append(of)
        return measuring.measure(of, *arguments)

    monkeypatch.setattr(command, "measure", measure)
    few = ["--problems", "weighing", "--methods", "art"]
    assert command.main([*TINY, *few, "--output", str(tmp_path)]) == 0
    assert "interrupted: the results are of what was finished" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert {of["input"] for of in results["results"]} == {"named"}
    assert command.main([*TINY, *few, "--output", str(tmp_path / "nothing")]) == 130


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_kernels_and_waiting_are_counted(tmp_path):
    few = ["--problems", "mlp", "--methods", "art", "on the host", "--device", "cuda"]
    assert command.main([*TINY, *few, "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    waits = {(of["input"], of["method"]): of["host waits"] for of in results}
    assert waits == {
        (given, method): method == "on the host"
        for given in INPUTS
        for method in ("plain", "plain again", "art", "on the host")
    }
    assert all(of["kernels"] > 0 for of in results)


def test_a_wait_for_the_device_is_noticed(monkeypatch):
    """As CUDA raises it; the mode is what it was afterwards, and another error is not taken for a wait."""
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def fail(message):
        raise RuntimeError(message)

    assert counting.waits(lambda: fail("called a synchronizing CUDA operation"))
    assert not counting.waits(lambda: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        counting.waits(lambda: fail("out of memory"))
    assert modes == [0, "error", 0, "error", 0, "error", 0]


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path, capsys):
    def compile(function):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", compile)
    few = ["--problems", "weighing", "--inputs", "named", "--methods", "art", "--compile"]
    assert command.main([*TINY, *few, "--output", str(tmp_path)]) == 0
    assert "nothing is compiled: RuntimeError: no C++ compiler" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert {of["method"] for of in results["results"]} == {"plain", "plain again", "art"}


@pytest.fixture
def compile_without_a_compiler(monkeypatch):
    torch.compiler.reset()
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile(function, backend="eager"))
    monkeypatch.setattr(compiled_weighing, "_compile", lambda formula, _: lambda tensors: [formula(*tensors)])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which dynamo looks at
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("name", ["art", "famo", "torchjd UW"])
def test_compiled_methods_train_alike(name, given, compile_without_a_compiler):
    parameters = []
    for method in (name, f"{methods.COMPILED}{name}"):
        of = Combination("mlp", given, 3).given("cpu")
        step = steps.step_of(method, of)
        for _ in range(3):
            step()
        parameters.append([*of.problem.network.parameters()])
    torch.testing.assert_close(parameters[0], parameters[1])


def test_compiled_methods_weigh_alike(compile_without_a_compiler):
    of = Combination("weighing", "named", 3).given("cpu")
    for name in ("art", "famo"):
        (_, eager, _), (_, compiled, _) = (steps.step_of(f"{prefix}{name}", of)() for prefix in ("", methods.COMPILED))
        torch.testing.assert_close(eager, compiled)


def test_functions_made_alike_are_compiled_each_by_itself(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    first, second = (steps.compiled(lambda x, by=by: x + by) for by in (1, 2))
    assert first.__code__ is not second.__code__


def test_the_clock_takes_the_parts_from_the_whole(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = profile.Clock()

    def passing(seconds):
        now[0] += seconds

    weigh = clock.timing("weigh", passing)
    clock.timing("zero_grad", passing)(1e-6)
    clock.timing(profile.REST, lambda: (weigh(2e-6), weigh(3e-6), passing(4e-6)))()
    read = {phase: microseconds for phase, microseconds in clock.read().items() if microseconds}
    assert read == pytest.approx({"zero_grad": 1, "weigh": 5, profile.REST: 4})
    assert not any(clock.read().values())


def test_the_phases_of_both_sides_and_nothing_is_left_behind():
    sides = [Combination("mlp", "named", 3).given("cpu") for _ in range(2)]
    plain, inner = (steps.inner(side.problem.network) for side in sides)
    wrapped = TaskReweightedOptimizer(inner, sides[1].problem.tasks)
    methods_before = torch.autograd.backward, inner.step
    times = profile.phases(plain, wrapped, sides, "cpu", rounds=2)
    assert len(times) == 2 * profile.STEPS
    assert (times["plain"][["gather", "weigh"]] == 0).all(axis=None)
    assert (times.drop(columns=[("plain", "gather"), ("plain", "weigh")]) > 0).all(axis=None)
    assert (torch.autograd.backward, inner.step) == methods_before


@pytest.mark.parametrize("method", ["art", "gradnorm"])
def test_the_profile_prints_phases_and_lines(method, capsys):
    assert profile.main(["--method", method, "--rounds", "2", "--tasks", "3"]) == 0
    out = capsys.readouterr().out
    assert all(phase in out for phase in (*profile.PHASES, "difference"))
    assert {"art": "masked_softmax(", "gradnorm": "self.measure("}[method] in out


def test_the_profile_of_a_compiled_method_has_no_lines(compile_without_a_compiler, capsys):
    assert profile.main(["--compile", "--rounds", "1", "--tasks", "3"]) == 0
    out = capsys.readouterr().out
    assert "weigh" in out
    assert "masked_softmax(" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "nothing"], "--methods: invalid choice: 'nothing' (choose from "),
        (["--tasks", "0"], "--tasks: '0' is refused; give a whole number, at least 1"),
        (["--rounds", "0"], "--rounds: '0' is refused; give a whole number, at least 1"),
        (["--problems", "nothing"], "--problems: problem 'nothing' is not known"),
        (["--device", "cuda"], "--device is cuda; this machine has no CUDA device"),
        (["--threads", "0"], "--threads: '0' is refused; give a whole number, at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_quick_is_a_default_that_gives_way():
    given = command.parse(["--quick", "--tasks", "5"])
    assert given.tasks == [5]
    assert given.problems == command.QUICK["problems"]
    assert math.isclose(given.seconds, command.QUICK["seconds"])
