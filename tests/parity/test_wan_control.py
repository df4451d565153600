"""WanControlTransformer against its double over WanTransformer3DModel of diffusers: same random weights, float32."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.models.wan import ControlConfig

GRID = (3, 8, 12)
FRAME, TOKENS = 4 * 6, 3 * 4 * 6
SIZES: dict[str, Any] = {"dim": 48, "ffn_dim": 96, "heads": 2, "layers": 3, "text_dim": 20, "freq_dim": 32}
CONFIGS = {
    "Wan 2.2": ControlConfig(**SIZES),
    "Wan 2.1, with CLIP": ControlConfig(**SIZES, in_dim=48, image_dim=12),
    "no reference": ControlConfig(**SIZES, ref_dim=None),
}


@torch.no_grad()
def assert_same_velocity(tiny: Any, config: ControlConfig, t: Tensor, *, given: bool = True) -> None:
    """For the same inputs, with a reference that is given, or zeros to theirs and none to ours."""
    ours, theirs = tiny.transformers(config, seed=1)
    x, text = tiny.random(2, config.in_dim, *GRID, seed=91), tiny.random(2, 7, config.text_dim, seed=92)
    image = tiny.random(2, 5, config.image_dim, seed=93) if config.image_dim else None
    reference = None
    if config.ref_dim is not None:
        reference = tiny.random(2, config.ref_dim, *GRID[1:], seed=94) * given
    cond = ours.prepare(text=text, grid=GRID, reference=reference if given else None, image=image)
    got = ours(x, t, cond)
    assert torch.equal(ours(x, t, cond), got)  # a second step from the same preparation
    tiny.assert_close(got, theirs(x, t, tiny.padded(text), reference, image))


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity(tiny: Any, name: str) -> None:
    assert_same_velocity(tiny, CONFIGS[name], torch.tensor([991.0, 37.0]))


def test_without_a_reference_its_latents_are_zeros(tiny: Any) -> None:
    assert_same_velocity(tiny, CONFIGS["Wan 2.2"], torch.tensor([991.0, 37.0]), given=False)


def test_velocity_with_a_timestep_per_token(tiny: Any) -> None:
    """The reference then has the timestep of the last token."""
    t = torch.tensor([991.0, 37.0])[:, None].repeat(1, TOKENS)
    t[:, :FRAME] = 0
    assert_same_velocity(tiny, CONFIGS["Wan 2.2"], t)
