"""Clusters, their labels, and a potential whose forces are those of its energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from torch import Tensor

from benchmarks.problems.forces import ATOMS, ELEMENTS, Clusters, Forces, Potential, predict

STEP = 1e-5
AXES = [(0, 0), (0, 1), (1, 2), (2, 2)]


@pytest.fixture(scope="module")
def clusters() -> Clusters:
    chosen = Forces().clusters["test"].select(torch.arange(3))
    return Clusters(*(of.double() if of.is_floating_point() else of for of in vars(chosen).values()))


@pytest.fixture
def potential() -> Potential:
    return Potential(1.0).double()


def strained(positions: Tensor, axes: tuple[int, int], step: float) -> Tensor:
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[axes] += step / 2
    strain[axes[::-1]] += step / 2
    return positions @ (torch.eye(3, dtype=torch.float64) + strain)


@pytest.mark.parametrize("axes", AXES)
def test_labels_are_derivatives_of_the_energy(clusters, axes):
    def energy(positions: Tensor) -> float:
        symbols = [ELEMENTS[index] for index in clusters.species[0]]
        return Atoms(symbols, positions=positions.numpy(), calculator=EMT()).get_potential_energy() / ATOMS

    positions = clusters.positions[0]
    assert energy(positions) == pytest.approx(clusters.energy[0].item(), rel=1e-5)
    virial = (energy(strained(positions, axes, STEP)) - energy(strained(positions, axes, -STEP))) / (2 * STEP)
    assert virial == pytest.approx(clusters.virial[0][axes].item(), abs=1e-4)


def test_labels_have_no_net_force_and_symmetric_virials():
    for of in Forces().clusters.values():
        assert of.forces.sum(1).abs().max() < 1e-4
        torch.testing.assert_close(of.virial, of.virial.mT)


def test_no_cluster_is_in_two_splits_and_no_atoms_are_too_near():
    positions = torch.cat([of.positions for of in Forces().clusters.values()])
    distances = torch.cdist(positions, positions) + 10 * torch.eye(ATOMS)
    assert distances.min() > 2.19
    assert len({tuple(of.flatten().tolist()) for of in positions}) == len(positions)


@pytest.mark.parametrize("axes", AXES)
def test_predictions_are_derivatives_of_the_energy(potential, clusters, axes):
    predicted = predict(potential, clusters, create_graph=False)

    def energy(positions: Tensor) -> float:
        return potential(positions[None], clusters.species[:1]).item()

    atom, axis = axes
    moved = torch.zeros(ATOMS, 3, dtype=torch.float64)
    moved[atom, axis] = STEP
    positions = clusters.positions[0]
    force = -(energy(positions + moved) - energy(positions - moved)) / (2 * STEP) * ATOMS
    assert force == pytest.approx(predicted["forces"][0, atom, axis].item(), abs=1e-8)
    virial = (energy(strained(positions, axes, STEP)) - energy(strained(positions, axes, -STEP))) / (2 * STEP)
    assert virial == pytest.approx(predicted["virial"][0][axes].item(), abs=1e-8)


def test_the_energy_does_not_know_of_rotations_translations_and_the_order_of_atoms(potential, clusters):
    energies = potential(clusters.positions, clusters.species)
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    order = torch.randperm(ATOMS, generator=torch.Generator().manual_seed(0))
    moved = clusters.positions @ rotation + torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(potential(moved[:, order], clusters.species[:, order]), energies)
    others = 1 - clusters.species
    assert not torch.allclose(potential(clusters.positions, others), energies)


def test_losses_of_derivatives_train_the_network():
    problem = Forces()
    network = problem.network()
    gradients = []
    for task in problem.tasks:
        network.zero_grad()
        problem.losses(network, 0, 0)[task].backward()
        gradients.append(network.density.weight.grad.clone())
        assert gradients[-1].any()
    assert not torch.allclose(gradients[0], gradients[1])


def test_a_prediction_of_the_mean_energy_has_an_error_of_one():
    problem = Forces()
    network = Potential(problem.clusters["test"].energy.mean().item())
    torch.nn.init.zeros_(network.energy[-1].weight)
    torch.nn.init.zeros_(network.energy[-1].bias)
    assert problem.evaluate(network, "test")["energy RMSE"] == pytest.approx(1, rel=0.01)
