"""One optimizer in a process of its own, where it may crash or hang."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from typing import Any

import torch

from . import zoo

SECONDS = 120

# Each process is a fork of a server that has imported everything: milliseconds, not seconds. torch.optim itself imports
# torch._dynamo, at the first step.
_context = multiprocessing.get_context("forkserver")


def preload(packages: list[str]) -> None:
    _context.set_forkserver_preload([__name__, "torch._dynamo", *packages])


def examine(case: zoo.Case) -> dict[str, Any]:
    """The row of a case in the results."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_report, args=(case, sender))
    start = time.perf_counter()
    process.start()
    sender.close()  # or the end of the process would not be the end of the pipe
    try:
        found = receiver.recv() if receiver.poll(SECONDS) else _lost("HANGS", f"for {SECONDS} s")
    except EOFError:
        process.join()
        found = _lost("CRASHES", f"with exit code {process.exitcode}")
    process.kill()
    process.join()
    seconds = round(time.perf_counter() - start, 2)
    return {"package": case.package, "optimizer": str(case).removesuffix("()"), **found, "seconds": seconds}


def _report(case: zoo.Case, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        pairs = zoo.pairs(case)
    verdict, pair = zoo.verdict(pairs)
    if not pair.same:
        evidence = f"{pair.model}, {pair.way}: unwrapped {pair.plain}; wrapped {pair.ours}"
    else:
        evidence = f"{pair.model}, {pair.way}" if pair.trained else str(pair.plain)
    columns = ("model", "way", "steps", "same", "refused", "trained")
    details = [
        {name: getattr(pair, name) for name in columns} | {"unwrapped": str(pair.plain), "wrapped": str(pair.ours)}
        for pair in pairs
    ]
    sender.send({"verdict": verdict, "same": pair.same, "evidence": evidence, "pairs": details})


def _lost(verdict: str, evidence: str) -> dict[str, Any]:
    return {"verdict": verdict, "same": False, "evidence": evidence, "pairs": []}
