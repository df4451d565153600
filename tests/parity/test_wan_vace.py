"""WanVaceTransformer against WanVACETransformer3DModel of diffusers, with the same random weights, float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.models.wan import WAN_MODELS, VaceConfig, WanVaceTransformer

Shapes = dict[str, tuple[int, ...]]
GRID = (3, 8, 12)
TOKENS = 3 * 4 * 6
CONFIG = VaceConfig(dim=48, ffn_dim=96, heads=2, layers=5, text_dim=20, freq_dim=32, vace_dim=12, vace_layers=(0, 2, 3))


@pytest.fixture
def pair(tiny: Any) -> tuple[Any, Any]:
    """Ours and theirs, with the same weights."""
    return tiny.transformers(CONFIG, seed=1)


def theirs_of(
    tiny: Any, theirs: Any, x: Tensor, t: Tensor, text: Tensor, control: Tensor, scales: Tensor | None = None
) -> Tensor:
    text = tiny.padded(text)
    return theirs(x, t, text, control_hidden_states=control, control_hidden_states_scale=scales, return_dict=False)[0]


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, (0.5, 0.0, 1.5)], ids=["one scale", "a scale each"])
def test_velocity(tiny: Any, pair: tuple[Any, Any], scale: float | tuple[float, ...]) -> None:
    ours, theirs = pair
    x, t, text = tiny.random(2, 16, *GRID, seed=91), torch.tensor([991.0, 37.0]), tiny.random(2, 7, 20, seed=92)
    control, scales = tiny.random(2, 12, *GRID, seed=93), None if scale == 1 else torch.tensor(scale)
    cond = ours.prepare(text=text, control=control, grid=GRID, scale=scale)
    want = theirs_of(tiny, theirs, x, t, text, control, scales)
    tiny.assert_close(ours(x, t, cond), want)
    tiny.assert_close(ours(x, t, cond), want)  # a second step from the same preparation


@torch.no_grad()
def test_velocity_with_a_timestep_per_token(tiny: Any, pair: tuple[Any, Any]) -> None:
    """Diffusers' VACE takes one timestep per sample: here all tokens of a sample share theirs."""
    ours, theirs = pair
    x, t, text = tiny.random(2, 16, *GRID, seed=91), torch.tensor([991.0, 37.0]), tiny.random(2, 7, 20, seed=92)
    control = tiny.random(2, 12, *GRID, seed=93)
    got = ours(x, t[:, None].expand(2, TOKENS), ours.prepare(text=text, control=control, grid=GRID))
    tiny.assert_close(got, theirs_of(tiny, theirs, x, t, text, control))


def test_gradients(tiny: Any, pair: tuple[Any, Any]) -> None:
    ours, theirs = (model.requires_grad_() for model in pair)
    x, t, text = tiny.random(1, 16, *GRID, seed=1), torch.tensor([500.0]), tiny.random(1, 7, 20, seed=92)
    control = tiny.random(1, 12, *GRID, seed=93)
    ours(x, t, ours.prepare(text=text, control=control, grid=GRID)).square().mean().backward()
    theirs_of(tiny, theirs, x, t, text, control).square().mean().backward()
    tiny.assert_same_gradients(ours, theirs)


def test_names_and_shapes_are_those_of_the_released_checkpoint(tiny: Any, listed: Callable[[str], Shapes]) -> None:
    config = WAN_MODELS["wan2.2-vace-fun-a14b"]
    assert isinstance(config, VaceConfig)
    with torch.device("meta"):
        state = WanVaceTransformer(config).state_dict()
    found = {name: tuple(value.shape) for name, value in tiny.their_weights(config, state).items()}
    assert found == listed("wan-vace-14b.diffusers")
