"""Energies, forces and stresses of metal clusters: losses of very different units, with derivatives within."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from torch import Generator, Tensor, nn

from .problem import Losses, Metric, Problem, Split

ELEMENTS = ("Cu", "Au")
ATOMS = 8
CUTOFF = 6.0  # angstrom
RADII = 16  # Gaussians from 1.5 angstrom to the cutoff
SIZES = {"training": 256, "validation": 128, "test": 128}


class Forces(Problem):
    r"""A potential of copper-gold clusters is learned from energies, forces and virials.

    A network predicts the energy :math:`E` of a cluster as the sum of the energies of its atoms, each from its element
    and the distances to its neighbours; the forces are :math:`F = -\partial E / \partial x`, and the virial, the
    stress of a cluster times its volume, is :math:`V = -\tfrac{1}{2} \sum_i (x_i F_i^\top + F_i x_i^\top)`. The labels
    come from the effective medium theory of Jacobsen, Stoltze and Norskov, A semi-empirical effective medium theory
    for metals and alloys, Surface Science 366(2), 1996, as ASE has it. The losses are mean squares: of energies an
    atom, in eV; of the components of forces, in eV an angstrom; and of virials an atom, in eV.

    The metrics are root mean squares of the same errors over those of the mean label, and ``relative RMSE`` is the mean
    of the three: 1 is a network that predicts the mean.
    """

    tasks = ("energy", "forces", "virial")
    metrics: Mapping[str, Metric] = {
        "relative RMSE": Metric(higher=False),
        "energy RMSE": Metric(higher=False, task="energy"),
        "forces RMSE": Metric(higher=False, task="forces"),
        "virial RMSE": Metric(higher=False, task="virial"),
    }
    steps = 1000
    batch = 16
    learning_rate = 3e-3

    def __init__(self) -> None:
        self.clusters = clusters()
        self.epoch = SIZES["training"] // self.batch

    def network(self) -> Potential:
        """Construct the potential; its constant term is the mean energy of the training clusters."""
        return Potential(self.clusters["training"].energy.mean().item())

    def losses(self, network: Potential, seed: int, step: int) -> Losses:
        """Draw clusters and compute the mean squares of their errors."""
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(SIZES["training"], (self.batch,), generator=generator)
        batch = self.clusters["training"].select(chosen).to(next(network.parameters()).device)
        predicted = predict(network, batch, create_graph=True)
        return {task: (predicted[task] - label).square().mean() for task, label in batch.labels().items()}

    def evaluate(self, network: Potential, split: Split) -> dict[str, float]:
        """Compute the root mean squares over the clusters of a split."""
        held_out = self.clusters[split].to(next(network.parameters()).device)
        predicted = predict(network, held_out, create_graph=False)
        errors = {
            f"{task} RMSE": (
                (predicted[task] - label).square().mean().sqrt() / label.std(0).square().mean().sqrt()
            ).item()
            for task, label in held_out.labels().items()
        }
        return {"relative RMSE": sum(errors.values()) / len(errors)} | errors

    def shared(self, network: Potential) -> list[nn.Parameter]:
        """Return the parameters of the last layer, from which all three follow."""
        return [*network.energy[-1].parameters()]

    def data(self) -> Iterable[Tensor]:
        """Return the clusters with their labels, which are ASE's."""
        return [tensor for of in self.clusters.values() for tensor in (of.positions, of.species, *of.labels().values())]


@dataclass(frozen=True)
class Clusters:
    """N clusters of A atoms.

    Attributes:
        positions: [N, A, 3] in angstrom.
        species: [N, A], indices of :data:`ELEMENTS`.
        energy: [N], an atom, in eV.
        forces: [N, A, 3] in eV an angstrom.
        virial: [N, 3, 3], an atom, in eV.
    """

    positions: Tensor
    species: Tensor
    energy: Tensor
    forces: Tensor
    virial: Tensor

    def select(self, indices: Tensor) -> Clusters:
        """Return some of them."""
        return Clusters(*(tensor[indices] for tensor in vars(self).values()))

    def to(self, device: torch.device) -> Clusters:
        """Return them on a device."""
        return Clusters(*(tensor.to(device) for tensor in vars(self).values()))

    def labels(self) -> dict[str, Tensor]:
        """Return what is predicted, by task."""
        return {"energy": self.energy, "forces": self.forces, "virial": self.virial}


