"""The pose and face branches of Wan-Animate against their formulas, and what a step does not repeat."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pasdedeux.models.wan import AnimateConditions, AnimateConfig, WanAnimateTransformer
from pasdedeux.models.wan.animate import FaceBlock
from pasdedeux.models.wan.motion import Blur, Directions, EqualConv2d, EqualLinear, FaceEncoder, MotionEncoder

TINY = AnimateConfig(
    dim=48,
    ffn_dim=96,
    heads=2,
    layers=4,
    text_dim=20,
    freq_dim=32,
    image_dim=12,
    motion_channels=(4, 6, 8),
    motion_style=10,
    motion_dim=5,
    face_dim=8,
    face_heads=2,
    face_every=2,
)
GRID = (4, 8, 12)
FRAME = 24  # tokens of one latent frame


def model(config: AnimateConfig = TINY) -> WanAnimateTransformer:
    torch.manual_seed(0)
    net = WanAnimateTransformer(config).eval()
    torch.nn.init.normal_(net.face_encoder.padding_tokens)
    return net


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int = 1, size: int = 16) -> dict[str, Tensor]:
    return {
        "text": noise(batch, 7, 20, seed=2),
        "image": noise(batch, 5, 12, seed=3),
        "pose": noise(batch, 16, 3, 8, 12, seed=4),
        "face": noise(batch, 3, 9, size, size, seed=5).clamp(-1, 1),
    }


def prepared(net: WanAnimateTransformer, **changes: Tensor) -> AnimateConditions:
    with torch.no_grad():
        return net.prepare(**(inputs() | changes), grid=GRID)


def test_equalised_layers_scale_by_their_fan_in() -> None:
    conv, linear, x = EqualConv2d(3, 4, 3, padding=1), EqualLinear(5, 2), noise(1, 3, 6, 6)
    assert torch.allclose(conv(x), F.conv2d(x, conv.weight / 27**0.5, padding=1), atol=1e-6)
    torch.nn.init.normal_(linear.bias)
    assert torch.allclose(linear(x[0, 0, :, :5]), x[0, 0, :, :5] @ linear.weight.T / 5**0.5 + linear.bias, atol=1e-6)


def test_blur_keeps_a_constant_and_halves_after_its_convolution() -> None:
    blur = Blur(3)
    taps = torch.tensor([1, 3, 3, 1]) / 8
    assert torch.allclose(blur.kernel, taps[:, None] * taps)
    assert torch.allclose(blur(torch.ones(1, 2, 8, 8))[:, :, 2:-2, 2:-2], torch.ones(1))
    assert EqualConv2d(2, 2, 3, stride=2)(blur(noise(1, 2, 8, 8))).shape == (1, 2, 4, 4)
    assert EqualConv2d(2, 2, 1, stride=2)(Blur(1)(noise(1, 2, 8, 8))).shape == (1, 2, 4, 4)


def test_motion_is_a_sum_of_orthonormal_directions_found_in_float32() -> None:
    torch.manual_seed(0)
    directions = Directions(10, 5)
    q = directions(torch.eye(5))
    assert torch.allclose(q @ q.T, torch.eye(5), atol=1e-6)
    weight = directions.direction.weight.T
    assert torch.allclose(weight @ q.T @ q, weight, atol=1e-5)  # they span the same space
    narrow = directions.to(torch.bfloat16)
    assert narrow(torch.eye(5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_crops_are_encoded_one_by_one_whatever_the_batch() -> None:
    torch.manual_seed(0)
    encoder = MotionEncoder(TINY, crops_at_once=4)
    face = inputs(batch=2)["face"]
    got = encoder(face)
    alone = encoder(face[1:, :, 6:7])
    assert got.shape == (2, 9, 10)
    assert torch.allclose(got[1, 6], alone[0, 0], atol=1e-5)


def test_face_encoder_never_looks_ahead() -> None:
    torch.manual_seed(0)
    encoder = FaceEncoder(replace(TINY, motion_style=10))
    torch.nn.init.normal_(encoder.padding_tokens)
    motion = noise(1, 77, 10)
    later = motion.clone()
    later[:, 41:] = 0  # token 10 belongs to pixel frames 37..40
    got, changed = encoder(motion), encoder(later)
    assert got.shape == (1, 20, 3, 48)
    assert torch.equal(got[:, :11], changed[:, :11])
    assert not torch.allclose(got[:, 11, :2], changed[:, 11, :2])
    assert torch.equal(got[0, 5, 2], encoder.padding_tokens[0, 0, 0])


def test_face_block_by_its_formula() -> None:
    torch.manual_seed(0)
    block = FaceBlock(TINY)
    for norm in (block.q_norm, block.k_norm):
        torch.nn.init.normal_(norm.weight)
    x, face = noise(2, 4 * FRAME, 48), noise(2, 4, 3, 48, seed=6)
    with torch.no_grad():
        got = block(x.clone(), block.key_value(face))
        for sample, frame in ((0, 0), (1, 3)):
            rows = slice(frame * FRAME, (frame + 1) * FRAME)
            want = x[sample, rows] + face_attention(block, x[sample, rows], face[sample, frame])
            assert torch.allclose(got[sample, rows], want, atol=1e-5)


def face_attention(block: FaceBlock, x: Tensor, face: Tensor) -> Tensor:
    """One frame: x [S, D], face [n, D]; norms without weights, RMS norms of each head, softmax over n."""
    q = block.linear1_q(F.layer_norm(x, (48,), eps=1e-6)).unflatten(-1, (2, 24))
    k, v = block.linear1_kv(F.layer_norm(face, (48,), eps=1e-6)).view(-1, 2, 2, 24).unbind(1)
    q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.q_norm.weight
    k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.k_norm.weight
    weights = torch.einsum("shc,nhc->hsn", q, k).div(24**0.5).softmax(-1)
    return block.linear2(torch.einsum("hsn,nhc->shc", weights, v).flatten(1))


def test_reference_slot_gets_no_pose_and_a_zero_face() -> None:
    net = model()
    cond = prepared(net)
    other = prepared(net, face=-inputs()["face"])
    assert cond.pose.shape == (1, 3 * FRAME, 48)
    assert cond.faces[0].k.shape == (4, 2, 3, 24)  # frames, heads, tokens, head width
    zero = net.face_adapter.key_values(torch.zeros(1, 1, 3, 48))[0]
    assert torch.equal(cond.faces[0].v[0], zero.v[0])
    assert torch.equal(cond.faces[0].k[0], other.faces[0].k[0])
    assert not torch.allclose(cond.faces[0].k[1], other.faces[0].k[1])


def test_pose_is_added_to_the_tokens_of_later_frames() -> None:
    net = model()
    seen: list[Tensor] = []
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    cond, x = prepared(net), noise(1, 36, *GRID)
    with torch.no_grad():
        net(x, torch.tensor([500.0]), cond)
        plain = net.patch_embedding(x)
    assert torch.equal(seen[0][:, :FRAME], plain[:, :FRAME])
    assert torch.allclose(seen[0][:, FRAME:], plain[:, FRAME:] + cond.pose)


def test_face_blocks_follow_every_second_block_of_this_model() -> None:
    net = model()
    order: list[str] = []
    rooms = {"block": net.blocks, "face": net.face_adapter.fuser_blocks}
    for name, module in ((f"{room} {i}", m) for room, modules in rooms.items() for i, m in enumerate(modules)):
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        net(noise(1, 36, *GRID), torch.tensor([500.0]), prepared(net))
    assert order == ["block 0", "face 0", "block 1", "block 2", "face 1", "block 3"]


def flops(net: WanAnimateTransformer, crops: dict[str, Tensor]) -> tuple[int, int]:
    """Of the preparation, and of one step once every block has had its first turn."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU is not counted
        with FlopCounterMode(display=False) as once:
            cond = net.prepare(**crops, grid=GRID)
        net(noise(1, 36, *GRID), torch.tensor([500.0]), cond)
        with FlopCounterMode(display=False) as step:
            net(noise(1, 36, *GRID), torch.tensor([500.0]), cond)
    return once.get_total_flops(), step.get_total_flops()


