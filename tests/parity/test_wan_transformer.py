"""WanTransformer against WanTransformer3DModel of diffusers, with the same random weights, float32."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.models.wan import WanConfig

GRID = (3, 8, 12)
CONFIGS = {
    "text": WanConfig(dim=48, ffn_dim=96, heads=2, layers=3, text_dim=20, freq_dim=32),
    "image": WanConfig(dim=72, ffn_dim=80, heads=3, layers=2, in_dim=36, text_dim=20, freq_dim=32),
    "image and CLIP": WanConfig(
        dim=72, ffn_dim=80, heads=3, layers=2, in_dim=36, text_dim=20, freq_dim=32, image_dim=12
    ),
}


@torch.no_grad()
def assert_same_velocity(tiny: Any, config: WanConfig, t: Tensor) -> None:
    """For the same inputs."""
    ours, theirs = tiny.transformers(config, seed=1)
    x, text = tiny.random(2, config.in_dim, *GRID, seed=91), tiny.random(2, 7, config.text_dim, seed=92)
    image = tiny.random(2, 5, config.image_dim, seed=93) if config.image_dim else None
    want = theirs(x, t, tiny.padded(text), encoder_hidden_states_image=image, return_dict=False)[0]
    tiny.assert_close(ours(x, t, ours.prepare(text=text, image=image, grid=GRID)), want)


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity(tiny: Any, name: str) -> None:
    assert_same_velocity(tiny, CONFIGS[name], torch.tensor([991.0, 37.0]))


def test_velocity_with_a_timestep_per_token(tiny: Any) -> None:
    """As the 5B image-to-video: the tokens of the first frame are clean."""
    t = torch.tensor([991.0, 37.0])[:, None].repeat(1, 72)
    t[:, :24] = 0
    assert_same_velocity(tiny, CONFIGS["text"], t)


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


def test_a_shorter_text_beside_an_image(tiny: Any) -> None:
    """Where diffusers is wrong: equal to it once its split is mended, and not before."""
    config = replace(CONFIGS["image and CLIP"], text_len=30)
    ours, theirs = tiny.transformers(config, seed=1)
    x, t, image = tiny.random(1, 36, *GRID, seed=91), torch.tensor([991.0]), tiny.random(1, 5, 12, seed=93)
    text = tiny.random(1, 30, 20, seed=92)
    with torch.no_grad():
        got = ours(x, t, ours.prepare(text=text, image=image, grid=GRID))
        wrong = theirs(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0]
        for block in theirs.blocks:
            block.attn2.processor = SplitBehindTheImage(5)
        tiny.assert_close(got, theirs(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0])
    assert not torch.allclose(got, wrong, atol=0.01)


def test_timesteps_are_exact_under_bfloat16_weights(tiny: Any) -> None:
    """The modular pipelines of diffusers round t to bfloat16, 937 to 936: we do not."""
    ours, theirs = tiny.transformers(CONFIGS["text"], seed=1)
    ours = ours.to(torch.bfloat16)
    embedder = theirs.condition_embedder
    for parameter in embedder.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    exact, rounded = torch.tensor([937.0]), torch.tensor([937.0]).to(torch.bfloat16).float()
    with torch.no_grad():
        got = ours.embed_time(exact, 72).embedding
        tiny.assert_close(got, embedder.time_embedder(embedder.timesteps_proj(exact)))
        assert rounded.item() == 936
        assert not torch.allclose(got, embedder.time_embedder(embedder.timesteps_proj(rounded)), atol=0.01)


def test_gradients(tiny: Any) -> None:
    ours, theirs = (model.requires_grad_() for model in tiny.transformers(CONFIGS["image and CLIP"], seed=1))
    x, t, image = tiny.random(1, 36, *GRID, seed=1), torch.tensor([500.0]), tiny.random(1, 5, 12, seed=93)
    text = tiny.random(1, 512, 20, seed=92)
    ours(x, t, ours.prepare(text=text, image=image, grid=GRID)).square().mean().backward()
    theirs(x, t, text, encoder_hidden_states_image=image).sample.square().mean().backward()
    tiny.assert_same_gradients(ours, theirs)
