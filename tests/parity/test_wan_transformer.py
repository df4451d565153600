"""WanTransformer against WanTransformer3DModel of diffusers, with the same random weights, float32."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pasdedeux.models.wan import WanConfig, WanTransformer

reference = pytest.importorskip("diffusers.models.transformers.transformer_wan")

TOLERANCE = 1e-4  # of the largest number in the reference
GRID = (3, 8, 12)
CONFIGS = {
    "text": WanConfig(dim=48, ffn_dim=96, heads=2, layers=3, text_dim=20, freq_dim=32),
    "image": WanConfig(dim=72, ffn_dim=80, heads=3, layers=2, in_dim=36, text_dim=20, freq_dim=32),
    "image and CLIP": WanConfig(
        dim=72, ffn_dim=80, heads=3, layers=2, in_dim=36, text_dim=20, freq_dim=32, image_dim=12
    ),
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
]


def renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomize(model: nn.Module) -> None:
    """Every parameter random, so that no zero or one of the initialisation hides a mistake."""
    for i, parameter in enumerate(model.parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        parameter.data = noise(*parameter.shape, seed=i) / fan_in**0.5


def pair(config: WanConfig) -> tuple[WanTransformer, Any]:
    """Ours and theirs, with the same weights."""
    ours = WanTransformer(config)
    randomize(ours)
    theirs = reference.WanTransformer3DModel(
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
    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    return ours, theirs.eval()


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


def velocities(config: WanConfig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Ours and theirs for the same inputs; theirs takes text already padded to 512 tokens."""
    ours, theirs = pair(config)
    x, text = noise(2, config.in_dim, *GRID, seed=91), noise(2, 7, config.text_dim, seed=92)
    image = noise(2, 5, config.image_dim, seed=93) if config.image_dim else None
    padded = torch.cat((text, torch.zeros(2, 505, config.text_dim)), dim=1)
    with torch.no_grad():
        got = ours(x, t, ours.prepare(text=text, image=image, grid=GRID))
        want = theirs(x, t, padded, encoder_hidden_states_image=image, return_dict=False)[0]
    return got, want


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity(name: str) -> None:
    assert_close(*velocities(CONFIGS[name], torch.tensor([991.0, 37.0])))


def test_velocity_with_a_timestep_per_token() -> None:
    """As the 5B image-to-video: the tokens of the first frame are clean."""
    t = torch.tensor([991.0, 37.0])[:, None].repeat(1, 72)
    t[:, :24] = 0
    assert_close(*velocities(CONFIGS["text"], t))


class SplitBehindTheImage:
    """Cross-attention of diffusers with the image told by its own number of tokens, by the formula.

    Theirs takes the last 512 tokens for the text whatever there are, so with a shorter text it attends to the wrong
    ones as text, or to none.
    """

    def __init__(self, image_tokens: int) -> None:
        self.image_tokens = image_tokens

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Tensor, attention_mask: None, rotary_emb: None
    ) -> Tensor:
        image, text = encoder_hidden_states.tensor_split([self.image_tokens], dim=1)
        q = attn.norm_q(attn.to_q(x))
        of_text = self.attention(attn, q, attn.norm_k(attn.to_k(text)), attn.to_v(text))
        of_image = self.attention(attn, q, attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image))
        return attn.to_out[0](of_text + of_image)

    @staticmethod
    def attention(attn: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)


def test_a_shorter_text_beside_an_image() -> None:
    """Where diffusers is wrong: equal to it once its split is mended, and not before."""
    config = replace(CONFIGS["image and CLIP"], text_len=30)
    ours, theirs = pair(config)
    x, t, image = noise(1, 36, *GRID, seed=91), torch.tensor([991.0]), noise(1, 5, 12, seed=93)
    text = noise(1, 30, 20, seed=92)
    with torch.no_grad():
        got = ours(x, t, ours.prepare(text=text, image=image, grid=GRID))
        wrong = theirs(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0]
        for block in theirs.blocks:
            block.attn2.processor = SplitBehindTheImage(5)
        assert_close(got, theirs(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0])
    assert not torch.allclose(got, wrong, atol=0.01)


def test_timesteps_are_exact_under_bfloat16_weights() -> None:
    """The modular pipelines of diffusers round t to bfloat16, 937 to 936: we do not."""
    ours, theirs = pair(CONFIGS["text"])
    ours = ours.to(torch.bfloat16)
    embedder = theirs.condition_embedder
    for parameter in embedder.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    exact, rounded = torch.tensor([937.0]), torch.tensor([937.0]).to(torch.bfloat16).float()
    with torch.no_grad():
        got = ours.embed_time(exact, 72).embedding
        assert_close(got, embedder.time_embedder(embedder.timesteps_proj(exact)))
        assert rounded.item() == 936
        assert not torch.allclose(got, embedder.time_embedder(embedder.timesteps_proj(rounded)), atol=0.01)


def test_gradients() -> None:
    ours, theirs = pair(CONFIGS["image and CLIP"])
    x, t, image = noise(1, 36, *GRID), torch.tensor([500.0]), noise(1, 5, 12, seed=93)
    text = noise(1, 512, 20, seed=92)
    ours(x, t, ours.prepare(text=text, image=image, grid=GRID)).square().mean().backward()
    theirs(x, t, text, encoder_hidden_states_image=image).sample.square().mean().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        want = wanted[renamed(name)].grad
        assert parameter.grad is not None
        assert want is not None
        assert (parameter.grad - want).abs().max() <= 1e-3 * want.abs().max() + 1e-7, name
