"""The Wan transformer against its formulas: positions, timesteps, text padding, and what a step omits."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pasdedeux.models.wan import WanConfig, WanTransformer
from pasdedeux.models.wan.layers import Contexts, PatchEmbedding, rope_table, rotate, timestep_features

TINY = WanConfig(dim=48, ffn_dim=96, heads=2, layers=3, text_dim=20, freq_dim=32)
GRID = (3, 8, 12)
TOKENS = 3 * 4 * 6


def model(config: WanConfig = TINY) -> WanTransformer:
    torch.manual_seed(0)
    return WanTransformer(config).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rope_of_one_token_by_hand() -> None:
    f, h, w = 2, 3, 1
    rope = rope_table((4, 5, 6), 128, torch.device("cpu"))
    token = (f * 5 + h) * 6 + w
    want = [f * 1e4 ** (-2 * i / 44) for i in range(22)]
    want += [p * 1e4 ** (-2 * i / 42) for p in (h, w) for i in range(21)]
    assert rope.cos.dtype == torch.float32
    assert rope.cos.shape == (120, 1, 64)
    assert torch.allclose(rope.cos[token, 0].double(), torch.tensor(want).double().cos(), atol=1e-7)
    assert torch.allclose(rope.sin[token, 0].double(), torch.tensor(want).double().sin(), atol=1e-7)


def test_rope_turns_neighbours_as_complex_numbers() -> None:
    rope = rope_table((3, 4, 6), 24, torch.device("cpu"))
    x = noise(1, TOKENS, 2, 24)
    want = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(rope.cos, rope.sin)
    assert torch.allclose(rotate(x, rope), torch.view_as_real(want).flatten(-2), atol=1e-6)


def test_timestep_features_are_exact_at_large_timesteps() -> None:
    got = timestep_features(torch.tensor([999.0, 0.5]), 256)[0].double()
    angles = [999.0 * 1e4 ** (-i / 128) for i in range(128)]
    want = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
    assert (got - want).abs().max() < 1e-7


def test_patch_embedding_is_the_convolution() -> None:
    torch.manual_seed(0)
    embed = PatchEmbedding(5, 16, (1, 2, 2))
    x = noise(2, 5, *GRID)
    want = torch.nn.functional.conv3d(x, embed.weight, embed.bias, stride=(1, 2, 2)).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(x), want, atol=1e-5)


def test_text_is_padded_with_zeros_that_are_attended_to() -> None:
    net, text = model(), noise(1, 7, 20)
    padded = torch.cat((text, torch.zeros(1, 505, 20)), dim=1)
    with torch.no_grad():
        cond = net.prepare(text=text, grid=GRID)
        same = net.prepare(text=padded, grid=GRID)
        x, t = noise(1, 16, *GRID), torch.tensor([500.0])
        few = Contexts(cond.contexts.words[:, :7])
        assert cond.contexts.of(net.blocks[0].cross_attn)[0].k.shape == (1, 2, 512, 24)
        assert torch.equal(net(x, t, cond), net(x, t, same))
        assert not torch.allclose(net(x, t, cond), net(x, t, replace(cond, contexts=few)), atol=1e-3)


def test_one_timestep_per_token_equals_one_per_sample() -> None:
    net = model()
    with torch.no_grad():
        cond = net.prepare(text=noise(2, 7, 20), grid=GRID)
        x, t = noise(2, 16, *GRID), torch.tensor([700.0, 100.0])
        per_token = t[:, None].expand(2, TOKENS)
        assert torch.allclose(net(x, t, cond), net(x, per_token, cond), atol=1e-5)
        first_frame_clean = per_token.clone()
        first_frame_clean[:, :24] = 0
        assert not torch.allclose(net(x, t, cond), net(x, first_frame_clean, cond), atol=1e-3)


def test_timesteps_are_embedded_once_per_level_in_float32() -> None:
    net = model().to(torch.bfloat16)
    scalar = net.embed_time(torch.tensor([500.0, 20.0]), TOKENS)
    per_token = net.embed_time(torch.tensor([[0.0] * 24 + [500.0] * 48]), TOKENS)
    assert scalar.projection.shape == per_token.projection.shape == (2, 6, 48)
    assert scalar.index.shape == (2, 1)
    assert torch.equal(scalar.projection[0], per_token.projection[1])
    wide = model().to(torch.bfloat16).float().embed_time(torch.tensor([500.0, 20.0]), TOKENS)
    assert torch.equal(scalar.projection, wide.projection)


def test_bfloat16_weights_give_a_float32_velocity_near_the_float32_one() -> None:
    x, t = noise(1, 16, *GRID), torch.tensor([500.0])
    text = noise(1, 7, 20)
    with torch.no_grad():
        narrow, wide = model().to(torch.bfloat16), model().to(torch.bfloat16).float()
        got = narrow(x, t, narrow.prepare(text=text, grid=GRID))
        want = wide(x, t, wide.prepare(text=text, grid=GRID))
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 0.05 * want.abs().max()


def test_forward_leaves_its_arguments_as_they_were() -> None:
    net = model()
    with torch.no_grad():
        cond = net.prepare(text=noise(1, 7, 20), grid=GRID)
        x, t = noise(1, 16, *GRID), torch.tensor([500.0])
        first = net(x, t, cond)
        assert torch.equal(x, noise(1, 16, *GRID))
        assert torch.equal(net(x, t, cond), first)


def test_training_reaches_every_parameter() -> None:
    net = model(replace(TINY, image_dim=12))
    cond = net.prepare(text=noise(1, 7, 20), image=noise(1, 5, 12), grid=GRID)
    net(noise(1, 16, *GRID), torch.tensor([500.0]), cond).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("image_dim", [None, 12])
def test_a_step_repeats_nothing_of_the_preparation(image_dim: int | None) -> None:
    net = model(replace(TINY, image_dim=image_dim))
    image = None if image_dim is None else noise(1, 5, image_dim)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU is not counted
        with FlopCounterMode(display=False) as once:
            cond = net.prepare(text=noise(1, 7, 20), image=image, grid=GRID)
            net(noise(1, 16, *GRID), torch.tensor([500.0]), cond)
        with FlopCounterMode(display=False) as step:
            net(noise(1, 16, *GRID), torch.tensor([500.0]), cond)
    # Blocks make their keys and values at their first turn.
    assert once.get_total_flops() == preparation_flops(net.config) + step_flops(net.config)
    assert step.get_total_flops() == step_flops(net.config)


def test_several_conditions_share_each_blocks_turn() -> None:
    net, turns = model(), []
    for i, block in enumerate(net.blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: turns.append(i))
    x, t = noise(1, 16, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        conds = [net.prepare(text=noise(1, 7, 20, seed=seed), grid=GRID) for seed in (1, 2, 3)]
        apart = [net(x, t, cond) for cond in conds]
        turns.clear()
        together = net.forward_each(x, t, conds)
    assert turns == [i for i in range(len(net.blocks)) for _ in conds]
    assert all(torch.equal(one, other) for one, other in zip(apart, together, strict=True))


def preparation_flops(c: WanConfig) -> int:
    """Two per multiplication: the text and image embeddings, and each block's keys and values of both."""
    text = 512 * (c.text_dim * c.dim + c.dim**2 + c.layers * 2 * c.dim**2)
    image = 5 * (12 * 12 + 12 * c.dim + c.layers * 2 * c.dim**2) if c.image_dim else 0
    return 2 * (text + image)


