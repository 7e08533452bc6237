"""The Trainer of Hugging Face: gradient accumulation, and a run that resumes from one of its checkpoints.

    python -m examples.with_transformers

``compute_loss`` returns what ``combine`` returns, and the Trainer divides it by the number of micro-batches. It must be
told to: where ``forward`` takes any keyword, as in the library's models, it assumes that the loss is divided already.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Network, batch, losses, report


class MultiTaskTrainer(Trainer):
    """A Trainer whose optimizer weighs the losses of the tasks."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reweighted = self.optimizer  # which train() hides in an AcceleratedOptimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weigh the losses in training. In evaluation, sum them: weights change, and ``eval_loss`` is compared."""
        task_losses = losses(model, (inputs["x"], inputs))
        total = self.reweighted.combine(task_losses) if model.training else sum(task_losses.values())
        return (total, task_losses) if return_outputs else total


def samples(step: int, size: int) -> list[dict[str, Tensor]]:
    """Return a dataset of samples: ``x``, and the target of each task under its name."""
    x, targets = batch(step, size)
    columns = {"x": x, **targets}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def build(folder: str, updates: int, accumulation: int, **options: Any) -> MultiTaskTrainer:
    """Set up a run from its start."""
    torch.manual_seed(0)
    network = Network()
    optimizer = TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=5e-3), TASKS)
    scheduler = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=updates)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=updates,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=accumulation,
        label_names=list(TASKS),
        prediction_loss_only=True,
        save_steps=updates // 2,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    return MultiTaskTrainer(
        network,
        arguments,
        train_dataset=samples(0, 2048),
        eval_dataset=samples(1, 256),
        optimizers=(optimizer, scheduler),
    )


def main(updates: int = 200, accumulation: int = 2) -> None:
    """Train, then resume from the checkpoint of half way, with the same result."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, updates, accumulation)
        report("before", trainer.model)
        trainer.train()
        report("after", trainer.model, trainer.reweighted.weights)
        trainer.evaluate()

        trainer = build(folder, updates, accumulation)
        trainer.train(resume_from_checkpoint=str(Path(folder, f"checkpoint-{updates // 2}")))
        report("after a run from half way", trainer.model, trainer.reweighted.weights)


if __name__ == "__main__":
    main()
