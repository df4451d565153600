"""WanAnimateTransformer against WanAnimateTransformer3DModel of diffusers: same random weights, float32."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pasdedeux.models.wan import AnimateConfig, WanAnimateTransformer

reference = pytest.importorskip("diffusers.models.transformers.transformer_wan_animate")

TOLERANCE = 1e-4  # of the largest number in the reference
GRID = (4, 8, 12)
CONFIG = AnimateConfig(
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
RENAMES = [
    (r"^time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"^img_emb\.proj\.0", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4", "condition_embedder.image_embedder.norm2"),
    (r"^head\.head", "proj_out"),
    (r"modulation$", "scale_shift_table"),
    (r"^head\.scale_shift_table", "scale_shift_table"),
    (
        r"\.norm3\.",
        ".norm2.",
    ),  # the reference's norm3 stands before the cross-attention, where diffusers has norm2
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(attn[12])\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attn[12])\.o\.", r"\1.to_out.0."),
    (r"(attn2)\.(k|v)_img\.", r"\1.add_\2_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"^face_adapter\.fuser_blocks", "face_adapter"),
    (r"\.linear1_q\.", ".to_q."),
    (r"\.linear2\.", ".to_out."),
    (r"\.q_norm\.", ".norm_q."),
    (r"\.k_norm\.", ".norm_k."),
    (r"^(face_encoder\.conv\w+)\.conv\.", r"\1."),
    (r"^motion_encoder\.dec\.direction\.weight", "motion_encoder.motion_synthesis_weight"),
    (r"^motion_encoder\.enc\.fc\.", "motion_encoder.motion_network."),
    (r"^motion_encoder\.enc\.net_app\.convs\.", "motion_encoder.convs."),
    (r"convs\.0\.0\.", "conv_in."),
    (r"convs\.0\.1\.", "conv_in.act_fn."),
    (r"convs\.3\.weight", "conv_out.weight"),  # the last of this configuration
    (r"convs\.(\d)\.", lambda match: f"res_blocks.{int(match[1]) - 1}."),
    (r"conv1\.0\.", "conv1."),
    (r"conv1\.1\.", "conv1.act_fn."),
    (r"conv2\.1\.", "conv2."),
    (r"conv2\.2\.", "conv2.act_fn."),
    (r"skip\.1\.", "conv_skip."),
]


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Native to diffusers: renamed, keys and values of the face blocks apart, blur kernels left out."""
    result = {}
    for native, value in state.items():
        name = native
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if "linear1_kv" in name:
            result[name.replace("linear1_kv", "to_k")], result[name.replace("linear1_kv", "to_v")] = value.chunk(2)
        elif not name.endswith(".kernel"):
            result[name] = value.flatten() if "act_fn" in name else value
    return result


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomize(model: nn.Module) -> None:
    """Every parameter random; the equalised ones of unit scale, as they are meant to be."""
    for i, (name, parameter) in enumerate(model.named_parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 and "motion" not in name else 1
        parameter.data = noise(*parameter.shape, seed=i) / fan_in**0.5


def pair(config: AnimateConfig) -> tuple[WanAnimateTransformer, Any]:
    """Ours and theirs, with the same weights."""
    ours = WanAnimateTransformer(config)
    randomize(ours)
    channels = {str(config.face_size >> i): width for i, width in enumerate(config.motion_channels)}
    theirs = reference.WanAnimateTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        image_dim=config.image_dim,
        added_kv_proj_dim=config.dim,
        motion_encoder_channel_sizes=channels,
        motion_encoder_size=config.face_size,
        motion_style_dim=config.motion_style,
        motion_dim=config.motion_dim,
        motion_encoder_dim=config.motion_style,
        face_encoder_hidden_dim=config.face_dim,
        face_encoder_num_heads=config.face_heads,
        inject_face_latents_blocks=config.face_every,
    )
    theirs.load_state_dict(converted(ours.state_dict()))
    return ours, theirs.eval()


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


def test_motion_encoder() -> None:
    ours, theirs = pair(CONFIG)
    face = noise(1, 3, 9, 16, 16, seed=94).clamp(-1, 1)
    with torch.no_grad():
        assert_close(ours.motion_encoder(face)[0], theirs.motion_encoder(face[0].transpose(0, 1)))


def test_face_encoder() -> None:
    ours, theirs = pair(CONFIG)
    motion = noise(2, 77, 10, seed=95)
    with torch.no_grad():
        assert_close(ours.face_encoder(motion), theirs.face_encoder(motion))


def test_velocity() -> None:
    ours, theirs = pair(CONFIG)
    text, image = noise(2, 7, 20, seed=92), noise(2, 5, 12, seed=93)
    padded = torch.cat((text, torch.zeros(2, 505, 20)), dim=1)  # zeros that are attended to
    pose, face = noise(2, 16, 3, 8, 12, seed=96), noise(2, 3, 9, 16, 16, seed=94).clamp(-1, 1)
    x, t = noise(2, 36, *GRID, seed=91), torch.tensor([991.0, 37.0])
    with torch.no_grad():
        cond = ours.prepare(text=text, image=image, pose=pose, face=face, grid=GRID)
        want = theirs(x, t, padded, image, pose, face, return_dict=False)[0]
        assert_close(ours(x, t, cond), want)
        assert_close(ours(x, t, cond), want)  # a second step from the same preparation
