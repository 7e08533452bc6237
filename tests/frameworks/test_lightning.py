from __future__ import annotations

import pytest
import torch

from art_optim import TaskReweightedOptimizer

from ..conftest import TASKS, MultiTask
from ..test_optimizer import identical, parameters_of

lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = MultiTask()

    def training_step(self, batch, batch_index):
        return self.optimizers().combine(self.network.losses(int(batch)))

    def configure_optimizers(self):
        return TaskReweightedOptimizer(torch.optim.AdamW(self.parameters(), lr=1e-2), TASKS)


def fit(folder, epochs, checkpoint=None):
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(4)), ckpt_path=checkpoint)
    return module, trainer


def test_a_resumed_fit_is_the_whole_fit(tmp_path):
    """Contract 16."""
    whole, whole_trainer = fit(tmp_path, epochs=2)
    _, trainer = fit(tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, resumed_trainer = fit(tmp_path, epochs=2, checkpoint=tmp_path / "half.ckpt")
    assert identical(parameters_of(whole), parameters_of(resumed))
    states = [t.optimizers[0].task_state.state_dict() for t in (whole_trainer, resumed_trainer)]
    assert identical(*states)
    assert not identical(states[0], trainer.optimizers[0].task_state.state_dict())
