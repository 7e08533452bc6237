"""Regressions of one input with dials: the number of tasks, their scales, noise and conflict, and which are present."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from .problem import Losses, Metric, Problem, Split

INPUTS, FEATURES, HIDDEN = 16, 32, 24
HELD_OUT = 2048
FUNCTIONS, SEEDS = -1, {"validation": -2, "test": -3}  # training has none below 0: else it draws the same numbers


class Synthetic(Problem):
    r"""A small network learns functions of the same inputs, one a task.

    .. math::

        f_t(x) = \frac{1}{\sqrt{32}} \; v_t^\top \tanh(U_t x), \qquad v_t = \sqrt{1 - c} \, a_t + \sqrt{c} \, (-1)^t b,
        \qquad x \sim \mathcal{N}(0, I_{16})

    with fixed random :math:`U_t`, :math:`a_t` and :math:`b`. With :math:`c > 0`, the tasks share :math:`U` and the one
    output of the network, and the part :math:`b` of even tasks is the negative of that of odd ones: none fits both.
    The loss of a task is :math:`s_t^2` times its mean square error, with :math:`s_t` from 1 down to 1 over
    ``scale_ratio``. The metric of a task is its root mean square error over that of predicting 0, and
    ``relative error`` their mean.

    Args:
        num_tasks: K.
        scale_ratio: The largest :math:`s_t` over the smallest; spaced evenly on a logarithmic scale.
        noise: The standard deviation of the noise of the last task's labels, in those of the labels.
        conflict: :math:`c`, from 0 to 1.
        rare: The probability that the last task is in a batch.
        one_task: Whether a batch is of one task, drawn at random.
    """

    steps = 1000
    batch = 32
    learning_rate = 3e-3

    def __init__(
        self,
        num_tasks: int = 4,
        scale_ratio: float = 1.0,
        noise: float = 0.0,
        conflict: float = 0.0,
        rare: float = 1.0,
        one_task: bool = False,
    ) -> None:
        if num_tasks < 2:
            raise ValueError(f"num_tasks is {num_tasks}; a problem of several tasks has at least 2")
        if not (0 <= conflict <= 1 and 0 < rare <= 1 and noise >= 0 and scale_ratio >= 1):
            raise ValueError(
                f"conflict is {conflict}, rare {rare}, noise {noise} and scale_ratio {scale_ratio}; give a conflict in "
                "[0, 1], rare in (0, 1], noise of at least 0 and a ratio of at least 1"
            )
        self.num_tasks, self.noise, self.conflict, self.rare, self.one_task = num_tasks, noise, conflict, rare, one_task
        self.tasks = tuple(f"task {index}" for index in range(num_tasks))
        self.scales = torch.logspace(0, -1, num_tasks, base=scale_ratio)
        self.metrics = {"relative error": Metric(higher=False)}
        self.metrics |= {f"{task} error": Metric(higher=False, task=task) for task in self.tasks}
        generator = Generator().manual_seed(FUNCTIONS)
        inner = torch.randn(num_tasks, FEATURES, INPUTS, generator=generator) / INPUTS**0.5
        self.inner = inner[:1].expand_as(inner) if conflict else inner
        own = torch.randn(num_tasks, FEATURES, generator=generator)
        common = torch.randn(FEATURES, generator=generator) * (-1.0) ** torch.arange(num_tasks)[:, None]
        self.outer = (1 - conflict) ** 0.5 * own + conflict**0.5 * common

    def network(self) -> nn.Module:
        """Construct a perceptron; in conflict, the tasks share its one output."""
        outputs = 1 if self.conflict else self.num_tasks
        return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))

    def losses(self, network: nn.Module, seed: int, step: int) -> Losses:
        """Draw inputs and noise, and compute the losses of the tasks in the batch."""
        device = next(network.parameters()).device
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        inputs = torch.randn(self.batch, INPUTS, generator=generator)
        labels = self.labels(inputs)
        labels[:, -1] += self.noise * labels[:, -1].std() * torch.randn(self.batch, generator=generator)
        drawn = torch.rand((), generator=generator)
        errors = (network(inputs.to(device)) - labels.to(device)).square().mean(0)
        losses = dict(zip(self.tasks, self.scales.square().to(device) * errors, strict=True))
        if self.one_task:
            task = self.tasks[int(drawn * self.num_tasks)]
            return {task: losses[task]}
        if drawn >= self.rare:
            del losses[self.tasks[-1]]
        return losses

    @torch.inference_mode()
    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """Compute the relative errors on held-out inputs, without noise."""
        device = next(network.parameters()).device
        inputs, labels = self._held_out(split)
        errors = (network(inputs.to(device)).cpu() - labels).square().mean(0).sqrt() / labels.square().mean(0).sqrt()
        by_task = {f"{task} error": error for task, error in zip(self.tasks, errors.tolist(), strict=True)}
        return {"relative error": errors.mean().item()} | by_task

    def shared(self, network: nn.Sequential) -> list[nn.Parameter]:
        """Return the parameters of the hidden layer."""
        return [*network[0].parameters()]

    def labels(self, inputs: Tensor) -> Tensor:
        """Return the labels [N, K] of inputs [N, 16]."""
        hidden = torch.einsum("nd,kfd->nkf", inputs, self.inner).tanh()
        return torch.einsum("nkf,kf->nk", hidden, self.outer) / FEATURES**0.5

    @lru_cache  # noqa: B019 (a process has one problem)
    def _held_out(self, split: Split) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(HELD_OUT, INPUTS, generator=Generator().manual_seed(SEEDS[split]))
        return inputs, self.labels(inputs)
