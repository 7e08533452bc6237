"""Lightning, with automatic and with manual optimization.

    python -m examples.with_lightning

``self.optimizers()`` has all methods of the wrapper. In automatic optimization ``training_step`` returns what
``combine`` returns, and Lightning calls backward and step; in manual optimization the two are called by hand.
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from art_optim import TaskReweightedOptimizer

try:
    from examples.problem import TASKS, Batch, Network, batch, losses, report
except ModuleNotFoundError:  # run as a script
    from problem import TASKS, Batch, Network, batch, losses, report


class Automatic(lightning.LightningModule):
    """Lightning calls backward, step and the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Weigh the losses of a batch."""
        return self.optimizers().combine(losses(self.network, batch))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the losses unweighted: weights change, so weighted losses of two epochs cannot be compared."""
        self.log_dict(losses(self.network, batch))

    def configure_optimizers(self) -> dict:
        """Build the scheduler on the wrapper; Lightning refuses one that is built on the inner optimizer."""
        optimizer = TaskReweightedOptimizer(torch.optim.AdamW(self.parameters(), lr=3e-3), TASKS)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(Automatic):
    """The training step calls them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Weigh the losses of a batch, and update."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(optimizer.combine(losses(self.network, batch)))
        optimizer.step()
        self.lr_schedulers().step()


def fit(module: Automatic, batches: int, checkpoint: str | None = None, **options) -> lightning.Trainer:
    """Train ``module``, from its start or from a checkpoint."""
    training = DataLoader([batch(step) for step in range(batches)], batch_size=None)
    validation = DataLoader([batch(step) for step in range(batches, batches + 4)], batch_size=None)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(**dict.fromkeys(quiet, False), **options)
    trainer.fit(module, training, validation, ckpt_path=checkpoint)
    return trainer


def main(batches: int = 150, epochs: int = 2) -> None:
    """Train in both ways from the same seed, with the same result."""
    for kind in (Automatic, Manual):
        torch.manual_seed(0)
        module = kind()
        report(f"{kind.__name__}, before", module.network)
        trainer = fit(module, batches, max_epochs=epochs)
        report(f"{kind.__name__}, after", module.network, trainer.optimizers[0].weights)


if __name__ == "__main__":
    main()
