"""The small JSON files beside weights: what other programs read a model's sizes from."""

from dataclasses import dataclass
from typing import Any

from pasdedeux.models.wan.config import AnimateConfig, ControlConfig, VaceConfig, WanConfig

DIFFUSERS_VERSION = "0.36.0"  # the first that knows every class named here


def native_config(config: WanConfig) -> dict[str, Any]:
    """`config.json` of a native folder, as WanModel reads it."""
    record: dict[str, Any] = {
        "_class_name": _native_class(config),
        "model_type": _model_type(config),
        "text_len": config.text_len,
        "in_dim": config.in_dim,
        "dim": config.dim,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "text_dim": config.text_dim,
        "out_dim": config.out_dim,
        "num_heads": config.heads,
        "num_layers": config.layers,
        "eps": config.eps,
    }
    if isinstance(config, VaceConfig):
        record |= {"vace_layers": list(config.vace_layers), "vace_in_dim": config.vace_dim}
    if isinstance(config, ControlConfig):
        record |= {"add_ref_conv": config.ref_dim is not None, "in_dim_ref_conv": config.ref_dim or 16}
    return record


def diffusers_config(config: WanConfig) -> dict[str, Any]:
    """`config.json` of a diffusers transformer. Raises ValueError where diffusers has no such model."""
    if isinstance(config, ControlConfig):
        raise ValueError("diffusers has no model with a control branch of the Fun kind; keep the native layout.")
    record: dict[str, Any] = {
        "_class_name": _DIFFUSERS[type(config)].transformer,
        "_diffusers_version": DIFFUSERS_VERSION,
        "patch_size": list(config.patch),
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_dim,
        "out_channels": config.out_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": config.eps,
        "image_dim": config.image_dim,
        "added_kv_proj_dim": None if config.image_dim is None else config.dim,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }
    if isinstance(config, VaceConfig):
        record |= {"vace_layers": list(config.vace_layers), "vace_in_channels": config.vace_dim}
    if isinstance(config, AnimateConfig):
        record |= _animate(config)
    return record


def model_index(config: WanConfig, bounds: tuple[float, ...]) -> dict[str, Any]:
    """`model_index.json` over the transformers of a diffusers folder; `bounds` is empty for a single one."""
    kind = _DIFFUSERS[type(config)]
    image = type(config) is WanConfig and config.in_dim != config.out_dim
    parts = ["transformer", "transformer_2"][: 1 + len(bounds)]
    return {
        "_class_name": "WanImageToVideoPipeline" if image else kind.pipeline,
        "_diffusers_version": DIFFUSERS_VERSION,
        "boundary_ratio": bounds[0] if bounds else None,
        "expand_timesteps": config.in_dim == config.out_dim > 16,
        **{part: ["diffusers", kind.transformer] for part in parts},
    }


@dataclass(frozen=True, slots=True)
class _Names:
    transformer: str
    pipeline: str


_DIFFUSERS = {
    WanConfig: _Names("WanTransformer3DModel", "WanPipeline"),
    VaceConfig: _Names("WanVACETransformer3DModel", "WanVACEPipeline"),
    AnimateConfig: _Names("WanAnimateTransformer3DModel", "WanAnimatePipeline"),
}


def _animate(config: AnimateConfig) -> dict[str, Any]:
    """Sizes of the motion and face branches."""
    sizes = [config.face_size >> k for k in range(len(config.motion_channels))]
    return {
        "latent_channels": config.out_dim,
        "motion_encoder_channel_sizes": {
            str(size): width for size, width in zip(sizes, config.motion_channels, strict=True)
        },
        "motion_encoder_size": config.face_size,
        "motion_style_dim": config.motion_style,
        "motion_dim": config.motion_dim,
        "motion_encoder_dim": config.motion_style,
        "face_encoder_hidden_dim": config.face_dim,
        "face_encoder_num_heads": config.face_heads,
        "inject_face_latents_blocks": config.face_every,
    }


def _native_class(config: WanConfig) -> str:
    if isinstance(config, AnimateConfig):
        return "WanAnimateModel"
    return "VaceWanModel" if isinstance(config, VaceConfig) else "WanModel"


def _model_type(config: WanConfig) -> str:
    if isinstance(config, AnimateConfig):
        return "animate"
    if isinstance(config, VaceConfig):
        return "vace"
    if config.in_dim == config.out_dim:
        return "ti2v" if config.out_dim > 16 else "t2v"
    return "i2v"
