"""Tiny random Wan models twice over, ours and diffusers' with the same weights, and diffusers' walk made exact.

Test files under `importlib` cannot import one another, so what they share is a fixture: `tiny`, a `Tiny`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pasdedeux.models.vae import VAEConfig, WanVAE
from pasdedeux.models.vae22 import VAE22Config, WanVAE22
from pasdedeux.models.wan import AnimateConfig, VaceConfig, WanConfig, WanTransformer

VAE = VAEConfig(
    dim=4,
    latent_channels=4,
    multipliers=(1, 1, 2, 2),
    res_blocks=1,
    latent_mean=(0.5, -0.25, 1.0, 0.0),
    latent_std=(2.0, 0.5, 1.5, 1.0),
)
VAE22 = VAE22Config(
    dim=6,
    decoder_dim=4,
    latent_channels=4,
    multipliers=(1, 1, 2, 2),
    res_blocks=1,
    latent_mean=VAE.latent_mean,
    latent_std=VAE.latent_std,
)
SIZES: dict[str, Any] = {"dim": 24, "ffn_dim": 32, "heads": 2, "layers": 2, "text_dim": 16, "freq_dim": 32}
TEXT_TOKENS = 512
"""As diffusers fixes it in its cross-attention."""

Model = TypeVar("Model", bound=nn.Module)
Rename = tuple[str, str | Callable[[re.Match[str]], str]]
TRANSFORMER_NAMES: tuple[Rename, ...] = (
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
    (r"\.norm3\.", ".norm2."),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(attn[12])\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attn[12])\.o\.", r"\1.to_out.0."),
    (r"(attn2)\.(k|v)_img\.", r"\1.add_\2_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    # VACE
    (r"\.before_proj\.", ".proj_in."),
    (r"\.after_proj\.", ".proj_out."),
    # Animate
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
    (r"convs\.\d+\.weight$", "conv_out.weight"),  # the last one is a bare convolution
    (r"convs\.(\d+)\.", lambda found: f"res_blocks.{int(found[1]) - 1}."),
    (r"conv1\.0\.", "conv1."),
    (r"conv1\.1\.", "conv1.act_fn."),
    (r"conv2\.1\.", "conv2."),
    (r"conv2\.2\.", "conv2.act_fn."),
    (r"skip\.1\.", "conv_skip."),
)
# but for the decoder's levels, which one counts through and the other nests
VAE_NAMES: tuple[Rename, ...] = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.downsamples\.(\d)\.downsamples\.\d\.(resample|time_conv)\.", r".down_blocks.\1.downsampler.\2."),
    (r"\.upsamples\.(\d)\.upsamples\.\d\.(resample|time_conv)\.", r".up_blocks.\1.upsampler.\2."),
    (r"\.downsamples\.(\d)\.downsamples\.(\d)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.upsamples\.(\d)\.upsamples\.(\d)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.downsamples\.", ".down_blocks."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def renamed(name: str, rules: Sequence[Rename]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def their_transformer_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renamed; keys and values of Animate's face blocks apart, its blur kernels left out."""
    result = {}
    for native, value in state.items():
        name = renamed(native, TRANSFORMER_NAMES)
        if "linear1_kv" in name:
            result[name.replace("linear1_kv", "to_k")], result[name.replace("linear1_kv", "to_v")] = value.chunk(2)
        elif not name.endswith(".kernel"):
            result[name] = value.flatten() if "act_fn" in name else value
    return result


def their_vae_name(name: str, res_blocks: int) -> str:
    def level(found: re.Match[str]) -> str:
        block, place = divmod(int(found[1]), res_blocks + 2)
        return f".up_blocks.{block}." + (f"resnets.{place}." if place <= res_blocks else "upsamplers.0.")

    return re.sub(r"\.upsamples\.(\d+)\.", level, renamed(name, VAE_NAMES))


def common_sizes(config: WanConfig) -> dict[str, Any]:
    """What every transformer of diffusers is built from."""
    return {
        "patch_size": config.patch,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.layers,
        "in_channels": config.in_dim,
        "out_channels": config.out_dim,
        "image_dim": config.image_dim,
        "added_kv_proj_dim": config.dim if config.image_dim else None,
        "rope_max_seq_len": 64,
    }


def animate_sizes(config: AnimateConfig) -> dict[str, Any]:
    """What Animate has besides."""
    return {
        "latent_channels": config.pose_dim,
        "motion_encoder_channel_sizes": {str(config.face_size >> i): w for i, w in enumerate(config.motion_channels)},
        "motion_encoder_size": config.face_size,
        "motion_style_dim": config.motion_style,
        "motion_dim": config.motion_dim,
        "motion_encoder_dim": config.motion_style,
        "face_encoder_hidden_dim": config.face_dim,
        "face_encoder_num_heads": config.face_heads,
        "inject_face_latents_blocks": config.face_every,
    }


