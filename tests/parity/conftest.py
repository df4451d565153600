"""Tiny random Wan models twice over, ours and diffusers' with the same weights, and diffusers' walk made exact.

Test files under `importlib` cannot import one another, so what they share is a fixture: `tiny`, a `Tiny`. Its table of
names is not made from the library's, which it also checks.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pasdedeux.models.vae import VAEConfig, WanVAE
from pasdedeux.models.vae22 import VAE22Config, WanVAE22
from pasdedeux.models.wan import AnimateConfig, ControlConfig, VaceConfig, WanConfig, build_wan

LOG = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows how close they are
TOLERANCE = 1e-4
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
FACES: dict[str, Any] = {
    "motion_channels": (4, 6, 8),
    "motion_style": 10,
    "motion_dim": 5,
    "face_dim": 8,
    "face_heads": 2,
    "face_every": 2,
}
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
    (r"\.norm3\.", ".norm2."),  # natively norm3 stands before the cross-attention, where diffusers has norm2
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


def their_transformer_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def spread(name: str, weight: Tensor) -> float:
    """How far random weights may scatter for a layer to pass on about what it is given."""
    if name.startswith("motion_encoder"):
        return 1.0  # scaled by their number of inputs as it runs; smaller, nothing of the face would arrive
    return max(weight[0].numel(), 4) ** -0.5 if weight.ndim > 1 else 1 / 3


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


def vae_sizes(config: VAEConfig) -> dict[str, Any]:
    """What an autoencoder of diffusers is built from; that of Wan 2.2 from more."""
    sizes = {
        "base_dim": config.dim,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.multipliers),
        "num_res_blocks": config.res_blocks,
        "temperal_downsample": list(config.temporal),
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
    }
    if not isinstance(config, VAE22Config):
        return sizes
    return sizes | {
        "decoder_base_dim": config.decoder_dim,
        "is_residual": True,
        "in_channels": 3 * config.patch**2,
        "out_channels": 3 * config.patch**2,
        "patch_size": config.patch,
        "scale_factor_spatial": config.stride[1],
    }


def latent_statistics(vae: Any) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


class WithReference(nn.Module):
    """The patch embedding of the frames behind the first, which is made of the reference, where there is one."""

    def __init__(self, video: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.video, self.weights = video, weights
        self.reference: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.reference is None:
            return self.video(x)
        first = F.conv2d(self.reference, self.weights["ref_conv.weight"], self.weights["ref_conv.bias"], stride=2)
        return torch.cat((first[:, :, None], self.video(x[:, :, 1:])), dim=2)


class ControlDouble(nn.Module):
    """Fun-Control by diffusers' transformer, which knows no reference picture.

    By the formulas all that a reference is is one latent frame more, before the video's: with a patch embedding of its
    own, the timestep of the last token, and no place in the result.
    """

    def __init__(self, transformer: Any, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.transformer = transformer
        transformer.patch_embedding = self.patches = WithReference(transformer.patch_embedding, weights)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, reference: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        """x [B, C, F, H, W], t [B] or [B, L], text of 512 tokens, reference [B, c, H, W]."""
        self.patches.reference = reference
        extra = 0 if reference is None else 1
        x = torch.cat((torch.zeros_like(x[:, :, :extra]), x), dim=2)
        if t.ndim > 1:
            tokens = extra * (x.shape[3] // 2) * (x.shape[4] // 2)
            t = torch.cat((t[:, -1:].expand(-1, tokens), t), dim=1)
        velocity = self.transformer(x, t, text, encoder_hidden_states_image=image, return_dict=False)[0]
        return velocity[:, :, extra:]


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
            weight.data = torch.randn(weight.shape, generator=generator) * spread(name, weight)
        return model.eval().requires_grad_(False)

    def config(self, channels: int = 0, **more: Any) -> WanConfig:
        """A tiny text-to-video transformer over the tiny autoencoder; `channels` come behind the latent's."""
        z = VAE.latent_channels
        return WanConfig(**{**SIZES, "in_dim": z + channels, "out_dim": z, **more})

    def animate(self, **sizes: Any) -> AnimateConfig:
        """Animate of these sizes, with tiny faces."""
        return AnimateConfig(**{**FACES, **sizes})

    def vaes(self, config: VAEConfig = VAE, seed: int = 7) -> tuple[WanVAE | WanVAE22, Any]:
        """Ours and diffusers' autoencoder; `tiny.vae22` is the tiny one of Wan 2.2."""
        ours = self.filled(WanVAE22(config) if isinstance(config, VAE22Config) else WanVAE(config), seed)
        return ours, self.theirs(ours)

    def transformers(self, config: WanConfig, seed: int) -> tuple[Any, Any]:
        """Our transformer of any kind and diffusers'."""
        ours = self.filled(build_wan(config), seed)
        return ours, self.theirs(ours)

    def theirs(self, ours: nn.Module) -> Any:
        """Diffusers' model with the weights of ours, whatever its config says it is."""
        config: Any = ours.config
        model = self.unfilled(config)
        model.load_state_dict(self.their_weights(config, ours.state_dict()))
        if isinstance(config, ControlConfig):
            model = ControlDouble(model, ours.state_dict())
        return model.eval().requires_grad_(False)

    def unfilled(self, config: WanConfig | VAEConfig) -> Any:
        """Diffusers' model of a config, as it is initialised; of Fun-Control, what diffusers has of it."""
        if isinstance(config, VAEConfig):
            return self.diffusers.AutoencoderKLWan(**vae_sizes(config))
        sizes = common_sizes(config)
        if isinstance(config, AnimateConfig):
            return self.diffusers.WanAnimateTransformer3DModel(**sizes, **animate_sizes(config))
        if isinstance(config, VaceConfig):
            layers, channels = list(config.vace_layers), config.vace_dim
            return self.diffusers.WanVACETransformer3DModel(**sizes, vace_layers=layers, vace_in_channels=channels)
        return self.diffusers.WanTransformer3DModel(**sizes)

    def their_weights(self, config: WanConfig | VAEConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native weights, or gradients, as diffusers names and cuts them; without what Fun-Control has besides."""
        if isinstance(config, VAEConfig):
            return {their_vae_name(name, config.res_blocks): value for name, value in state.items()}
        return their_transformer_weights({k: v for k, v in state.items() if not k.startswith("ref_conv.")})

    def encoded(self, vae: Any, video: Tensor) -> Tensor:
        """By diffusers' autoencoder, normalised, which diffusers leaves to its pipelines."""
        mean, std = latent_statistics(vae)
        return (vae.encode(video).latent_dist.mode() - mean) / std

    def decoded(self, vae: Any, latent: Tensor) -> Tensor:
        """By diffusers' autoencoder, of a normalised latent."""
        mean, std = latent_statistics(vae)
        return vae.decode(latent * std + mean).sample

    def assert_close(self, found: Tensor, wanted: Tensor) -> None:
        """To 1e-4 of the largest number wanted, or of 1 where that is less."""
        assert found.shape == wanted.shape
        assert wanted.std() > 0.1  # not a comparison of nothing with nothing
        difference, largest = (found - wanted).abs().max().item(), wanted.abs().max().item()
        LOG.info("largest difference %.1e of %.1f", difference, largest)
        assert difference <= TOLERANCE * min(largest, 1)

    def assert_same_gradients(self, ours: nn.Module, theirs: nn.Module) -> None:
        """Of every weight, once both have gone backward."""
        gradients: dict[str, Any] = {name: weight.grad for name, weight in ours.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None] == []
        wanted = {name: weight.grad for name, weight in theirs.named_parameters()}
        found = self.their_weights(ours.config, gradients)
        assert set(found) == set(wanted)
        for name, gradient in found.items():
            want = wanted[name]
            assert want is not None
            assert (gradient - want).abs().max() <= 1e-3 * want.abs().max() + 1e-7, name

    def padded(self, text: Tensor) -> Tensor:
        """Text [B, n, d] as diffusers wants it, to 512 tokens with zeros."""
        return F.pad(text, (0, 0, 0, TEXT_TOKENS - text.shape[1]))

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
