"""A variational autoencoder of handwritten digits: two losses that pull against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .digits import digits
from .problem import Losses, Metric, Problem, Split

LATENT = 8
SAMPLES = 16  # of the latent of each held-out image


class VAE(Problem):
    r"""A variational autoencoder reconstructs digits from a latent that is held near a standard normal distribution.

    The negative evidence lower bound of Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014, is the sum of
    the two losses, in nats an image:

    .. math::

        -\text{ELBO} = \underbrace{\mathbb{E}_{q(z \mid x)} [-\log p(x \mid z)]}_{\text{reconstruction}}
        + \underbrace{\text{KL}(q(z \mid x) \,\|\, p(z))}_{\text{kl}}

    with :math:`q` a normal distribution with a diagonal covariance, and :math:`p(x \mid z)` a Bernoulli distribution
    for each of the 64 pixels, which are in 0..1. Held-out images are evaluated with 16 fixed samples of the latent
    each; ``reconstruction`` and ``KL`` show how ``-ELBO`` divides between the two.

    Note:
        - Equal weights train on the very metric. Others train a :math:`\beta`-VAE, with :math:`\beta` the weight of
          ``kl`` over that of ``reconstruction``.
        - ``kl`` is near 0 at the start and must rise: a latent that says nothing about the image has none. A weighting
          that holds a loss at its smallest value so far, such as Art, is known to suffer from it.
        - What is left of ``reconstruction`` at its best is the entropy of the pixels, far from 0.
    """

    tasks = ("reconstruction", "kl")
    metrics: Mapping[str, Metric] = {
        "-ELBO": Metric(higher=False),
        "reconstruction": Metric(higher=False),
        "KL": Metric(higher=False),
    }
    steps = 2000
    batch = 64

    def __init__(self) -> None:
        self.images = {split: of.images.flatten(1) for split, of in digits().items()}
        self.epoch = len(self.images["training"]) // self.batch

    def network(self) -> Autoencoder:
        """Construct the autoencoder."""
        return Autoencoder()

    def losses(self, network: Autoencoder, seed: int, step: int) -> Losses:
        """Draw images and compute the two terms of the negative ELBO."""
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        images = self.images["training"]
        images = images[torch.randint(len(images), (self.batch,), generator=generator)]
        return dict(zip(self.tasks, terms(network, images, samples=1, generator=generator), strict=True))

    @torch.inference_mode()
    def evaluate(self, network: Autoencoder, split: Split) -> dict[str, float]:
        """Compute the negative ELBO of the images of a split."""
        generator = Generator().manual_seed(0)
        reconstruction, kl = (term.item() for term in terms(network, self.images[split], SAMPLES, generator))
        return {"-ELBO": reconstruction + kl, "reconstruction": reconstruction, "KL": kl}

    def shared(self, network: Autoencoder) -> list[nn.Parameter]:
        """Return the parameters of the last layer of the encoder."""
        return [*network.encoder[-1].parameters()]

    def data(self) -> Iterable[Tensor]:
        """Return the images."""
        return self.images.values()


class Autoencoder(nn.Module):
    """An encoder to the mean and the logarithm of the variance of the latent, and a decoder to logits of the pixels."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, hidden), nn.ReLU(), nn.Linear(hidden, 64))


def terms(network: Autoencoder, images: Tensor, samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    r"""Compute the two terms of the negative ELBO, averaged over images [N, 64].

    With :math:`z = \mu + \sigma \epsilon` and :math:`\hat x` the decoded pixels,

    .. math::

        -\log p(x \mid z) = -\sum_{\text{pixels}} x \log \hat x + (1 - x) \log (1 - \hat x), \qquad
        \text{KL} = \tfrac{1}{2} \sum_{\text{latent}} \mu^2 + \sigma^2 - 1 - \log \sigma^2

    Args:
        network: The autoencoder.
        images: Pixels in 0..1.
        samples: How many :math:`\epsilon` to average over for each image.
        generator: Draws them.
    """
    noise = torch.randn(samples, len(images), LATENT, generator=generator)
    device = next(network.parameters()).device
    images, noise = images.to(device), noise.to(device)
    mean, log_variance = network.encoder(images).chunk(2, dim=1)
    logits = network.decoder(mean + (log_variance / 2).exp() * noise)
    nll = F.binary_cross_entropy_with_logits(logits, images.expand_as(logits), reduction="none").sum(-1)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return nll.mean(), kl.mean()
