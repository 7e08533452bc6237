from __future__ import annotations

import pytest
import torch

from art_optim import TaskReweightedOptimizer

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical, parameters_of

accelerate = pytest.importorskip("accelerate")


def prepared():
    accelerator = accelerate.Accelerator(cpu=True)
    model = MultiTask()
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), TASKS)
    return accelerator, model, optimizer, *accelerator.prepare(model, optimizer)


def train(accelerator, model, optimizer, prepared_optimizer, steps):
    for step in steps:
        prepared_optimizer.zero_grad()
        accelerator.backward(optimizer.combine(model.losses(step)))
        prepared_optimizer.step()


def test_save_state_resumes_exactly(tmp_path):
    """Contract 16."""
    accelerator, model, optimizer, _, wrapped = prepared()
    train(accelerator, model, optimizer, wrapped, range(3))
    accelerator.save_state(str(tmp_path))
    train(accelerator, model, optimizer, wrapped, range(3, 6))

    accelerator, second_model, second, _, wrapped = prepared()
    accelerator.load_state(str(tmp_path))
    train(accelerator, second_model, second, wrapped, range(3, 6))
    assert identical(parameters_of(model), parameters_of(second_model))
    assert identical(optimizer.task_state.state_dict(), second.task_state.state_dict())
