"""The networks equal the official ones, and take any image in any of the ways in which a network is run."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.restoration import models
from benchmarks.restoration.models.drop_path import DropPath
from benchmarks.restoration.models.padding import pad_to_multiple
from benchmarks.restoration.models.uformer import Block

NAMES = models.available()
# One name for each class, for what the variants of a network have in common.
CLASSES = tuple({type(models.create(name, "tiny")): name for name in reversed(NAMES)}.values())
# What the official networks compute; its "how" says from what.
REFERENCE = json.loads((Path(__file__).parent / "networks.json").read_text())["networks"]

# The beginnings of the names of parameters that get no gradient from the restored image.
DEAD = {
    "airnet": ("E.E.encoder_k.", "E.E.encoder_q.E.", "E.E.encoder_q.mlp."),
    "promptir": ("chnl_reduce", "reduce_noise_channel_"),
    "transweather": ("unused",),
}
# The official TransWeather takes images in -1..1.
OFFICIAL_RANGE = {"transweather": (-1, 1), "transweather-art": (-1, 1)}


def fill(network: nn.Module, gain: float) -> None:
    """Set the parameters by the rule of networks.json."""
    for name, parameter in network.named_parameters():
        shape = tuple(parameter.shape)
        seed = zlib.crc32("x".join(map(str, shape)).encode())
        u = np.random.RandomState(seed).uniform(-1, 1, parameter.numel()).reshape(shape)
        if len(shape) > 1:
            value = u * gain * np.sqrt(3 * shape[0] / parameter.numel())
        else:
            value = 1 + 0.1 * u if name.endswith(".weight") else 0.1 * u
        parameter.data = torch.from_numpy(value)


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in NAMES if name in REFERENCE])
def test_a_network_equals_the_official_one(name):
    expected = REFERENCE[name]
    network = models.create(name).double().eval()
    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == expected["parameters"]
    assert sum(p.numel() for p in parameters if p.requires_grad) == expected["trainable"]
    assert len(parameters) == expected["tensors"]
    assert Counter("x".join(map(str, p.shape)) for p in parameters) == expected["shape_counts"]

    fill(network, expected["gain"])
    x = torch.from_numpy(np.random.RandomState(0).uniform(0, 1, (1, 3, expected["hw"], expected["hw"])))
    low, high = OFFICIAL_RANGE.get(name, (0, 1))
    output = network((x - low) / (high - low))
    loss = (output - 0.5).square().mean()
    loss.backward()
    flat = output.detach().flatten()
    gradients = [p.grad for p in parameters if p.grad is not None]
    computed = {
        "sample": [flat[int(i * (len(flat) - 1) // 15)].item() for i in range(16)],
        "mean": flat.mean().item(),
        "std": flat.std().item(),
        "loss": loss.item(),
        "grad_norm": torch.stack([gradient.norm() for gradient in gradients]).norm().item(),
        "no_grad_count": sum(p.numel() for p in parameters if p.grad is None),
    }
    for fact, value in computed.items():
        assert value == pytest.approx(expected[fact], rel=1e-8), fact


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(37, 53), (32, 32), (5, 7), (1, 9)])
def test_an_image_of_any_size_is_restored_at_its_size(name, size):
    x = random_images(2, 3, *size)
    with torch.no_grad():
        output = models.create(name, "tiny").eval()(x)
    assert output.shape == x.shape
    assert output.isfinite().all()


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_is_restored_alike_in_any_batch(name):
    network = models.create(name, "tiny").eval()
    x = random_images(3, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]))


@pytest.mark.parametrize("name", CLASSES)
def test_channels_last_equals_contiguous(name):
    network = models.create(name, "tiny").eval()
    x = random_images(2, 3, 32, 40)
    with torch.no_grad():
        expected = network(x)
        output = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("name", CLASSES)
def test_a_network_trains_under_autocast(name):
    network = models.create(name, "tiny").eval()
    x = random_images(2, 3, 32, 32)
    expected = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    output.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", CLASSES)
def test_a_network_is_one_graph(name):
    network = models.create(name, "tiny").eval()
    x = random_images(2, 3, 24, 40)
    output = torch.compile(network, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(output, network(x))


@pytest.mark.parametrize("name", CLASSES)
def test_a_tiny_network_learns(name):
    network = models.create(name, "tiny")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    clean = random_images(4, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    degraded = 0.5 * clean
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (network(degraded) - clean).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_but_the_dead_ones_gets_a_gradient(name):
    network = models.create(name, "tiny")
    network(random_images(2, 3, 32, 32)).square().mean().backward()
    without = {parameter for parameter, p in network.named_parameters() if p.grad is None}
    dead = {parameter for parameter, _ in network.named_parameters() if parameter.startswith(DEAD.get(name, ()))}
    assert without == dead


@pytest.mark.parametrize("name", NAMES)
def test_each_scale_is_larger_than_the_one_before(name):
    with torch.device("meta"):
        counts = [sum(p.numel() for p in models.create(name, scale).parameters()) for scale in models.SCALES]
    assert counts == sorted(set(counts))


def test_an_unknown_network_or_scale_is_refused():
    with pytest.raises(ValueError, match=r"model 'resnet' is not known; choose one of .*srresnet"):
        models.create("resnet")
    with pytest.raises(ValueError, match="scale 'large' is not known; choose one of tiny, small, paper"):
        models.create("srresnet", "large")


def test_srresnet_starts_from_a_tenth_of_kaiming():
    network = models.create("srresnet")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(0.1 * (2 / fan_in) ** 0.5, rel=0.1)
            assert not module.bias.any()


def test_uformer_b_is_as_large_as_the_official_one():
    with torch.device("meta"):
        network = models.create("uformer-b")
    assert sum(p.numel() for p in network.parameters()) == 50_880_946


def test_uformer_starts_from_a_truncated_normal():
    for module in models.create("uformer-t", "small").modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.2)
            assert not module.bias.any()


def test_transweather_starts_as_vision_transformers_do():
    network = models.create("transweather-art", "small")
    for module in [*network.encoder.modules(), *network.decoder.modules()]:
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel() / module.groups
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert not module.bias.any()


def test_a_shifted_window_does_not_see_across_the_border():
    block = Block(dim=4, heads=1, window=4, shift=2, drop_path=0.0, modulated=False)
    nn.init.normal_(block.attention.bias)
    nn.init.zeros_(block.feed_forward.reduce.weight)  # its convolution sees across windows
    x = torch.randn(1, 8, 12, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, 0, 5].sum(), x)
    seen = gradient[0].abs().sum(-1) > 1e-12
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:2, 2:6] = True  # the window of rows -2..1 and columns 2..5
    assert torch.equal(seen, expected)


def test_drop_path_drops_samples_in_training_and_keeps_the_mean():
    branch = torch.ones(10_000, 3, 2)
    drop_path = DropPath(0.2)
    dropped = drop_path(branch)
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert sorted(dropped.unique().tolist()) == [0, 1.25]
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop_path.eval()(branch), branch)


@pytest.mark.parametrize("name", ["transweather", "transweather-art", "uformer-b", "uformer-t"])
def test_branches_are_dropped_in_training_only(name):
    network = models.create(name, "tiny")
    x = random_images(8, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("size", [(8, 16), (9, 15), (3, 5), (5, 17), (17, 9)])
@pytest.mark.parametrize("minimum", [0, 24])
def test_padding_adds_the_least_that_gives_multiples(size, minimum):
    x = random_images(1, 3, *size)
    padded = pad_to_multiple(x, 8, minimum)
    assert padded.shape[-2:] == tuple(max(minimum, -(-side // 8) * 8) for side in size)
    assert torch.equal(padded[..., : size[0], : size[1]], x)


def test_padding_mirrors_a_large_image_and_repeats_the_border_of_a_small_one():
    large, small = random_images(1, 3, 13, 14), random_images(1, 3, 13, 3)
    assert torch.equal(pad_to_multiple(large, 8)[0, :, :13, 14:], large[0, :, :, [12, 11]])
    assert torch.equal(pad_to_multiple(small, 8)[0, :, :13, 3:], small[0, :, :, [2, 2, 2, 2, 2]])
