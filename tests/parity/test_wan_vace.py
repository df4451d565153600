"""WanVaceTransformer against WanVACETransformer3DModel of diffusers, with the same random weights, float32."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pasdedeux.models.wan import WAN_MODELS, VaceConfig, WanVaceTransformer

reference = pytest.importorskip("diffusers.models.transformers.transformer_wan_vace")

STATE_DICTS = Path(__file__).parents[2] / "../shared/notes/state_dicts"
LOG = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows how close it is
TOLERANCE = 1e-4  # absolute; velocities here are of unit scale
GRID = (3, 8, 12)
TOKENS = 3 * 4 * 6
CONFIG = VaceConfig(dim=48, ffn_dim=96, heads=2, layers=5, text_dim=20, freq_dim=32, vace_dim=12, vace_layers=(0, 2, 3))
RENAMES = [
    (r"^time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"^head\.head", "proj_out"),
    (r"modulation$", "scale_shift_table"),
    (r"^head\.scale_shift_table", "scale_shift_table"),
    (r"\.norm3\.", ".norm2."),  # the affine norm before the cross-attention
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(attn[12])\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attn[12])\.o\.", r"\1.to_out.0."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"\.before_proj\.", ".proj_in."),
    (r"\.after_proj\.", ".proj_out."),
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


@pytest.fixture(scope="module")
def pair() -> tuple[WanVaceTransformer, Any]:
    """Ours and theirs, with the same weights."""
    ours = WanVaceTransformer(CONFIG)
    randomize(ours)
    theirs = reference.WanVACETransformer3DModel(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.head_dim,
        text_dim=CONFIG.text_dim,
        freq_dim=CONFIG.freq_dim,
        ffn_dim=CONFIG.ffn_dim,
        num_layers=CONFIG.layers,
        vace_layers=list(CONFIG.vace_layers),
        vace_in_channels=CONFIG.vace_dim,
    )
    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    return ours, theirs.eval()


def assert_close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert want.std() > 0.1
    difference = (got - want).abs().max()
    LOG.info("largest difference %.1e of %.1f", difference, want.abs().max())
    assert difference < TOLERANCE


def theirs_of(theirs: Any, x: Tensor, t: Tensor, text: Tensor, control: Tensor, scales: Tensor | None) -> Tensor:
    """Theirs, which takes text already padded to 512 tokens."""
    padded = torch.cat((text, torch.zeros(len(text), 512 - text.shape[1], CONFIG.text_dim)), dim=1)
    return theirs(x, t, padded, control_hidden_states=control, control_hidden_states_scale=scales, return_dict=False)[0]


@pytest.mark.parametrize("scale", [1.0, (0.5, 0.0, 1.5)], ids=["one scale", "a scale each"])
def test_velocity(pair, scale: float | tuple[float, ...]) -> None:
    ours, theirs = pair
    x, t, text = noise(2, 16, *GRID, seed=91), torch.tensor([991.0, 37.0]), noise(2, 7, 20, seed=92)
    control = noise(2, 12, *GRID, seed=93)
    with torch.no_grad():
        cond = ours.prepare(text=text, control=control, grid=GRID, scale=scale)
        want = theirs_of(theirs, x, t, text, control, None if scale == 1 else torch.tensor(scale))
        assert_close(ours(x, t, cond), want)
        assert_close(ours(x, t, cond), want)  # a second step from the same preparation


def test_velocity_with_a_timestep_per_token(pair) -> None:
    """Diffusers' VACE takes one timestep per sample: here all tokens of a sample share theirs."""
    ours, theirs = pair
    t = torch.tensor([991.0, 37.0])
    x, text, control = noise(2, 16, *GRID, seed=91), noise(2, 7, 20, seed=92), noise(2, 12, *GRID, seed=93)
    with torch.no_grad():
        cond = ours.prepare(text=text, control=control, grid=GRID)
        got = ours(x, t[:, None].expand(2, TOKENS), cond)
        assert_close(got, theirs_of(theirs, x, t, text, control, None))


def test_gradients(pair) -> None:
    ours, theirs = pair
    x, t, text = noise(1, 16, *GRID), torch.tensor([500.0]), noise(1, 7, 20, seed=92)
    control = noise(1, 12, *GRID, seed=93)
    ours(x, t, ours.prepare(text=text, control=control, grid=GRID)).square().mean().backward()
    theirs_of(theirs, x, t, text, control, None).square().mean().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        want = wanted[renamed(name)].grad
        assert parameter.grad is not None
        assert want is not None
        assert (parameter.grad - want).abs().max() <= 1e-3 * want.abs().max() + 1e-7, name
        parameter.grad = wanted[renamed(name)].grad = None


def test_names_and_shapes_are_those_of_the_released_checkpoint() -> None:
    path = STATE_DICTS / "wan-vace-14b.diffusers.json"
    if not path.exists():
        pytest.skip("the full lists are not beside this checkout")
    with torch.device("meta"):
        state = WanVaceTransformer(WAN_MODELS["wan2.2-vace-fun-a14b"]).state_dict()
    assert {renamed(name): list(value.shape) for name, value in state.items()} == json.loads(path.read_text())
