"""From losses to weights with each method, and nothing else; the reference makes one vector of the losses.

The weights of a scalarizer are the derivatives by the losses. With them come the gradients of what it learns, but not
the step along these, which a weighting takes, and of the scalarizers FAMO.
"""

from __future__ import annotations

import torch
from torchjd.scalarization import FAMO

from art_optim import TaskReweightedOptimizer
from benchmarks.timing import Step

from .authors import HostArt
from .compiling import COMPILED, compiled
from .inputs import Input
from .methods import HOST, SCALARIZERS, base_of, interval_of, is_weighting, scalarizer, weighting


def step_of(name: str, given: Input) -> Step:
    """Return what weighs the losses of the problem once."""
    base, tasks = base_of(name), given.problem.tasks
    if is_weighting(base):
        inner = torch.optim.SGD([torch.zeros(1, device=given.problem.task_ids.device)])
        made = weighting(base, given.problem)
        options = {"compile": name.startswith(COMPILED), "interval": interval_of(name)}
        state = TaskReweightedOptimizer(inner, tasks, made, **options).task_state
        return lambda: state.weigh(state.gather(given.losses()))
    if base in SCALARIZERS:
        made = scalarizer(base, given)
        learned = [] if isinstance(made, FAMO) else [*made.parameters()]
        combine = made if name == base else compiled(lambda values: made(values))

        def differentiate() -> None:
            values = given.vector()
            torch.autograd.grad(combine(values), [values, *learned])
            if isinstance(made, FAMO):
                made.update(values)

        return differentiate
    if name == HOST:
        art = HostArt(len(tasks))
        return lambda: art.weigh(given.one_by_one())
    return given.vector
