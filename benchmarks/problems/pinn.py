"""Physics-informed networks: the residual of a differential equation against its boundary and initial conditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from math import pi

import numpy as np
import torch
from torch import Generator, Tensor, nn

from .problem import Losses, Metric, Problem, Split

CELLS = 201  # on a side of the held-out grid; odd, so that every other cell in order is one colour of a checkerboard
ENDS = torch.tensor([0.0, 1.0])  # of a side of the unit square


class PhysicsInformed(Problem):
    r"""A network :math:`u_\theta` learns the solution :math:`u` of a differential equation on a rectangle.

    After Raissi, Perdikaris and Karniadakis, Physics-informed neural networks, Journal of Computational Physics 378,
    2019: the loss of ``residual`` is the mean square of the equation's residual at points of the rectangle, and that of
    every other task the mean square of :math:`u_\theta - u` at points where a condition gives :math:`u`. The metric is,
    over the centres of 201 x 201 cells,

    .. math::

        \text{relative L2} = \frac{\|u_\theta - u\|_2}{\|u\|_2}

    Validation and test each have the cells of one colour of a checkerboard. Every step draws fresh points, so there is
    no set of training data to see once: an epoch is one step.

    Attributes:
        lower: The lower ends of the two coordinates; the upper ends are 1.
        hidden: The widths of the hidden layers.
    """

    metrics: Mapping[str, Metric] = {"relative L2": Metric(higher=False)}
    lower: tuple[float, float]
    hidden: tuple[int, ...]

    def network(self) -> nn.Sequential:
        """Construct a multilayer perceptron with tanh, from points [N, 2] to values [N]."""
        *hidden, last = (nn.Linear(*ends) for ends in pairwise((2, *self.hidden, 1)))
        return nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in hidden), last, nn.Flatten(0))

    def losses(self, network: nn.Module, seed: int, step: int) -> Losses:
        """Draw points and compute the mean squares of their errors."""
        device = next(network.parameters()).device
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        points = {task: of.to(device) for task, of in self.points(generator).items()}
        errors = {"residual": self.residual(network, points.pop("residual").requires_grad_())}
        errors |= {task: network(of) - self.condition(of) for task, of in points.items()}
        return {task: error.square().mean() for task, error in errors.items()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """Compute the relative L2 error over the cells of a split."""
        device = next(network.parameters()).device
        points = self.grid(split)
        solution = self.solution(points.double())
        error = network(points.to(device)).cpu() - solution
        return {"relative L2": (error.norm() / solution.norm()).item()}

    def shared(self, network: nn.Sequential) -> list[nn.Parameter]:
        """Return the parameters of the last hidden layer."""
        return [*network[-3].parameters()]

    def grid(self, split: Split) -> Tensor:
        """Return the centres [N, 2] of the cells of a split."""
        cells = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS))
        return self.scaled((cells[("validation", "test").index(split) :: 2] + 0.5) / CELLS)

    def scaled(self, points: Tensor) -> Tensor:
        """Move points from the unit square to the rectangle."""
        lower = torch.tensor(self.lower)
        return lower + (1 - lower) * points

    @abstractmethod
    def points(self, generator: Generator) -> dict[str, Tensor]:
        """Draw the points [N, 2] of each task."""

    @abstractmethod
    def residual(self, network: nn.Module, points: Tensor) -> Tensor:
        """Compute the residual [N] of the equation at points [N, 2], with the graph of its derivatives."""

    @abstractmethod
    def condition(self, points: Tensor) -> Tensor:
        """Return what the conditions say that the solution [N] is at points [N, 2]."""

    @abstractmethod
    def solution(self, points: Tensor) -> Tensor:
        """Compute the solution [N] at points [N, 2] of the rectangle."""


class Helmholtz(PhysicsInformed):
    r"""The Helmholtz equation with the wave number :math:`k = 1`, on a square whose boundary is held at 0.

    .. math::

        \Delta u + k^2 u = q, \qquad u(x, \pm 1) = u(\pm 1, y) = 0, \qquad x, y \in [-1, 1]

    with :math:`q` such that :math:`u = \sin(\pi x) \sin(2 \pi y)`. After Wang, Teng and Perdikaris, Understanding and
    mitigating gradient flow pathologies in physics-informed neural networks, SIAM Journal on Scientific Computing
    43(5), 2021, who have :math:`4 \pi y` in place of :math:`2 \pi y`: this one is learned in fewer steps.
    """

    tasks = ("residual", "boundary")
    steps = 3000
    lower = (-1.0, -1.0)
    hidden = (50, 50, 50)

    def points(self, generator: Generator) -> dict[str, Tensor]:
        """Draw 256 points of the square, and 32 of each side."""
        inside, along = torch.rand(256, 2, generator=generator), torch.rand(128, generator=generator)
        vertical, horizontal = torch.stack([ENDS.repeat(64), along], 1).chunk(2)
        boundary = torch.cat([vertical, horizontal.flip(1)])
        return {"residual": self.scaled(inside), "boundary": self.scaled(boundary)}

    def residual(self, network: nn.Module, points: Tensor) -> Tensor:
        r"""Compute :math:`\Delta u + u - q` with :math:`q = (1 - 5 \pi^2) \sin(\pi x) \sin(2 \pi y)`."""
        u: Tensor = network(points)
        u_x, u_y = gradient(u, points)
        u_xx, u_yy = gradient(u_x, points)[0], gradient(u_y, points)[1]
        q = (1 - 5 * pi**2) * self.solution(points.detach())
        return u_xx + u_yy + u - q

    def condition(self, points: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(points[:, 0])

    def solution(self, points: Tensor) -> Tensor:
        r"""Compute :math:`\sin(\pi x) \sin(2 \pi y)`."""
        x, y = points.unbind(1)
        return torch.sin(pi * x) * torch.sin(2 * pi * y)


class Burgers(PhysicsInformed):
    r"""Burgers' equation with the viscosity :math:`\nu = 0.01 / \pi`: a steep front forms at :math:`x = 0`.

    .. math::

        u_t + u \, u_x = \nu \, u_{xx}, \qquad u(t, \pm 1) = 0, \qquad u(0, x) = -\sin(\pi x), \qquad
        t \in [0, 1], \; x \in [-1, 1]

    It is an example of Raissi, Perdikaris and Karniadakis (2019). Points are :math:`(t, x)`.
    """

    tasks = ("residual", "boundary", "initial")
    steps = 4000
    learning_rate = 3e-3
    lower = (0.0, -1.0)
    hidden = (20, 20, 20, 20, 20)
    viscosity = 0.01 / pi

    def points(self, generator: Generator) -> dict[str, Tensor]:
        """Draw 256 points of the rectangle, 32 of each boundary, and 64 at the time 0."""
        inside, (t, x) = torch.rand(256, 2, generator=generator), torch.rand(2, 64, generator=generator)
        return {
            "residual": self.scaled(inside),
            "boundary": self.scaled(torch.stack([t, ENDS.repeat(32)], 1)),
            "initial": self.scaled(torch.stack([torch.zeros(64), x], 1)),
        }

    def residual(self, network: nn.Module, points: Tensor) -> Tensor:
        r"""Compute :math:`u_t + u \, u_x - \nu \, u_{xx}`."""
        u: Tensor = network(points)
        u_t, u_x = gradient(u, points)
        u_xx = gradient(u_x, points)[1]
        return u_t + u * u_x - self.viscosity * u_xx

    def condition(self, points: Tensor) -> Tensor:
        r"""Return :math:`-\sin(\pi x)`, which is 0 at both boundaries."""
        return -torch.sin(pi * points[:, 1])

    def solution(self, points: Tensor) -> Tensor:
        r"""Compute the solution by the transform of Cole and Hopf.

        After Basdevant et al., Spectral and finite difference solutions of the Burgers equation, Computers & Fluids
        14(1), 1986:

        .. math::

            u(t, x) = -\frac{\int \sin(\pi y) \, f(y) \, e^{-z^2} dz}{\int f(y) \, e^{-z^2} dz}, \qquad
            y = x - \sqrt{4 \nu t} \, z, \qquad f(y) = e^{-\cos(\pi y) / (2 \pi \nu)}

        With 100 nodes of the Gauss-Hermite quadrature in float64, more nodes change less than 1e-14.
        """
        nodes, weights = map(torch.from_numpy, np.polynomial.hermite.hermgauss(100))
        t, x = points.unsqueeze(2).unbind(1)
        y = x - (4 * self.viscosity * t).sqrt() * nodes
        density = (weights.log() - torch.cos(pi * y) / (2 * pi * self.viscosity)).softmax(1)
        return -(density * torch.sin(pi * y)).sum(1)


def gradient(values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate values [N], each by the two coordinates of its own point of [N, 2], with a graph."""
    (derivatives,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    first, second = derivatives.unbind(1)
    return first, second
