"""A Wan model and a job's settings as the plain numbers that `residency.budget` works with.

Headers are read, no weights; a network is built on meta, where it has sizes and no memory.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch import nn

from pasdedeux.animate.segments import plan
from pasdedeux.checkpoints.bundle import Bundle, ExpertWeights
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.load import Branch, on_meta
from pasdedeux.checkpoints.tensors import LazyTensor
from pasdedeux.engine.settings import Settings
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.config import AnimateConfig, ControlConfig, VaceConfig, WanConfig
from pasdedeux.residency.arithmetic import CODECS, Codec, Network, tokens
from pasdedeux.residency.budget import ExpertNumbers, RunNumbers

Beside = Mapping[str, Sequence[Branch]]
TEXT, IMAGE = 9_261_522_944, 4 * 631_000_000
"""Bytes of umT5's 24 blocks in bfloat16 (its embedding stays in its file), and of CLIP's image half in float32."""
TEXT_BLOCK = re.compile(r"\b(?:blocks?|blk)\.(\d+)\.")
TWO = 2
"""Blocks of the text encoder that are there at once where they take turns."""
PICTURE_TOKENS = 257
ENCODES = {"image": 1, "animate": 2, "vace": 2, "control": 2}
"""How many whole segments a family has encoded before it denoises one; single pictures are not counted."""
ROWS = ("blocks.", "vace_blocks.")


def run_numbers(
    bundle: Bundle,
    settings: Settings,
    frames: int,
    *,
    dtype: torch.dtype,
    beside: Mapping[str, Beside] | None = None,
    codec_value: int = 4,
) -> RunNumbers:
    """A clip of `frames` in segments of `settings.length`. beside: low-rank branches, by expert and weight."""
    family, config = bundle.family, bundle.family.config
    steps = Counter[int]()
    for run in settings.handoff.runs(settings.sigmas):
        steps[run.expert] += run.steps
    grid = tokens(settings.length, settings.size, stride_of(family.vae), config.patch)
    reference = 1 if isinstance(config, AnimateConfig | VaceConfig) else 0  # the picture is a latent frame of its own
    passes = [1 if scale == 1 else 2 for scale in settings.guidance]
    return RunNumbers(
        network=network(bundle.experts[0].config),
        experts=tuple(
            expert_numbers(expert, steps[k], passes[k], (beside or {}).get(expert.name, {}), dtype)
            for k, expert in enumerate(bundle.experts)
        ),
        grid=(grid[0] + reference, *grid[1:]),
        size=settings.size,
        frames=settings.length,
        codec=_codec(bundle),
        segments=len(plan(frames, settings.length, settings.overlap)),
        encodes=ENCODES.get(family.task, 0),
        **_text(bundle.text),
        image=(IMAGE if bundle.image is None else 4 * _values(bundle.image)) if family.clip else 0,
        value=dtype.itemsize,
        codec_value=codec_value,
        codec_mapped=bundle.vae is None or _whole_precision(bundle.vae),
    )


def stride_of(vae: str) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels per latent."""
    return (4, 16, 16) if vae == "wan2.2" else (4, 8, 8)


def _codec(bundle: Bundle) -> Codec:
    codec = CODECS[bundle.family.vae]
    return codec if bundle.vae is None else replace(codec, values=_values(bundle.vae))


class Text(TypedDict):
    """What a run's numbers say of the text encoder."""

    text: int
    text_least: int
    text_mapped: bool


@cache
def _text(path: Path | None) -> Text:
    """As it is used: in bfloat16."""
    if path is None:
        return Text(text=TEXT, text_least=TWO * TEXT // 24, text_mapped=True)
    weights = open_weights(path)
    found = {name: match[1] for name in weights if (match := TEXT_BLOCK.search(name))}
    whole = 2 * sum(weights[name].size for name in found)
    mapped = all(weights[name].dtype == "bfloat16" for name in found)
    return Text(text=whole, text_least=TWO * whole // max(len(set(found.values())), TWO), text_mapped=mapped)


@cache
def _whole_precision(path: Path) -> bool:
    """Whether a file holds float32, as the autoencoder computes."""
    return all(tensor.dtype == "float32" for tensor in open_weights(path).values())


@cache
def _values(path: Path) -> int:
    """How many values a file holds."""
    return sum(tensor.size for tensor in open_weights(path).values())


class Layout(NamedTuple):
    """Names and shapes of a network's tensors; which are weights of plain linear layers, which may stay packed; and its
    blocks in the order of their turns."""

    shapes: Mapping[str, tuple[int, ...]]
    plain: frozenset[str]
    turns: tuple[str, ...]


@cache
def layout_of(config: WanConfig) -> Layout:
    module = on_meta(lambda: build_wan(config))
    names = {id(m): name for name, m in module.named_modules()}
    return Layout(
        shapes={name: tuple(t.shape) for name, t in module.state_dict().items()},
        plain=frozenset(f"{name}.weight" for name, m in module.named_modules() if type(m) is nn.Linear),
        turns=tuple(names[id(block)] for block in module.turns),
    )


def network(config: WanConfig) -> Network:
    """The sizes that decide what a forward costs."""
    patch = config.patch[0] * config.patch[1] * config.patch[2]
    animated, hinted = isinstance(config, AnimateConfig), isinstance(config, VaceConfig)
    return Network(
        dim=config.dim,
        hidden=config.ffn_dim,
        layers=config.layers,
        head=config.head_dim,
        text=config.text_len,
        image=PICTURE_TOKENS if config.image_dim is not None else 0,
        inputs=config.in_dim * patch,
        outputs=config.out_dim * patch,
        faces=config.face_blocks if isinstance(config, AnimateConfig) else 0,
        face_tokens=config.face_heads + 1 if isinstance(config, AnimateConfig) else 0,
        hints=len(config.vace_layers) if isinstance(config, VaceConfig) else 0,
        extra=1 if isinstance(config, ControlConfig) and config.ref_dim is not None else 0,
        conditions=1 if animated or hinted else 0,
    )


def expert_numbers(expert: ExpertWeights, steps: int, passes: int, beside: Beside, dtype: torch.dtype) -> ExpertNumbers:
    """Bytes of an expert as it is used: plain linear layers stay packed, everything else is in `dtype`."""
    layout = layout_of(expert.config)
    units, packed = Counter[str](), Counter[str]()
    for name, tensor in expert.weights.items():
        unit = _unit(name)
        if name in layout.plain and tensor.packed:
            units[unit] += tensor.nbytes + (tensor.scale.nbytes if tensor.scale is not None else 0)
            packed[kind_of(tensor)] += tensor.size if unit else 0
        else:
            units[unit] += tensor.size * dtype.itemsize
        units[unit] += sum((down.numel() + up.numel()) * dtype.itemsize for down, up, _ in beside.get(name, ()))
    blocks = tuple(units[turn] for turn in layout.turns)
    return ExpertNumbers(
        name=expert.name,
        steps=steps,
        passes=passes,
        nbytes=sum(units.values()),
        trunk=units[""],
        block=max(blocks),
        blocks=len(blocks),
        sizes=blocks if len(set(blocks)) > 1 else (),
        packed=tuple(packed.items()),
    )


def _unit(name: str) -> str:
    """The block that a weight is in; "" for the trunk."""
    return ".".join(name.split(".")[:2]) if name.startswith(ROWS) else ""


def kind_of(tensor: LazyTensor) -> str:
    """Its type, as the arithmetic of unpacking tells types apart."""
    return "fp8_scaled" if tensor.scale is not None else tensor.dtype