@cache
def clusters() -> dict[str, Clusters]:
    """Make the clusters to train, validate and test on: atoms thrown into a ball, none nearer than 2.2 angstrom."""
    generator = np.random.default_rng(0)
    return {split: _made(generator, number) for split, number in SIZES.items()}


def _made(generator: np.random.Generator, number: int) -> Clusters:
    made = [_cluster(generator) for _ in range(number)]
    positions, species = (torch.from_numpy(np.stack(of)) for of in zip(*made, strict=True))
    labels = [_labels(*of) for of in made]
    energies, forces = (torch.from_numpy(np.stack(of)) for of in zip(*labels, strict=True))
    tensors = positions, energies / ATOMS, forces, virials(positions, forces)
    positions, energy, forces, virial = (tensor.float() for tensor in tensors)
    return Clusters(positions, species, energy, forces, virial)


def _cluster(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Throw atoms until they lie near the others, but none too near."""
    placed = np.zeros((1, 3))
    while len(placed) < ATOMS:
        candidate = generator.uniform(-3.5, 3.5, 3)
        nearest = np.linalg.norm(placed - candidate, axis=1).min()
        if 2.2 < nearest < 3.2:
            placed = np.vstack([placed, candidate])
    return placed - placed.mean(0), generator.integers(len(ELEMENTS), size=ATOMS)


def _labels(positions: np.ndarray, species: np.ndarray) -> tuple[float, np.ndarray]:
    atoms = Atoms([ELEMENTS[element] for element in species], positions=positions, calculator=EMT())
    return atoms.get_potential_energy(), atoms.get_forces()


def virials(positions: Tensor, forces: Tensor) -> Tensor:
    """Return the virials an atom [N, 3, 3] of clusters whose forces sum to 0."""
    product = positions.mT @ forces
    return -(product + product.mT) / 2 / positions.shape[1]


def predict(network: Potential, clusters: Clusters, create_graph: bool) -> dict[str, Tensor]:
    """Predict energies, forces and virials; with a graph of the forces where they are trained."""
    positions = clusters.positions.clone().requires_grad_()
    energies = network(positions, clusters.species)
    (gradient,) = torch.autograd.grad(energies.sum() * ATOMS, positions, create_graph=create_graph)
    return {"energy": energies, "forces": -gradient, "virial": virials(positions, -gradient)}


class Potential(nn.Module):
    """The energy of an atom from the density of each element around it, in Gaussians of the distance.

    Args:
        constant: The energy an atom where nothing has been learned.
    """

    def __init__(self, constant: float = 0.0, hidden: int = 64) -> None:
        super().__init__()
        self.constant = constant
        self.register_buffer("centres", torch.linspace(1.5, CUTOFF, RADII))
        self.element = nn.Embedding(len(ELEMENTS), hidden)
        self.density = nn.Linear(RADII * len(ELEMENTS), hidden)
        self.energy = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, positions: Tensor, species: Tensor) -> Tensor:
        """Return the energies an atom [N] of clusters at [N, A, 3]."""
        distances = _distances(positions)
        envelope = 0.5 * (1 + torch.cos(torch.pi * (distances / CUTOFF).clamp(max=1)))
        envelope = envelope * (1 - torch.eye(ATOMS, device=positions.device))
        width = (CUTOFF - 1.5) / RADII
        radial = torch.exp(-((distances[..., None] - self.centres) / width).square() / 2) * envelope[..., None]
        densities = torch.einsum("nijr,nje->nire", radial, nn.functional.one_hot(species, len(ELEMENTS)).to(radial))
        atoms: Tensor = self.energy(self.density(densities.flatten(2)) + self.element(species))
        return self.constant + atoms.squeeze(2).mean(1)


def _distances(positions: Tensor) -> Tensor:
    """Return the distances [N, A, A]; those of atoms to themselves are 1, so that they have a derivative."""
    difference = positions.unsqueeze(1) - positions.unsqueeze(2)
    own = torch.eye(positions.shape[1], device=positions.device)
    return (difference.square().sum(3) + own).sqrt()
