"""Problems of digits: what is held out, overlaid digits, and the two terms of the ELBO."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from benchmarks.problems.digits import digits
from benchmarks.problems.multidigits import MultiDigits, overlay
from benchmarks.problems.vae import Autoencoder, terms


def test_every_image_is_in_one_split():
    parts = digits()
    assert {split: len(of.labels) for split, of in parts.items()} == {"validation": 359, "test": 359, "training": 1079}
    images = {split: {tuple(image.flatten().tolist()) for image in of.images} for split, of in parts.items()}
    assert sum(map(len, images.values())) == len(set.union(*images.values()))
    for of in parts.values():
        assert of.images.min() == 0
        assert of.images.max() == 1
        assert {*of.labels.tolist()} == {*range(10)}


def test_digits_overlap_in_the_middle_of_a_canvas():
    left, right = torch.rand(2, 3, 8, 8)
    canvas = overlay(left, right)
    assert torch.equal(canvas[:, :4], nn.functional.pad(left[:, :4], (0, 4)))
    assert torch.equal(canvas[:, 4:8, 4:8], torch.maximum(left[:, 4:, 4:], right[:, :4, :4]))
    assert torch.equal(canvas[:, 8:], nn.functional.pad(right[:, 4:], (4, 0)))


class Fixed(nn.Module):
    """Gives the same outputs for every image."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.ParameterList([torch.as_tensor(of, dtype=torch.float32) for of in outputs])

    def forward(self, images):
        return [of.expand(len(images), -1) for of in self.outputs]


def test_losses_and_accuracies_of_constant_readers():
    problem = MultiDigits(unequal=True)
    reader = Fixed([0.0] * 3 + [5.0] + [0.0] * 6, [4.4])
    of = problem.digits["test"].labels
    scores = problem.evaluate(reader, "test")
    assert scores["left accuracy"] == pytest.approx((of == 3).float().mean().item())
    assert scores["right accuracy"] == pytest.approx((of == 4).float().mean().item())
    assert scores["accuracy"] == pytest.approx((scores["left accuracy"] + scores["right accuracy"]) / 2)
    silent = [problem.losses(Fixed([0.0] * 10, [0.0]), 0, step) for step in range(50)]
    assert torch.stack([of["left"] for of in silent]).mean().item() == pytest.approx(2.303, abs=0.001)
    assert torch.stack([of["right"] for of in silent]).mean().item() == pytest.approx(28.5, rel=0.05)


def test_the_terms_of_the_elbo():
    network, images = Autoencoder(), torch.rand(5, 64, generator=torch.Generator().manual_seed(1)).round()
    generator = torch.Generator().manual_seed(2)
    reconstruction, kl = terms(network, images, 3, generator)
    mean, log_variance = network.encoder(images).chunk(2, 1)
    posterior = Normal(mean, (log_variance / 2).exp())
    noise = torch.randn(3, 5, mean.shape[1], generator=torch.Generator().manual_seed(2))
    likelihood = Bernoulli(logits=network.decoder(mean + posterior.scale * noise))
    torch.testing.assert_close(reconstruction, -likelihood.log_prob(images.expand(3, 5, 64)).sum(-1).mean())
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(kl, kl_divergence(posterior, prior).sum(1).mean())
