"""What a job would take, as the plain numbers of `residency.budget`: from a family's name alone, or from the headers of
its files. Nothing is loaded; a network is built on meta, where it has sizes and no memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pasdedeux.animate.segments import plan
from pasdedeux.checkpoints.bundle import Bundle, ExpertWeights, find_bundle
from pasdedeux.checkpoints.families import FAMILIES, Family
from pasdedeux.checkpoints.load import Branch, on_meta
from pasdedeux.checkpoints.lora import fit_loras, parse_lora
from pasdedeux.checkpoints.lora.merge import merge
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.recast import EIGHT_BIT, FLOATS, in_blocks, recast
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.loader import ExpertLoader
from pasdedeux.engine.settings import Settings
from pasdedeux.engine.wan import WanModel, shortened
from pasdedeux.engine.wan_loras import preset_of, with_usual_weights
from pasdedeux.engine.wan_stages import DRIVEN
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.config import AnimateConfig, ControlConfig, VaceConfig, WanConfig
from pasdedeux.residency.arithmetic import CODECS, Network, length, tokens
from pasdedeux.residency.budget import ExpertNumbers, Prediction, RunNumbers, in_gb, in_time, predict
from pasdedeux.residency.cards import Card, find_card

__all__ = [
    "Card",
    "Forecast",
    "Prediction",
    "expert_numbers",
    "find_card",
    "forecast",
    "in_gb",
    "in_time",
    "job_for",
    "length",
    "open_forecast",
    "predict",
]

Beside = Mapping[str, Sequence[Branch]]
KINDS = (*FLOATS, *EIGHT_BIT, *BLOCKS)
ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
TEXT, IMAGE = 11_361_820_672, 4 * 631_000_000
"""Bytes of umT5's encoder in bfloat16, and of CLIP's image half in float32, as both are loaded."""
PICTURE_TOKENS = 257
ENCODES = {"image": 1, "animate": 2, "vace": 2, "control": 2}
"""How many whole segments a family has encoded before it denoises one; single pictures are not counted."""
ROWS = ("blocks.", "vace_blocks.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A job settled, as numbers. notes: what was assumed, or is to be said of the model and its LoRAs."""

    family: Family
    settings: Settings
    run: RunNumbers
    frames: int
    kinds: tuple[str, ...]
    notes: tuple[str, ...]


def open_forecast(model: str, dtype: str | None = None) -> WanModel:
    """A model to foretell: a name of FAMILIES, a folder or a file, of which headers are read.

    dtype: what its matrices are stored in, else as the files have them, bfloat16 for a name. Raises ValueError for an
    unknown model or type.
    """
    kind = None if dtype is None else ALIASES.get(dtype, dtype)
    if kind is not None and kind not in KINDS:
        raise ValueError(f'The dtype "{dtype}" is not known; known are {", ".join(KINDS)}.')
    bundle = _bundle(model, kind)
    compute = getattr(torch, kind) if kind in FLOATS else torch.bfloat16
    return WanModel(
        name=model, bundle=bundle, loader=ExpertLoader(bundle=bundle, device="cpu", dtype=compute), device="cpu"
    )


def job_for(model: WanModel, **options: Any) -> Job:
    """A job such as the model takes, of these settings, with placeholders for what it shows; the family's own size,
    where none is given."""
    family, size = model.family, options.pop("size", None)
    shown = {"size": size or f"{family.size[0]}x{family.size[1]}", **options}
    if family.task in DRIVEN:
        return Job(mode="animate", **shown)
    return Job(mode=GENERATE, prompt="", image="picture" if family.task == "image" else None, **shown)


def forecast(model: WanModel, job: Job) -> Forecast:
    """The job with an opened model. Raises ValueError where it does not fit."""
    bundle, settings = model.bundle, model.settle(job)
    frames = settings.frames or settings.length
    if bundle.family.task in DRIVEN and bundle.family.task != "animate":
        settings = shortened(settings, frames)
    beside, notes = _loras(job, bundle)
    return Forecast(
        family=bundle.family,
        settings=settings,
        run=_numbers(model, settings, frames, beside),
        frames=frames,
        kinds=_kinds(bundle),
        notes=(*bundle.notes, *notes),
    )


def existing(model: str) -> Path:
    """The folder or file. Raises ValueError naming the families where there is none."""
    if not model.strip() or not Path(model).exists():
        raise ValueError(
            f'There is no model "{model}"; give a folder of weights, a checkpoint, "builtin", or one of '
            f"{', '.join(FAMILIES)}."
        )
    return Path(model)


def _bundle(model: str, kind: str | None) -> Bundle:
    if model not in FAMILIES:
        bundle = find_bundle(existing(model))
        if kind is None:
            return bundle
        as_stored = (replace(expert, weights=imagined(expert.config, kind)) for expert in bundle.experts)
        return replace(
            bundle, experts=tuple(as_stored), notes=(*bundle.notes, f"Taken as if it were stored in {kind}.")
        )
    family = FAMILIES[model]
    names = ("high", "low") if family.experts == 2 else ("model",)
    weights = imagined(family.config, kind or "bfloat16")
    experts = (ExpertWeights(name=name, weights=weights, dialect="native", config=family.config) for name in names)
    return Bundle(family=family, experts=tuple(experts), bounds=family.bounds)


