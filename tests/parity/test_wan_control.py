"""WanControlTransformer against WanTransformer3DModel of diffusers, which knows no reference picture.

Theirs is therefore run on one latent frame more, and its patch embedding is replaced by one that makes the tokens of
that frame from the reference: by the formulas, that is all a reference is. Same random weights, float32.
"""

import logging
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pasdedeux.models.wan import ControlConfig, WanControlTransformer

reference_model = pytest.importorskip("diffusers.models.transformers.transformer_wan")

LOG = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows how close it is
TOLERANCE = 1e-4  # absolute; velocities here are of unit scale
GRID = (3, 8, 12)
FRAME, TOKENS = 4 * 6, 3 * 4 * 6
SIZES = {"dim": 48, "ffn_dim": 96, "heads": 2, "layers": 3, "text_dim": 20, "freq_dim": 32}
CONFIGS = {
    "Wan 2.2": ControlConfig(**SIZES),
    "Wan 2.1, with CLIP": ControlConfig(**SIZES, in_dim=48, image_dim=12),
    "no reference": ControlConfig(**SIZES, ref_dim=None),
}
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
    (r"\.norm3\.", ".norm2."),  # the affine norm before the cross-attention
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(attn[12])\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attn[12])\.o\.", r"\1.to_out.0."),
    (r"(attn2)\.(k|v)_img\.", r"\1.add_\2_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
]


def renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class WithReference(nn.Module):
    """The patch embedding of the frames behind the first, which is made of the reference."""

    def __init__(self, video: nn.Module, weights: dict[str, Tensor], latents: Tensor) -> None:
        super().__init__()
        self.video, self.weights, self.latents = video, weights, latents

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weights["ref_conv.weight"], self.weights["ref_conv.bias"]
        first = F.conv2d(self.latents, weight, bias, stride=2)
        return torch.cat((first[:, :, None], self.video(x[:, :, 1:])), dim=2)


def pair(config: ControlConfig) -> tuple[WanControlTransformer, Any]:
    """Ours and theirs, with the same weights, none of them at its initialisation."""
    ours = WanControlTransformer(config)
    for i, parameter in enumerate(ours.parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        parameter.data = noise(*parameter.shape, seed=i) / fan_in**0.5
    theirs = reference_model.WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        image_dim=config.image_dim,
        added_kv_proj_dim=config.dim if config.image_dim else None,
    )
    state = {renamed(name): value for name, value in ours.state_dict().items() if not name.startswith("ref_conv")}
    theirs.load_state_dict(state)
    return ours, theirs.eval()


def velocities(config: ControlConfig, t: Tensor, given: bool = True) -> tuple[Tensor, Tensor]:
    """Ours and theirs for the same inputs, with a reference that is given or zeros."""
    ours, theirs = pair(config)
    x, text = noise(2, config.in_dim, *GRID, seed=91), noise(2, 7, config.text_dim, seed=92)
    image = noise(2, 5, config.image_dim, seed=93) if config.image_dim else None
    latents = noise(2, 16, *GRID[1:], seed=94) if given else torch.zeros(2, 16, *GRID[1:])
    padded = torch.cat((text, torch.zeros(2, 505, config.text_dim)), dim=1)
    theirs_x, theirs_t, extra = x, t, 0
    if config.ref_dim is not None:
        theirs.patch_embedding = WithReference(theirs.patch_embedding, ours.state_dict(), latents)
        theirs_x, extra = torch.cat((torch.zeros_like(x[:, :, :1]), x), dim=2), 1
        theirs_t = t if t.ndim == 1 else torch.cat((t[:, -1:].expand(2, FRAME), t), dim=1)
    reference = latents if given and config.ref_dim else None
    with torch.no_grad():
        cond = ours.prepare(text=text, grid=GRID, reference=reference, image=image)
        got = ours(x, t, cond)
        assert torch.equal(ours(x, t, cond), got)  # a second step from the same preparation
        want = theirs(theirs_x, theirs_t, padded, encoder_hidden_states_image=image, return_dict=False)[0]
    return got, want[:, :, extra:]


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert want.std() > 0.1
    difference = (got - want).abs().max()
    LOG.info("largest difference %.1e of %.1f", difference, want.abs().max())
    assert difference < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity(name: str) -> None:
    assert_close(*velocities(CONFIGS[name], torch.tensor([991.0, 37.0])))


def test_without_a_reference_its_latents_are_zeros() -> None:
    assert_close(*velocities(CONFIGS["Wan 2.2"], torch.tensor([991.0, 37.0]), given=False))


def test_velocity_with_a_timestep_per_token() -> None:
    """The reference then has the timestep of the last token."""
    t = torch.tensor([991.0, 37.0])[:, None].repeat(1, TOKENS)
    t[:, :FRAME] = 0
    assert_close(*velocities(CONFIGS["Wan 2.2"], t))
