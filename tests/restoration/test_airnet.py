"""AirNet's contrast in training: its logits, its queue, its momentum encoder, on one process and on two."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.restoration import models
from benchmarks.restoration.models.airnet import AirNet, GuidedDeformableConv, MomentumContrast

from ..distributed.processes import in_two_processes

BATCH, QUEUE = 5, 12


def tiny() -> AirNet:
    torch.manual_seed(0)
    return AirNet(width=8, groups=1, blocks=1, queue=QUEUE)


def contrast_of(network: AirNet) -> MomentumContrast:
    return network.E["E"]


def images(seed: int = 0, number: int = BATCH) -> Tensor:
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def keys_of(network: AirNet) -> list[Tensor]:
    """Return a list which receives the normalised keys of each forward."""
    keys: list[Tensor] = []
    contrast_of(network).encoder_k.register_forward_hook(
        lambda _module, _inputs, outputs: keys.append(F.normalize(outputs[1]))
    )
    return keys


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def test_forward_restores_contrasts_or_does_both():
    network = tiny()
    x, key = images(), images(1)
    restored, logits = network(x, key)
    assert restored.shape == x.shape
    assert logits.shape == (BATCH, 1 + QUEUE)

    network.eval()
    restored, logits = network(x, key)
    assert torch.equal(restored, network(x))
    assert torch.equal(logits, network(x, key, restore=False))
    with pytest.raises(ValueError, match="restore is False and key is None"):
        network(x, restore=False)


def test_logits_are_cosines_with_the_own_key_and_with_the_queue():
    network = tiny()
    contrast = contrast_of(network)
    queue = contrast.queue.clone()
    x, key = images(), images(1)
    logits = network(x, key, restore=False)
    (_, query), (_, own) = contrast.encoder_q(x), contrast.encoder_q(key)
    torch.testing.assert_close(logits[:, 0], F.cosine_similarity(query, own) / 0.07)
    torch.testing.assert_close(logits[:, 1:], F.cosine_similarity(query[:, None], queue.T[None], dim=2) / 0.07)


def test_logits_keep_full_precision_under_autocast():
    network = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images(), images(1), restore=False)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, network(images(), images(1), restore=False), rtol=0.05, atol=0.2)


@pytest.mark.parametrize("batch", [BATCH, 4, 17])
def test_the_queue_keeps_the_last_keys_and_wraps_around(batch):
    network = tiny()
    contrast = contrast_of(network)
    keys = keys_of(network)
    places: list[Tensor | None] = [None] * QUEUE
    pointer = 0
    for step in range(4):
        network(images(step, batch), images(100 + step, batch), restore=False)
        for key in keys[-1]:
            places[pointer] = key
            pointer = (pointer + 1) % QUEUE
        if batch > QUEUE:
            latest = torch.cat(keys)[-QUEUE:]
            assert {tuple(key.tolist()) for key in contrast.queue.T} == {tuple(key.tolist()) for key in latest}
            continue
        assert contrast.queue_ptr.tolist() == [pointer]
        for place, key in enumerate(places):
            assert key is None or torch.equal(contrast.queue[:, place], key)
    assert None not in places


def test_the_key_encoder_is_the_moving_average_of_the_query_encoder():
    network = tiny().double()
    contrast = contrast_of(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    for key, query in zip(contrast.encoder_k.parameters(), contrast.encoder_q.parameters(), strict=True):
        assert torch.equal(key, query)
    for step in range(3):
        before = copy.deepcopy(contrast.encoder_k)
        cross_entropy(network(images(step).double(), images(100 + step).double(), restore=False)).backward()
        parameters = [list(encoder.parameters()) for encoder in (before, contrast.encoder_k, contrast.encoder_q)]
        for old, new, query in zip(*parameters, strict=True):
            torch.testing.assert_close(new, 0.999 * old + 0.001 * query)
            assert step == 0 or not torch.equal(new, old)
        optimizer.step()
    assert not any(p.requires_grad for p in contrast.encoder_k.parameters())
    assert all(p.grad.any() for p in contrast.encoder_q.parameters())


def test_evaluation_moves_nothing():
    network = tiny().eval()
    with torch.no_grad():
        for parameter in contrast_of(network).encoder_q.parameters():
            parameter.add_(1)
    before = copy.deepcopy(network.state_dict())
    network(images(), images(1))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_with_keys_trains_every_parameter_but_the_key_encoders():
    network = tiny()
    restored, logits = network(images(), images(1))
    (restored.square().mean() + cross_entropy(logits)).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in network.named_parameters() if name.startswith("E.E.encoder_k.")}


def test_the_contrast_learns_to_tell_degradations_apart():
    torch.manual_seed(0)
    network = models.create("airnet", "tiny")
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)

    def loss() -> Tensor:
        level, colour = torch.rand(8, 1, 1, 1), torch.rand(8, 3, 1, 1)
        crops = (colour + level * torch.randn(8, 3, 16, 16) for _ in range(2))
        return cross_entropy(network(*crops, restore=False))

    for _ in range(8):
        loss()
    untrained = [loss().item() for _ in range(8)]
    trained = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        trained.append(value.item())
    assert sum(trained[-8:]) < 0.8 * sum(untrained)


def test_training_resumes_exactly_from_the_state_dict():
    def train(network: AirNet, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            restored, logits = network(images(step), images(100 + step))
            (restored.abs().mean() + 0.1 * cross_entropy(logits)).backward()
            optimizer.step()

    network = tiny()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    train(network, optimizer, range(3))
    network_state, optimizer_state = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    assert {"E.E.queue", "E.E.queue_ptr"} < network_state.keys()
    train(network, optimizer, range(3, 6))

    torch.manual_seed(1)
    resumed = AirNet(width=8, groups=1, blocks=1, queue=QUEUE)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), lr=1e-3)
    resumed.load_state_dict(network_state)
    resumed_optimizer.load_state_dict(optimizer_state)
    train(resumed, resumed_optimizer, range(3, 6))
    for (name, expected), value in zip(network.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_a_training_step_reads_no_number_back_from_the_device():
    network = tiny()
    with FakeTensorMode(allow_non_fake_inputs=True):
        restored, logits = network(torch.rand(BATCH, 3, 16, 16), torch.rand(BATCH, 3, 16, 16))
        (restored.mean() + logits.mean()).backward()


def test_it_starts_as_the_official_code():
    network = models.create("airnet", "tiny")
    deformable = [module for module in network.modules() if isinstance(module, GuidedDeformableConv)]
    assert len(deformable) == 4
    for module in deformable:
        assert not module.conv_offset_mask.weight.any()
        assert not module.conv_offset_mask.bias.any()
        bound = module.weight[0].numel() ** -0.5
        assert 0.95 * bound < module.weight.abs().max() <= bound
    contrast = contrast_of(network)
    torch.testing.assert_close(contrast.queue.norm(dim=0), torch.ones(64))
    assert contrast.queue_ptr.tolist() == [0]


def test_untrained_offsets_leave_half_a_convolution():
    module = GuidedDeformableConv(4)
    x, guide = torch.rand(2, 4, 6, 5), torch.rand(2, 4, 6, 5)
    torch.testing.assert_close(module(x, guide), 0.5 * F.conv2d(x, module.weight, padding=1))


def test_names_and_sizes_are_those_of_the_official_checkpoints():
    with torch.device("meta"):
        state = models.create("airnet").state_dict()
    for name, shape in {
        "R.head.0.weight": (64, 3, 3, 3),
        "R.body.4.body.4.dgm2.dcn.weight": (64, 64, 3, 3),
        "R.body.0.body.0.dgm1.dcn.conv_offset_mask.bias": (27,),
        "R.body.0.body.0.dgm1.sft.conv_gamma.2.weight": (64, 64, 1, 1),
        "R.body.0.body.0.conv2.bias": (64,),
        "R.body.0.body.5.weight": (64, 64, 3, 3),
        "R.body.5.weight": (64, 64, 3, 3),
        "R.tail.0.bias": (3,),
        "E.E.encoder_q.E_pre.backbone.4.running_var": (64,),
        "E.E.encoder_k.E.1.shortcut.0.weight": (256, 128, 1, 1),
        "E.E.encoder_k.mlp.2.bias": (256,),
        "E.E.queue": (256, 1280),
        "E.E.queue_ptr": (1,),
    }.items():
        assert state[name].shape == shape, name


def two_ranks(rank: int, mesh: DeviceMesh, folder: str) -> None:
    network = tiny()
    keys = keys_of(network)
    parallel = DistributedDataParallel(network, find_unused_parameters=True)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)

    logits = parallel(images(rank), images(100 + rank), restore=False)
    cross_entropy(logits).backward()
    optimizer.step()

    optimizer.zero_grad()
    restored, logits = parallel(images(10 + rank), images(110 + rank))
    (restored.abs().mean() + cross_entropy(logits)).backward()
    optimizer.step()
    torch.save({"keys": keys, "network": network.state_dict()}, f"{folder}/{rank}.pt")


def test_the_keys_of_all_ranks_enter_the_queue_of_each(tmp_path: Path):
    in_two_processes(two_ranks, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("E.E.queue", "E.E.queue_ptr", *(name for name, _ in tiny().named_parameters())):
        assert torch.equal(first["network"][name], second["network"][name]), name
    entered = torch.cat([key for step in zip(first["keys"], second["keys"], strict=True) for key in step])
    assert len(entered) == 4 * BATCH
    assert first["network"]["E.E.queue_ptr"].tolist() == [4 * BATCH % QUEUE]
    expected = entered[-QUEUE:].roll(4 * BATCH % QUEUE, 0)
    assert torch.equal(first["network"]["E.E.queue"], expected.T)