def imagined(config: WanConfig, kind: str) -> Weights:
    """Weights of these sizes that no file holds: names, shapes, types and bytes as a conversion would write them."""
    shapes = _layout(config).shapes
    half = {name: _imagined(shape, "bfloat16", 2) for name, shape in shapes.items()}
    weights = Weights(tensors=half, paths=(Path(kind),), container="safetensors")
    if kind in FLOATS or kind in EIGHT_BIT:
        return recast(weights, kind)
    block = BLOCKS[kind].nbytes / BLOCKS[kind].values
    packed = {name: _imagined(shape, kind, block) for name, shape in shapes.items() if in_blocks(name, shape)}
    return weights.with_tensors({**half, **packed})


class Layout(NamedTuple):
    """Names and shapes of a network's tensors; and which are weights of plain linear layers, which may stay packed."""

    shapes: Mapping[str, tuple[int, ...]]
    plain: frozenset[str]


@cache
def _layout(config: WanConfig) -> Layout:
    module = on_meta(lambda: build_wan(config))
    shapes = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    return Layout(shapes, frozenset(f"{name}.weight" for name, m in module.named_modules() if type(m) is nn.Linear))


def _imagined(shape: tuple[int, ...], kind: str, each: float) -> LazyTensor:
    size = torch.Size(shape).numel()
    return LazyTensor(shape=shape, dtype=kind, nbytes=round(size * each), read=_nowhere)


def _nowhere() -> Tensor:
    raise RuntimeError("weights of a forecast were read, but they are in no file")


def _loras(job: Job, bundle: Bundle) -> tuple[dict[str, Beside], tuple[str, ...]]:
    """Branches that run beside each expert's packed weights, and what is to be said of the LoRAs."""
    texts, notes = with_usual_weights(job.lora, preset_of(job, bundle.experts))
    if not texts:
        return {}, notes
    models = {expert.name: expert.weights for expert in bundle.experts}
    given, said = fit_loras([parse_lora(text) for text in texts], models)
    merged = {name: merge(weights, given[name]) for name, weights in models.items()}
    more = dict.fromkeys(note for one in merged.values() for note in one.notes)
    return {name: one.beside for name, one in merged.items()}, (*notes, *said, *more)


def _numbers(model: WanModel, settings: Settings, frames: int, beside: Mapping[str, Beside]) -> RunNumbers:
    family, config, dtype = model.family, model.family.config, model.loader.dtype
    steps = Counter[int]()
    for run in settings.handoff.runs(settings.sigmas):
        steps[run.expert] += run.steps
    grid = tokens(settings.length, settings.size, model.vae_stride, config.patch)
    reference = 1 if isinstance(config, AnimateConfig | VaceConfig) else 0  # the picture is a latent frame of its own
    passes = [1 if scale == 1 else 2 for scale in settings.guidance]
    return RunNumbers(
        network=network(config),
        experts=tuple(
            expert_numbers(expert, steps[k], passes[k], beside.get(expert.name, {}), dtype)
            for k, expert in enumerate(model.bundle.experts)
        ),
        grid=(grid[0] + reference, *grid[1:]),
        size=settings.size,
        frames=settings.length,
        codec=CODECS[family.vae],
        segments=len(plan(frames, settings.length, settings.overlap)),
        encodes=ENCODES.get(family.task, 0),
        text=TEXT,
        image=IMAGE if family.clip else 0,
        value=dtype.itemsize,
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
    """Bytes of an expert as it is loaded: plain linear layers stay packed, everything else is in `dtype`."""
    plain = _layout(expert.config).plain
    units, packed = Counter[str](), Counter[str]()
    for name, tensor in expert.weights.items():
        unit = _unit(name)
        if name in plain and tensor.packed:
            units[unit] += tensor.nbytes + (tensor.scale.nbytes if tensor.scale is not None else 0)
            packed[_kind(tensor)] += tensor.size if unit else 0
        else:
            units[unit] += tensor.size * dtype.itemsize
        units[unit] += sum((down.numel() + up.numel()) * dtype.itemsize for down, up, _ in beside.get(name, ()))
    blocks = {unit: nbytes for unit, nbytes in units.items() if unit}
    return ExpertNumbers(
        name=expert.name,
        steps=steps,
        passes=passes,
        nbytes=sum(units.values()),
        trunk=units[""],
        block=max(blocks.values()),
        blocks=len(blocks),
        packed=tuple(packed.items()),
    )


def _unit(name: str) -> str:
    """The block that a weight is in; "" for the trunk."""
    return ".".join(name.split(".")[:2]) if name.startswith(ROWS) else ""


def _kind(tensor: LazyTensor) -> str:
    """Its type, as the arithmetic of unpacking tells types apart."""
    return "fp8_scaled" if tensor.scale is not None else tensor.dtype


def _kinds(bundle: Bundle) -> tuple[str, ...]:
    """The types in which matrices of the blocks are stored, the most frequent first."""
    weights = [tensor for expert in bundle.experts for tensor in expert.weights.values() if len(tensor.shape) == 2]
    return tuple(kind for kind, _ in Counter(_kind(tensor) for tensor in weights).most_common(2))
