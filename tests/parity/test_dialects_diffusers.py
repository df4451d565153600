"""Names and values of diffusers' own models, to native and back, bit for bit, and both ways round."""

from collections.abc import Mapping
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
from pasdedeux.models.wan import AnimateConfig, VaceConfig, WanConfig, build_wan

diffusers = pytest.importorskip("diffusers")

SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 4,
}
OURS: dict[str, Any] = {"dim": 24, "ffn_dim": 40, "heads": 2, "layers": 4, "text_dim": 20, "freq_dim": 16}
MOTION = {"4": 8, "8": 6, "16": 4}
MODELS: dict[str, tuple[str, dict[str, Any], WanConfig]] = {
    "text": ("WanTransformer3DModel", {}, WanConfig(**OURS)),
    "image with CLIP": (
        "WanTransformer3DModel",
        {"in_channels": 36, "image_dim": 10, "added_kv_proj_dim": 24},
        WanConfig(**OURS, in_dim=36, image_dim=10),
    ),
    "VACE": (
        "WanVACETransformer3DModel",
        {"vace_layers": [0, 2], "vace_in_channels": 96},
        VaceConfig(**OURS, vace_layers=(0, 2)),
    ),
    "Animate": (
        "WanAnimateTransformer3DModel",
        {
            "image_dim": 10,
            "added_kv_proj_dim": 24,
            "motion_encoder_channel_sizes": MOTION,
            "motion_encoder_size": 16,
            "motion_style_dim": 10,
            "motion_dim": 5,
            "motion_encoder_dim": 10,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 2,
        },
        AnimateConfig(
            **OURS,
            image_dim=10,
            motion_channels=(4, 6, 8),
            motion_style=10,
            motion_dim=5,
            face_dim=8,
            face_heads=2,
            face_every=2,
        ),
    ),
}
VAES: dict[str, dict[str, Any]] = {
    "2.1": {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 2, 2]},
    "2.1, shallow": {
        "base_dim": 4,
        "z_dim": 16,
        "dim_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, False],
    },
    "2.2": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 48,
        "dim_mult": [1, 2, 2, 2],
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
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


@pytest.fixture(params=MODELS)
def transformer(request: pytest.FixtureRequest) -> tuple[nn.Module, WanConfig]:
    name, extra, config = MODELS[request.param]
    return getattr(diffusers, name)(**SIZES, **extra), config


def test_a_transformer_of_diffusers_comes_back(transformer: tuple[nn.Module, WanConfig], tmp_path: Path) -> None:
    model, config = transformer
    state = state_of(model)
    native, dialect = to_native(stored(state, tmp_path / "theirs.safetensors"))
    assert dialect == "diffusers"
    layers = config.vace_layers if isinstance(config, VaceConfig) else None
    assert identify(native.shapes, Hints(heads=2, vace_layers=layers)) == config
    build_wan(config).load_state_dict({name: tensor.read() for name, tensor in native.items()}, strict=True)
    assert_same(from_native(native, "diffusers"), state)


def test_our_transformer_fits_diffusers_and_comes_back(
    transformer: tuple[nn.Module, WanConfig], tmp_path: Path
) -> None:
    model, config = transformer
    state = state_of(build_wan(config))
    theirs = from_native(stored(state, tmp_path / "ours.safetensors"), "diffusers")
    model.load_state_dict({name: tensor.read() for name, tensor in theirs.items()}, strict=True)
    native, _ = to_native(theirs)
    assert_same(native, state)


@pytest.mark.parametrize("name", VAES)
def test_the_vae_goes_both_ways(name: str, tmp_path: Path) -> None:
    model = diffusers.AutoencoderKLWan(**VAES[name])
    state = state_of(model)
    native, dialect = vae_to_native(stored(state, tmp_path / "theirs.safetensors"))
    assert dialect == "diffusers"
    assert_same(vae_from_native(native, "diffusers"), state)
    ours = {name: tensor.read() for name, tensor in native.items()}
    build_vae(identify_vae(native.shapes)).load_state_dict(ours, strict=True)
    back, dialect = vae_to_native(stored(ours, tmp_path / "ours.safetensors"))
    assert dialect == "native"
    assert_same(back, ours)
    assert_same(vae_from_native(back, "diffusers"), state)
