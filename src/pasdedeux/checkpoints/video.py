"""A video autoencoder's file, native or diffusers, into a module: which of the two it is and its sizes are read off its
shapes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.names.dialects import vae_to_native
from pasdedeux.checkpoints.names.layouts import needed_as
from pasdedeux.models.vae import StreamingVAE, VAEConfig, WanVAE
from pasdedeux.models.vae22 import VAE22Config, WanVAE22

Shapes = Mapping[str, tuple[int, ...]]
RESIDUAL = re.compile(r"residual\.2\.weight$")


def load_vae(path: Path, *, dtype: torch.dtype, device: str = "cpu") -> StreamingVAE:
    """The autoencoder of a file or folder. Raises ValueError if it is none, or does not fit."""
    raw = open_weights(path)
    with needed_as("vae", raw):
        weights, _ = vae_to_native(raw)
    try:
        config = identify_vae(weights.shapes)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is no Wan video autoencoder: it lacks {error}.") from error
    return load_weights(lambda: build_vae(config), weights, dtype=dtype, device=device)


def build_vae(config: VAEConfig) -> StreamingVAE:
    """The network of a config."""
    return WanVAE22(config) if isinstance(config, VAE22Config) else WanVAE(config)


def identify_vae(shapes: Shapes) -> VAEConfig:
    """Sizes from native names and shapes. Raises KeyError or IndexError naming what was looked for in vain."""
    dim, pixels = shapes["encoder.conv1.weight"][:2]
    channels = shapes["conv2.weight"][0]
    sizes: dict[str, Any] = {"dim": dim, "latent_channels": channels}
    if pixels == 3:
        return VAEConfig(**sizes, **_levels(_stages(shapes), dim))
    stages = _nested_stages(shapes)
    levels = _levels(stages, dim)
    decoder_dim = shapes["decoder.conv1.weight"][0] // levels["multipliers"][-1]
    return VAE22Config(**sizes, **levels, decoder_dim=decoder_dim, patch=round((pixels / 3) ** 0.5))


def _levels(stages: list[tuple[list[int], bool | None]], dim: int) -> dict[str, Any]:
    """Multipliers, blocks per level and temporal steps, of (widths of a level's blocks, how its step treats time)."""
    steps = [step for _, step in stages if step is not None]
    return {
        "multipliers": tuple(widths[-1] // dim for widths, _ in stages),
        "res_blocks": len(stages[0][0]),
        "temporal": tuple(steps),
    }


def _stages(shapes: Shapes) -> list[tuple[list[int], bool | None]]:
    """Wan 2.1: blocks and steps in one row; a step ends a level."""
    stages: list[tuple[list[int], bool | None]] = [([], None)]
    for n in range(_length(shapes, "encoder.downsamples.")):
        stem = f"encoder.downsamples.{n}."
        width = shapes.get(stem + "residual.2.weight")
        if width is not None:
            stages[-1][0].append(width[0])
        else:
            stages[-1] = (stages[-1][0], f"{stem}time_conv.weight" in shapes)
            stages.append(([], None))
    return stages


def _nested_stages(shapes: Shapes) -> list[tuple[list[int], bool | None]]:
    """Wan 2.2: a group for each level."""
    stages: list[tuple[list[int], bool | None]] = []
    for n in range(_length(shapes, "encoder.downsamples.")):
        stem = f"encoder.downsamples.{n}.downsamples."
        widths = [shapes[name][0] for name in shapes if name.startswith(stem) and RESIDUAL.search(name)]
        steps = any(name.startswith(stem) and ".resample." in name for name in shapes)
        timed = any(name.startswith(stem) and name.endswith("time_conv.weight") for name in shapes)
        stages.append((widths, timed if steps else None))
    return stages


def _length(shapes: Shapes, stem: str) -> int:
    """How many numbered children a name has."""
    numbers = [int(name.removeprefix(stem).split(".")[0]) for name in shapes if name.startswith(stem)]
    return 1 + max(numbers, default=-1)
