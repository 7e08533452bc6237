"""The Trainer of Hugging Face runs the loop by hand bit for bit, and resumes exactly."""

from __future__ import annotations

import pytest
import torch

from examples.problem import TASKS, Network, batch, losses

from ..test_optimizer import identical
from . import by_hand

transformers = pytest.importorskip("transformers")
example = pytest.importorskip("examples.with_transformers")

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")

UPDATES, SAMPLES, BATCH = 6, 5 * 32, 32
CLIP = 0.1  # smaller than the gradients are
IN_ORDER = {"train_sampling_strategy": "sequential", "max_grad_norm": CLIP}


class WeighsEverywhere(example.MultiTaskTrainer):
    """Weighs in evaluation, too."""

    evaluations = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.evaluations += not model.training
        task_losses = losses(model, (inputs["x"], inputs))
        total = self.reweighted.combine(task_losses)
        return (total, task_losses) if return_outputs else total


@pytest.fixture
def build(tmp_path, monkeypatch):
    """The example's run on five small batches, with what it did on record."""
    whole = example.samples
    monkeypatch.setattr(example, "samples", lambda step, size: whole(step, min(size, SAMPLES)))

    def build(accumulation, trainer=example.MultiTaskTrainer, **options):
        monkeypatch.setattr(example, "MultiTaskTrainer", trainer)
        built = example.build(str(tmp_path), UPDATES, accumulation, use_cpu=True, **options)
        return built, by_hand.Recorded(built.model, built.reweighted)

    return build


def expected(accumulation, schedule=transformers.get_cosine_schedule_with_warmup, warmup=10):
    """Epochs of the five batches in order; the Trainer divides a short window by its own length."""
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    scheduler = schedule(optimizer, warmup, UPDATES)
    x, targets = batch(0, SAMPLES)
    batches = [
        (part, {task: target[start : start + BATCH] for task, target in targets.items()})
        for start, part in zip(range(0, SAMPLES, BATCH), x.split(BATCH), strict=True)
    ]
    epochs = by_hand.windows(batches, accumulation) * UPDATES
    return by_hand.train(network, epochs[:UPDATES], optimizer, scheduler, clip=CLIP)


def test_the_example(capsys):
    example.main(updates=4)
    *_, whole, resumed = capsys.readouterr().out.split("after")
    assert all(line in whole for line in resumed.splitlines()[1:])


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_is_the_loop_by_hand(build, accumulation):
    trainer, recorded = build(accumulation, **IN_ORDER)
    trainer.train()
    assert identical(recorded.result, expected(accumulation))
    assert trainer.optimizer.optimizer is trainer.reweighted


def test_a_scheduler_of_the_trainer_makes_the_schedule_by_hand(build):
    """The Trainer builds it on its own wrapper of ours."""
    trainer, recorded = build(1, **IN_ORDER, lr_scheduler_type="linear", warmup_steps=2)
    trainer.lr_scheduler = None
    trainer.train()
    assert identical(recorded.result, expected(1, transformers.get_linear_schedule_with_warmup, warmup=2))


@pytest.mark.parametrize("kind", [example.MultiTaskTrainer, WeighsEverywhere])
def test_evaluation_leaves_the_state_of_the_weighting_alone(build, kind):
    """In the run, before its first update and after each, and outside of it."""
    trainer, recorded = build(2, kind, **IN_ORDER, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    assert identical(recorded.result, expected(2))
    if kind is WeighsEverywhere:
        assert trainer.evaluations >= UPDATES + 3


def test_the_loss_of_evaluation_is_the_sum_and_does_not_depend_on_the_weights(build):
    trainer, _ = build(1)
    trainer.train()
    x, targets = batch(1, SAMPLES)
    with torch.no_grad():
        total = sum(losses(trainer.model, (x, targets)).values())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_checkpoint_resumes_exactly(build, tmp_path, accumulation):
    """In the middle of an epoch, with batches in random order."""
    trainer, recorded = build(accumulation)
    trainer.train()
    whole = recorded.result
    resumed_trainer, recorded = build(accumulation)
    resumed_trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{UPDATES // 2}"))
    resumed = recorded.result
    assert whole.learning_rates[UPDATES // 2 :] == resumed.learning_rates
    assert identical(resumed._replace(learning_rates=whole.learning_rates), whole)
    assert identical(trainer.reweighted.state_dict(), resumed_trainer.reweighted.state_dict())


class LikeTheLibrary(Network):
    def forward(self, x, **kwargs):
        return super().forward(x)


@pytest.mark.parametrize(("scaled", "divided"), [(False, True), (None, False)])
def test_a_model_that_takes_any_keyword_needs_the_flag(build, monkeypatch, scaled, divided):
    """The Trainer would take the loss for divided if the batch has labels."""

    class Flagged(example.MultiTaskTrainer):
        loss_is_scaled_for_ga = scaled

    def collate(rows):
        columns = transformers.default_data_collator(rows)
        return {**columns, "labels": columns[TASKS[0]]}

    monkeypatch.setattr(example, "Network", LikeTheLibrary)
    trainer, recorded = build(2, Flagged, **IN_ORDER)
    trainer.data_collator = collate
    trainer.train()
    assert identical(recorded.result, expected(2)) is divided
