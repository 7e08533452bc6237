"""What one step asks of the machine: operators, memory, and of CUDA kernels and waiting."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Step


def count(step: Step, device: str, steps: int = 1) -> dict[str, Any]:
    """Return the operators of a step, the mean over some, and the most bytes that tensors made in them hold at once.

    On CUDA, also the kernels that it launches, and whether the host waits for the device.
    """

    def all_steps() -> None:
        for _ in range(steps):
            step()

    if torch.device(device).type != "cuda":
        return _profiled(all_steps, steps)
    counted = _profiled(all_steps, steps, cuda=True)
    return {**counted, "peak bytes": _cuda_peak(all_steps, device), "host waits": waits(all_steps)}


def _profiled(all_steps: Step, steps: int, cuda: bool = False) -> dict[str, float]:
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
    with profile(activities=activities, profile_memory=not cuda) as profiled:
        all_steps()
    events = profiled.events() or []
    counted = {"operators": sum(_is_operator(event) for event in events) / steps}
    if cuda:
        return {**counted, "kernels": sum("LaunchKernel" in event.name for event in events) / steps}
    with TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        return {**counted, "peak bytes": peak(json.loads(trace.read_text())["traceEvents"])}


def peak(trace: list[dict[str, Any]]) -> int:
    """Return the most bytes at once of what was allocated within a trace of PyTorch's profiler."""
    live: dict[int, int] = {}
    held = most = 0
    for event in sorted((event for event in trace if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = size
            held += size
        else:
            held -= live.pop(address, 0)  # 0: of an earlier step
        most = max(most, held)
    return most


def _is_operator(event: FunctionEvent) -> bool:
    """Whether it is called by the step or its backward pass, not by another operator."""
    inside = event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::")
    return event.name.startswith("aten::") and not inside


def _cuda_peak(step: Step, device: str) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


def waits(step: Step) -> bool:
    """Whether the host waits for a CUDA device in a step, which then is left halfway."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return False