def step_flops(c: WanConfig) -> int:
    """Two per multiplication: patches, timestep, and for each block, per token, 6 D^2, the feed-forward
    and the two products of each attention.
    """
    context = 512 + (5 if c.image_dim else 0)
    block = TOKENS * (6 * c.dim**2 + 2 * c.dim * c.ffn_dim + 2 * c.dim * (TOKENS + context))
    ends = TOKENS * c.dim * 4 * (c.in_dim + c.out_dim)
    return 2 * (c.layers * block + ends + c.freq_dim * c.dim + c.dim**2 + 6 * c.dim**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": torch.zeros(1, 5)}, r"timesteps have shape \(1, 5\); they must be \[B\] or \[B, 72\]"),
        ({"x": torch.zeros(1, 16, 3, 8, 10)}, r"x has shape \(1, 16, 3, 8, 10\)"),
        ({"x": torch.zeros(1, 36, *GRID)}, r"x has shape \(1, 36, 3, 8, 12\)"),
    ],
)
def test_a_step_says_what_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    net = model()
    arguments = {"x": noise(1, 16, *GRID), "t": torch.tensor([500.0])} | change
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        net(**arguments, cond=net.prepare(text=noise(1, 7, 20), grid=GRID))


def test_preparation_says_what_does_not_fit() -> None:
    net = model()
    with pytest.raises(ValueError, match=r"latent size \(3, 7, 12\) must be a multiple"):
        net.prepare(text=noise(1, 7, 20), grid=(3, 7, 12))
    with pytest.raises(ValueError, match="text has 513 tokens of width 20"):
        net.prepare(text=noise(1, 513, 20), grid=GRID)
    with pytest.raises(ValueError, match="takes no image features; image is given"):
        net.prepare(text=noise(1, 7, 20), image=noise(1, 5, 12), grid=GRID)
    with pytest.raises(ValueError, match="needs image features; image is absent"):
        model(replace(TINY, image_dim=12)).prepare(text=noise(1, 7, 20), grid=GRID)