def test_a_step_costs_the_same_whatever_the_motion_encoder() -> None:
    small = flops(model(), inputs())
    large = flops(model(replace(TINY, motion_channels=(16, 24, 24, 32), face_dim=64)), inputs(size=32))
    assert large[0] > 4 * small[0]
    assert large[1] == small[1] == step_flops()


def step_flops() -> int:
    """Two per multiplication; as for the plain transformer; a face block adds 2 D^2 and 3 face tokens."""
    tokens, d = 4 * FRAME, 48
    block = tokens * (6 * d * d + 2 * d * 96 + 2 * d * (tokens + 512 + 5))
    face = tokens * (2 * d * d + 2 * d * 3)
    ends = tokens * d * 4 * (36 + 16)
    return 2 * (4 * block + 2 * face + ends + 32 * d + 7 * d * d)


def test_training_reaches_every_parameter() -> None:
    net = model()
    cond = net.prepare(**inputs(batch=2), grid=GRID)
    net(noise(2, 36, *GRID), torch.tensor([500.0, 30.0]), cond).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_gradients_do_not_change_the_result() -> None:
    net, x, t = model(), noise(1, 36, *GRID), torch.tensor([500.0])
    cond = prepared(net)
    with torch.no_grad():
        want = net(x, t, cond)
    assert torch.allclose(net(x, t, cond), want, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": torch.zeros(1, 16, 4, 8, 12)}, r"pose latents have shape \(16, 4, 8, 12\)"),
        ({"face": torch.zeros(1, 3, 9, 8, 8)}, r"they must be \[B, 3, T, 16, 16\]"),
        ({"face": torch.zeros(1, 3, 13, 16, 16)}, "there are 13 face crops; 4 latent frames need 9"),
    ],
)
def test_preparation_says_what_does_not_fit(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(model(), **change)
