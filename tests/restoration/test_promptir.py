"""PromptIR's prompts, its two versions, and how it takes and holds its tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.restoration import models
from benchmarks.restoration.models.padding import pad_to_multiple
from benchmarks.restoration.models.promptir import ChannelAttention, Prompt


def test_the_copy_without_the_dead_parameters_computes_the_same():
    original, copy = models.create("promptir", "tiny").eval(), models.create("promptir-mioir", "tiny").eval()
    missing, unexpected = copy.load_state_dict(original.state_dict(), strict=False)
    assert not missing
    assert len(unexpected) == 6
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(copy(x), original(x))


@pytest.mark.parametrize("size", [(13, 26), (9, 3), (8, 17)])
def test_an_image_is_padded_to_a_multiple_of_eight_and_cropped(size):
    network = models.create("promptir-mioir", "tiny").eval()
    x = torch.rand(1, 3, *size)
    height, width = size
    torch.testing.assert_close(network(x), network(pad_to_multiple(x, 8))[..., :height, :width])


def test_attention_compares_the_channels_of_a_head_by_their_cosine():
    heads = 2
    module = ChannelAttention(8, heads)
    nn.init.uniform_(module.temperature, 0.5, 4)
    x = torch.rand(3, 8, 4, 6)
    query, key, value = module.qkv_dwconv(module.qkv(x)).chunk(3, 1)
    mixed = [
        F.scaled_dot_product_attention(
            F.normalize(query[:, part].flatten(2), dim=2),
            F.normalize(key[:, part].flatten(2), dim=2),
            value[:, part].flatten(2),
            scale=module.temperature[head].item(),
        ).unflatten(2, (4, 6))
        for head, part in enumerate((slice(0, 4), slice(4, 8)))
    ]
    torch.testing.assert_close(module(x), module.project_out(torch.cat(mixed, 1)))


def test_a_prompt_is_a_mean_of_the_learned_ones_by_what_the_features_say():
    module = Prompt(width=6, channels=4, side=8)
    x = torch.rand(2, 6, 5, 7)
    assert not torch.allclose(*module(x))
    with torch.no_grad():
        # The features of the second image choose the third prompt.
        module.linear_layer.weight.zero_()
        module.linear_layer.weight[2] = 1000
    x[0] = 0
    first, second = module(x)
    learned = module.conv3x3(F.interpolate(module.prompt_param[0], (5, 7), mode="bilinear"))
    with torch.no_grad():
        shares = module.linear_layer.bias.softmax(0)
    torch.testing.assert_close(first, (shares[:, None, None, None] * learned).sum(0))
    torch.testing.assert_close(second, learned[2])


def test_channels_last_reaches_every_kernel_and_keeps_the_shape_of_the_prompts():
    network = models.create("promptir-mioir", "tiny")
    network(torch.rand(1, 3, 16, 16)).mean().backward()
    shapes = [p.shape for p in network.parameters()]
    network.to(memory_format=torch.channels_last)
    assert [p.shape for p in network.parameters()] == shapes
    assert [p.grad.shape for p in network.parameters()] == shapes
    assert network.prompt1.prompt_param[0].is_contiguous(memory_format=torch.channels_last)
    assert network.output.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_starts_as_the_official_code():
    torch.manual_seed(0)
    network = models.create("promptir", "tiny")
    for module in network.modules():
        if isinstance(module, Prompt):
            assert module.prompt_param.min() >= 0
            assert module.prompt_param.max() < 1
            assert module.prompt_param.mean().item() == pytest.approx(0.5, abs=0.05)
        elif isinstance(module, ChannelAttention):
            assert (module.temperature == 1).all()
        elif isinstance(module, nn.Conv2d):
            assert module.bias is None
            bound = module.weight[0].numel() ** -0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound


def test_names_and_sizes_are_those_of_the_official_checkpoints():
    with torch.device("meta"):
        state = models.create("promptir").state_dict()
    for name, shape in {
        "patch_embed.proj.weight": (48, 3, 3, 3),
        "prompt3.prompt_param": (1, 5, 320, 16, 16),
        "prompt2.linear_layer.bias": (5,),
        "prompt1.conv3x3.weight": (64, 64, 3, 3),
        "chnl_reduce3.weight": (256, 320, 1, 1),
        "reduce_noise_channel_3.weight": (192, 448, 1, 1),
        "encoder_level1.3.norm1.body.weight": (48,),
        "encoder_level2.5.attn.temperature": (2, 1, 1),
        "encoder_level3.0.attn.qkv_dwconv.weight": (576, 1, 3, 3),
        "down3_4.body.0.weight": (96, 192, 3, 3),
        "latent.7.ffn.project_in.weight": (2042, 384, 1, 1),
        "noise_level3.attn.project_out.weight": (704, 704, 1, 1),
        "reduce_noise_level2.weight": (192, 320, 1, 1),
        "up4_3.body.0.weight": (384, 192, 3, 3),
        "reduce_chan_level3.weight": (192, 288, 1, 1),
        "refinement.3.ffn.dwconv.weight": (510, 1, 3, 3),
        "output.weight": (3, 96, 3, 3),
    }.items():
        assert state[name].shape == shape, name
