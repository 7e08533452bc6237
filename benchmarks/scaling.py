"""What weighing on several processes costs beyond weighing on one: an all-reduce of 2K numbers a step.

    python -m benchmarks.scaling                       # 2 and 4 gloo processes on this machine
    python -m benchmarks.scaling --processes 2 8
    python -m benchmarks.scaling --help

Each process has one thread. In every round all sizes take their turn in another order; a time is that of the slowest
process. Beside it, in the same rounds, stands what averages the gradients of a small network anyway.

The model for larger clusters is that of a tree, ``2 log2(P) (latency + bytes / bandwidth)``, with the latency and the
bandwidth of one message as given: their defaults are round figures for a cluster, not measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from art_optim import TaskLosses
from art_optim.distributed import Processes
from benchmarks.machine import at_least, circumstances, save

TASKS = (2, 7, 40, 200, 1000)
GRADIENTS = 3 * 256 * 257  # of three layers of 256


def measure(rank: int, number: int, rounds: int, folder: str) -> None:
    """Time one process of so many; rank 0 writes the microseconds of each round."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=number)
    processes = Processes()
    losses = {tasks: TaskLosses(torch.rand(tasks, requires_grad=True), torch.ones(tasks)) for tasks in TASKS}
    gradients = torch.rand(GRADIENTS)
    cases = {
        **{f"{tasks} tasks": lambda tasks=tasks: processes.share(losses[tasks]) for tasks in TASKS},
        "gradients": lambda: dist.all_reduce(gradients.mul_(1 / number)),
    }
    order, shuffled = list(cases), random.Random(0)  # the same on every rank
    times: list[dict[str, float]] = []
    for _ in range(rounds):
        shuffled.shuffle(order)
        times.append({})
        for name in order:
            dist.barrier()
            began = time.perf_counter()
            cases[name]()
            times[-1][name] = 1e6 * (time.perf_counter() - began)
    after_warm_up = times[rounds // 10 :]
    slowest = torch.tensor([[of_round[name] for name in cases] for of_round in after_warm_up])
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    if rank == 0:
        Path(folder, "times.json").write_text(json.dumps(dict(zip(cases, slowest.T.tolist(), strict=True))))
    dist.destroy_process_group()


def measured(number: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the quartiles of the microseconds with so many processes."""
    with TemporaryDirectory() as folder:
        mp.spawn(measure, (number, rounds, folder), nprocs=number)
        times = json.loads(Path(folder, "times.json").read_text())
    quantiles = pd.DataFrame(times).quantile([0.25, 0.5, 0.75])
    return {name: {"low": of[0.25], "median": of[0.5], "high": of[0.75]} for name, of in quantiles.items()}


def modelled(number: int, size: int, latency: float, bandwidth: float) -> float:
    """Microseconds of an all-reduce of ``size`` float32 over so many processes; microseconds and GB/s of a message."""
    return 2 * math.ceil(math.log2(number)) * (latency + 4 * size / (1e3 * bandwidth))


def table(results: dict[str, Any]) -> str:
    """Lay out what was measured, then what the model says."""
    rows = [
        {
            "processes": f"{number}, measured",
            **{name: "{median:.0f} ({low:.0f}-{high:.0f})".format(**of) for name, of in times.items()},
        }
        for number, times in results["measured"].items()
    ]
    rows += [
        {"processes": f"{number}, model", **{name: f"{value:.0f}" for name, value in times.items()}}
        for number, times in results["modelled"].items()
    ]
    assumed = results["assumed"]
    return (
        f"{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n\n"
        "Microseconds: the median and the quartiles over the rounds, gloo, one thread a process. Gradients: the "
        f"all-reduce of {GRADIENTS} numbers, which training does anyway.\n"
        f"The model has a latency of {assumed['latency']:g} us and {assumed['bandwidth']:g} GB/s a message."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=at_least(2), nargs="+", default=[2, 4], help="how many, on this machine")
    parser.add_argument("--rounds", type=at_least(10), default=300, help="a tenth of them warms up")
    parser.add_argument("--clusters", type=int, nargs="+", default=[8, 64, 1024], help="sizes for the model")
    parser.add_argument("--latency", type=float, default=10.0, help="of a message, microseconds, for the model")
    parser.add_argument("--bandwidth", type=float, default=10.0, help="of a message, GB/s, for the model")
    parser.add_argument("--output", type=Path, default=Path("runs/scaling"), help="folder of the results")
    given = parser.parse_args(arguments)
    sizes = {**{f"{tasks} tasks": 2 * tasks for tasks in TASKS}, "gradients": GRADIENTS}
    results = {
        **circumstances("benchmarks.scaling", arguments),
        "measured": {number: measured(number, given.rounds) for number in given.processes},
        "assumed": {"latency": given.latency, "bandwidth": given.bandwidth},
        "modelled": {
            number: {name: modelled(number, size, given.latency, given.bandwidth) for name, size in sizes.items()}
            for number in given.clusters
        },
    }
    save(given.output, results, table(results))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
