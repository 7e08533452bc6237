from __future__ import annotations

import signal

import pytest
import torch
from torch import Tensor, nn

TASKS = ("rain", "haze", "noise")

needs_compilation = pytest.mark.skipif(
    torch.__version__ < "2.8", reason="compile=True, and torch.compile with an interval, need torch>=2.8"
)

# A script that runs the tests in the background has them, and all that they start, ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


class MultiTask(nn.Module):
    """A shared trunk and a head a task; losses of a seeded batch, small and positive."""

    def __init__(self, tasks=TASKS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in tasks})
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}

    def losses(self, step: int) -> dict[str, Tensor]:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step)).to(next(self.parameters()).device)
        outputs = self(x)
        return {
            task: 0.1 * (index + 1) * (output - x[:, index : index + 1]).square().mean()
            for index, (task, output) in enumerate(outputs.items())
        }


@pytest.fixture
def model() -> MultiTask:
    return MultiTask()


@pytest.fixture
def small_photographs(tmp_path):
    """A folder of four smooth images of 40 x 48 pixels."""
    from PIL import Image  # the tests of the package itself run without

    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(4):
        small = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(index))
        image = (255 * nn.functional.interpolate(small, (40, 48), mode="bilinear")[0]).byte()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder
