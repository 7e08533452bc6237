"""Lightning runs the loop by hand bit for bit in both kinds of optimization, and resumes exactly."""

from __future__ import annotations

import pytest
import torch

from examples.problem import Network, batch, losses

from ..test_optimizer import identical
from . import by_hand

lightning = pytest.importorskip("lightning")
example = pytest.importorskip("examples.with_lightning")

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

BATCHES = 5


class ValidatesWithCombine:
    """Weighs in validation, too, and keeps what came of it."""

    def __init__(self):
        super().__init__()
        self.validated = []

    def validation_step(self, batch, batch_index):
        self.validated.append(self.optimizers().combine(losses(self.network, batch)))


class Automatic(ValidatesWithCombine, example.Automatic):
    pass


class Manual(ValidatesWithCombine, example.Manual):
    pass


class Watch(lightning.Callback):
    """Records the run, and saves a checkpoint after its first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_start(self, trainer, module):
        self.recorded = by_hand.Recorded(module.network, trainer.optimizers[0])

    def on_train_epoch_end(self, trainer, module):
        if self.path is not None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def fit(kind, save=None, **options):
    torch.manual_seed(0)
    module, watch = kind(), Watch(save)
    trainer = example.fit(module, BATCHES, accelerator="cpu", callbacks=[watch], **options)
    return trainer, module, watch.recorded.result


def expected(accumulation=1, epochs=2):
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    epoch = by_hand.windows([batch(step) for step in range(BATCHES)], accumulation)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(epoch))
    return by_hand.train(network, epoch * epochs, optimizer, scheduler, divisor=lambda _: accumulation)


def test_the_example(capsys):
    """Both kinds come to the same."""
    example.main(batches=3, epochs=1)
    automatic, manual = capsys.readouterr().out.split("Manual, before")
    assert "weight" in manual
    assert automatic == "Automatic, before" + manual.replace("Manual", "Automatic")


@pytest.mark.parametrize("kind", [Automatic, Manual, example.Automatic, example.Manual])
def test_a_fit_is_the_loop_by_hand(kind):
    """The sanity check and the validation of each epoch leave the state of the weighting alone."""
    _, module, result = fit(kind, max_epochs=2)
    assert identical(result, expected())
    if hasattr(module, "validated"):
        assert len(module.validated) == 2 + 2 * 4  # two of them before the first training step
        assert not any(total.requires_grad for total in module.validated)


@pytest.mark.parametrize("accumulation", [2, 3])
def test_accumulated_batches_are_the_loop_by_hand(accumulation):
    """Lightning divides the last window of an epoch, though it is short, like the others."""
    _, _, result = fit(Automatic, max_epochs=2, accumulate_grad_batches=accumulation)
    assert identical(result, expected(accumulation))


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_a_resumed_fit_is_the_whole_fit(tmp_path, kind):
    checkpoint = tmp_path / "epoch.ckpt"
    trainer, _, whole = fit(kind, max_epochs=2, save=checkpoint)
    resumed_trainer, _, resumed = fit(kind, max_epochs=2, checkpoint=checkpoint)
    assert whole.learning_rates[BATCHES:] == resumed.learning_rates
    assert identical(resumed._replace(learning_rates=whole.learning_rates), whole)
    assert identical(trainer.optimizers[0].state_dict(), resumed_trainer.optimizers[0].state_dict())
    assert "task_reweighting" in torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"][0]


def test_a_scheduler_on_the_inner_optimizer_is_refused():
    class OnTheInner(example.Automatic):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()["optimizer"]
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer.inner, 1)]

    with pytest.raises(lightning.pytorch.utilities.exceptions.MisconfigurationException, match="attached"):
        fit(OnTheInner, max_epochs=1)


def automatic(training_step):
    return type("Automatic", (example.Automatic,), {"training_step": training_step})


def manual(training_step):
    def step_and_schedule(self, batch, batch_index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        training_step(self, batch, optimizer)
        self.lr_schedulers().step()

    return type("Manual", (example.Manual,), {"training_step": step_and_schedule})


REFUSED = {
    "losses to step": (manual(lambda self, batch, opt: opt.step(losses(self.network, batch))), "callable"),
    "losses to step, automatic": (
        automatic(lambda self, batch, _: self.optimizers().step(losses(self.network, batch))),
        "callable",
    ),
    "losses returned": (automatic(lambda self, batch, _: losses(self.network, batch)), "the 'loss' key"),
    "a total without its graph returned": (
        automatic(lambda self, batch, _: self.optimizers().backward(losses(self.network, batch))),
        "does not require grad",
    ),
}


@pytest.mark.parametrize(("kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_lightning_cannot_train_with_is_refused(kind, message):
    with pytest.raises(Exception, match=message):
        fit(kind, max_epochs=1)


WORKS = {
    "a closure": manual(lambda self, batch, opt: opt.step(lambda: losses(self.network, batch))),
    "backward": manual(lambda self, batch, opt: (opt.backward(losses(self.network, batch)), opt.step())),
}


@pytest.mark.parametrize("kind", WORKS.values(), ids=WORKS)
def test_other_calls_of_manual_optimization_are_the_loop_by_hand(kind):
    assert identical(fit(kind, max_epochs=2)[2], expected())


FABRIC = {
    "combine": lambda fabric, optimizer, evaluate: (
        fabric.backward(optimizer.combine(evaluate())),
        optimizer.step(),
    ),
    "losses": lambda fabric, optimizer, evaluate: optimizer.step(evaluate()),
    "a closure": lambda fabric, optimizer, evaluate: optimizer.step(evaluate),
}


def fit_with_fabric(step, precision):
    torch.manual_seed(0)
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    network = Network()
    optimizer = example.TaskReweightedOptimizer(torch.optim.AdamW(network.parameters(), lr=3e-3), example.TASKS)
    recorded = by_hand.Recorded(network, optimizer)
    prepared_network, prepared = fabric.setup(network, optimizer)
    for number in range(BATCHES):
        prepared.zero_grad()
        step(fabric, prepared, lambda n=number: losses(prepared_network, batch(n)))
    return recorded.result


@pytest.mark.parametrize("step", FABRIC.values(), ids=FABRIC)
def test_fabric_is_the_loop_by_hand(step):
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    by_itself = by_hand.train(network, [[batch(number)] for number in range(BATCHES)], optimizer)
    assert identical(fit_with_fabric(step, "32-true"), by_itself)


def test_fabric_with_mixed_precision_wants_to_call_backward_itself():
    assert len(fit_with_fabric(FABRIC["combine"], "bf16-mixed").learning_rates) == BATCHES
    for way in ("losses", "a closure"):
        with pytest.raises(RuntimeError, match=r"requires you to call .fabric"):
            fit_with_fabric(FABRIC[way], "bf16-mixed")