def residual_sizes(config: VAE22Config) -> dict[str, Any]:
    """What the autoencoder of Wan 2.2 has besides."""
    return {
        "decoder_base_dim": config.decoder_dim,
        "is_residual": True,
        "in_channels": 3 * config.patch**2,
        "out_channels": 3 * config.patch**2,
        "patch_size": config.patch,
        "scale_factor_spatial": config.stride[1],
    }


@dataclass(frozen=True)
class Tiny:
    """Builders of tiny models. `diffusers` is the package."""

    diffusers: Any
    vae22: VAE22Config = VAE22

    def random(self, *shape: int, seed: int) -> Tensor:
        """Gaussian, the same at every call."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def pictures(self, *shape: int, seed: int) -> np.ndarray:
        """uint8, every value as likely."""
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    def filled(self, model: Model, seed: int) -> Model:
        """Every weight random, so that no zero or one of the initialisation hides a mistake."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            # The motion encoder's are scaled by their number of inputs as it runs.
            spread = max(weight[0].numel(), 4) ** -0.5 if weight.ndim > 1 and "motion" not in name else 1 / 3
            weight.data = torch.randn(weight.shape, generator=generator) * spread
        return model.eval().requires_grad_(False)

    def config(self, channels: int = 0, **more: Any) -> WanConfig:
        """A tiny text-to-video transformer over the tiny autoencoder; `channels` come behind the latent's."""
        z = VAE.latent_channels
        return WanConfig(**{**SIZES, "in_dim": z + channels, "out_dim": z, **more})

    def vaes(self, config: VAEConfig | VAE22Config = VAE, seed: int = 7) -> tuple[WanVAE | WanVAE22, Any]:
        """Ours and diffusers' autoencoder; `tiny.vae22` is the tiny one of Wan 2.2."""
        ours = self.filled(WanVAE22(config) if isinstance(config, VAE22Config) else WanVAE(config), seed)
        more = residual_sizes(config) if isinstance(config, VAE22Config) else {}
        theirs = self.diffusers.AutoencoderKLWan(
            base_dim=config.dim,
            z_dim=config.latent_channels,
            dim_mult=list(config.multipliers),
            num_res_blocks=config.res_blocks,
            temperal_downsample=list(config.temporal),
            latents_mean=list(config.latent_mean),
            latents_std=list(config.latent_std),
            **more,
        )
        theirs.load_state_dict({their_vae_name(k, config.res_blocks): v for k, v in ours.state_dict().items()})
        return ours, theirs.eval().requires_grad_(False)

    def theirs(self, ours: nn.Module) -> Any:
        """Diffusers' transformer with the weights of ours: text and image, VACE or Animate, as its config says."""
        config: Any = ours.config
        sizes = common_sizes(config)
        if isinstance(config, AnimateConfig):
            model = self.diffusers.WanAnimateTransformer3DModel(**sizes, **animate_sizes(config))
        elif isinstance(config, VaceConfig):
            layers, channels = list(config.vace_layers), config.vace_dim
            model = self.diffusers.WanVACETransformer3DModel(**sizes, vace_layers=layers, vace_in_channels=channels)
        else:
            model = self.diffusers.WanTransformer3DModel(**sizes)
        model.load_state_dict(their_transformer_weights(ours.state_dict()))
        return model.eval().requires_grad_(False)

    def transformers(self, config: WanConfig, seed: int) -> tuple[WanTransformer, Any]:
        """Our text and image transformer and diffusers'."""
        ours = self.filled(WanTransformer(config), seed)
        return ours, self.theirs(ours)

    def padded(self, text: Tensor) -> Tensor:
        """Text [1, n, d] as diffusers wants it, to 512 tokens with zeros."""
        return torch.cat((text, text.new_zeros(1, TEXT_TOKENS - text.shape[1], text.shape[2])), dim=1)

    def scheduler(self, sigmas: Sequence[float], *, exact: bool = True) -> Any:
        """Diffusers' UniPC over `sigmas`, which end with 0, whatever number of steps it is asked for.

        `exact`: its timesteps are 1000 sigma, not cut to integers as diffusers cuts them.
        """
        scheduler = self.diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
        )
        set_timesteps = scheduler.set_timesteps

        def ours(num_inference_steps: int, device: Any = None) -> None:
            assert num_inference_steps == len(sigmas) - 1
            set_timesteps(sigmas=np.array(sigmas[:-1]), device=device)
            if exact:
                scheduler.timesteps = 1000 * scheduler.sigmas[:-1]

        scheduler.set_timesteps = ours
        return scheduler


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Builders of tiny models, where diffusers is installed."""
    return Tiny(pytest.importorskip("diffusers"))
