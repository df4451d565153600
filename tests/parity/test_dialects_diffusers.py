"""Names and values of diffusers' own models, to native and back, bit for bit, and both ways round.

Which value gets which name is checked by a table that is not the library's, that of `tiny`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.dialects import from_native, to_native, vae_from_native, vae_to_native
from pasdedeux.checkpoints.names.identify import Hints, identify
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.checkpoints.video import build_vae, identify_vae
from pasdedeux.models.vae import VAEConfig
from pasdedeux.models.vae22 import VAE22Config
from pasdedeux.models.wan import VaceConfig, WanConfig, build_wan

OURS: dict[str, Any] = {"dim": 24, "ffn_dim": 40, "heads": 2, "layers": 4, "text_dim": 20, "freq_dim": 16}
MODELS: dict[str, Callable[[Any], WanConfig]] = {
    "text": lambda _: WanConfig(**OURS),
    "image with CLIP": lambda _: WanConfig(**OURS, in_dim=36, image_dim=10),
    "VACE": lambda _: VaceConfig(**OURS, vace_layers=(0, 2)),
    "Animate": lambda tiny: tiny.animate(**OURS, image_dim=10),
}
VAES = {
    "2.1": VAEConfig(dim=4, multipliers=(1, 2, 2, 2)),
    "2.1, shallow": VAEConfig(dim=4, multipliers=(1, 1, 2), res_blocks=1, temporal=(True, False)),
    "2.2": VAE22Config(dim=4, decoder_dim=6, multipliers=(1, 2, 2, 2)),
}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A state with every parameter random."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def stored(state: Mapping[str, Tensor], path: Path) -> Weights:
    save_file(dict(state), path)
    return open_weights(path)


def assert_same(found: Weights, wanted: Mapping[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name].read(), tensor), name


def values(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor.read() for name, tensor in weights.items()}


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest, tiny: Any) -> WanConfig:
    return MODELS[request.param](tiny)


def test_a_transformer_of_diffusers_comes_back(tiny: Any, config: WanConfig, tmp_path: Path) -> None:
    state = state_of(tiny.unfilled(config))
    native, dialect = to_native(stored(state, tmp_path / "theirs.safetensors"))
    assert dialect == "diffusers"
    layers = config.vace_layers if isinstance(config, VaceConfig) else None
    assert identify(native.shapes, Hints(heads=2, vace_layers=layers)) == config
    build_wan(config).load_state_dict(values(native), strict=True)
    assert_same(from_native(native, "diffusers"), state)


def test_our_transformer_fits_diffusers_and_comes_back(tiny: Any, config: WanConfig, tmp_path: Path) -> None:
    state = state_of(build_wan(config))
    theirs = from_native(stored(state, tmp_path / "ours.safetensors"), "diffusers")
    assert_same(theirs, tiny.their_weights(config, state))
    tiny.unfilled(config).load_state_dict(values(theirs), strict=True)
    native, _ = to_native(theirs)
    assert_same(native, state)


@pytest.mark.parametrize("name", VAES)
def test_the_vae_goes_both_ways(tiny: Any, name: str, tmp_path: Path) -> None:
    config = VAES[name]
    state = state_of(tiny.unfilled(config))
    native, dialect = vae_to_native(stored(state, tmp_path / "theirs.safetensors"))
    assert dialect == "diffusers"
    assert_same(vae_from_native(native, "diffusers"), state)
    ours = values(native)
    build_vae(identify_vae(native.shapes)).load_state_dict(ours, strict=True)
    back, dialect = vae_to_native(stored(ours, tmp_path / "ours.safetensors"))
    assert dialect == "native"
    assert_same(back, ours)
    assert_same(vae_from_native(back, "diffusers"), tiny.their_weights(config, ours))
    assert_same(vae_from_native(back, "diffusers"), state)
