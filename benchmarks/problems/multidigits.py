"""Two overlaid digits, each to be read: MultiMNIST on small images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .digits import digits
from .problem import Losses, Metric, Problem, Split

CANVAS = 12
PAIRINGS = 8  # of each held-out digit on the left


class MultiDigits(Problem):
    r"""Two digits overlap on a canvas; a shared encoder and a head each read the left and the right one.

    MultiMNIST (Sabour et al., Dynamic routing between capsules, NeurIPS 2017) as multi-task learning has it (Sener and
    Koltun, Multi-task learning as multi-objective optimization, NeurIPS 2018), on scikit-learn's digits of 8 x 8
    pixels: one lies in the upper left corner of a canvas of 12 x 12, the other in the lower right corner, and a pixel
    is the maximum of both. A task's loss is the cross entropy of its digit. The accuracies are shares in 0..1 of the
    pairs; ``accuracy`` is the mean of both tasks'.

    Args:
        unequal: Whether the right digit is read as a number in place of a class: one output :math:`z`, the loss
            :math:`(z - y)^2`, and correct where :math:`z` rounds to :math:`y`. It is the harder task, and its loss is
            some ten times that of the left one: 28.5 against :math:`\ln 10 = 2.3` where all outputs are 0.
    """

    tasks = ("left", "right")
    metrics: Mapping[str, Metric] = {
        "accuracy": Metric(higher=True),
        "left accuracy": Metric(higher=True, task="left"),
        "right accuracy": Metric(higher=True, task="right"),
    }
    steps = 1000
    batch = 64
    learning_rate = 3e-3

    def __init__(self, unequal: bool = False) -> None:
        self.unequal = unequal
        self.digits = digits()
        self.epoch = len(self.digits["training"].labels) // self.batch

    def network(self) -> TwoReaders:
        """Construct the encoder with its two heads."""
        return TwoReaders(right=1 if self.unequal else 10)

    def losses(self, network: nn.Module, seed: int, step: int) -> Losses:
        """Draw pairs of digits and compute the losses of both."""
        device = next(network.parameters()).device
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        of = self.digits["training"]
        left, right = torch.randint(len(of.labels), (2, self.batch), generator=generator)
        outputs = network(overlay(of.images[left], of.images[right]).to(device))
        labels = (of.labels[left].to(device), of.labels[right].to(device))
        return {task: loss(*given) for task, given in zip(self.tasks, zip(outputs, labels, strict=True), strict=True)}

    @torch.inference_mode()
    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """Compute the accuracies over the pairs of a split."""
        device = next(network.parameters()).device
        left, right = self._pairs(split)
        of = self.digits[split]
        outputs = network(overlay(of.images[left], of.images[right]).to(device))
        correct = [
            (read(output).cpu() == of.labels[digit]).float().mean().item()
            for output, digit in zip(outputs, (left, right), strict=True)
        ]
        return {"accuracy": sum(correct) / 2, "left accuracy": correct[0], "right accuracy": correct[1]}

    def shared(self, network: TwoReaders) -> list[nn.Parameter]:
        """Return the parameters of the last layer of the encoder."""
        return [*network.encoder[-2].parameters()]

    def data(self) -> Iterable[Tensor]:
        """Return the images and labels."""
        return [tensor for of in self.digits.values() for tensor in (of.images, of.labels)]

    def _pairs(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return the indices of the left and the right digit of the held-out pairs, always the same."""
        generator = Generator().manual_seed(0)
        number = len(self.digits[split].labels)
        right = torch.cat([torch.randperm(number, generator=generator) for _ in range(PAIRINGS)])
        return torch.arange(number).repeat(PAIRINGS), right


class TwoReaders(nn.Module):
    """A convolutional encoder that both tasks share, and a linear head for each.

    Args:
        right: Outputs of the right head: 10 classes, or 1 number.
    """

    def __init__(self, right: int = 10, width: int = 16, features: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (CANVAS // 4) ** 2, features),
            nn.ReLU(),
        )
        self.heads = nn.ModuleList([nn.Linear(features, 10), nn.Linear(features, right)])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs [N, 10] of the left head, and [N, 10] or [N, 1] of the right one, for [N, 12, 12]."""
        features = self.encoder(images.unsqueeze(1))
        return [head(features) for head in self.heads]


def overlay(left: Tensor, right: Tensor) -> Tensor:
    """Lay digits [N, 8, 8] over each other in opposite corners of canvases [N, 12, 12].

    Example:
        >>> canvas = overlay(torch.ones(1, 8, 8), torch.full((1, 8, 8), 2.0))[0]
        >>> canvas[0, 0].item(), canvas[5, 5].item(), canvas[11, 0].item()
        (1.0, 2.0, 0.0)
    """
    rest = CANVAS - left.shape[-1]
    return torch.maximum(F.pad(left, (0, rest, 0, rest)), F.pad(right, (rest, 0, rest, 0)))


def loss(output: Tensor, label: Tensor) -> Tensor:
    """Return the cross entropy of classes [N, 10], or the mean square error of a number [N, 1]."""
    if output.shape[1] == 1:
        return F.mse_loss(output[:, 0], label.float())
    return F.cross_entropy(output, label)


def read(output: Tensor) -> Tensor:
    """Return the digits [N] that a head reads."""
    return output[:, 0].round().long() if output.shape[1] == 1 else output.argmax(1)
