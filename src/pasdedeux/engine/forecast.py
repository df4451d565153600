"""What a job would take, as the plain numbers of `residency.budget`: from a family's name alone, or from the headers of
its files. Nothing is loaded; a network is built on meta, where it has sizes and no memory.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pasdedeux.checkpoints.bundle import Bundle, ExpertWeights, find_bundle
from pasdedeux.checkpoints.families import FAMILIES, Family
from pasdedeux.checkpoints.lora import fit_loras, parse_lora
from pasdedeux.checkpoints.lora.merge import merge
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.recast import EIGHT_BIT, FLOATS, in_blocks, recast
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.engine.job import GENERATE, Job
from pasdedeux.engine.loader import ExpertLoader
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.numbers import Beside, kind_of, layout_of, run_numbers
from pasdedeux.engine.settings import Settings
from pasdedeux.engine.wan import WanModel, shortened
from pasdedeux.engine.wan_loras import preset_of, with_usual_weights
from pasdedeux.engine.wan_stages import DRIVEN
from pasdedeux.models.wan.config import WanConfig
from pasdedeux.residency.arithmetic import length
from pasdedeux.residency.budget import Prediction, RunNumbers, in_gb, in_time, predict
from pasdedeux.residency.cards import Card, find_card

__all__ = [
    "Card",
    "Forecast",
    "Prediction",
    "find_card",
    "forecast",
    "in_gb",
    "in_time",
    "job_for",
    "length",
    "open_forecast",
    "predict",
]

KINDS = (*FLOATS, *EIGHT_BIT, *BLOCKS)
ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


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
    loader = ExpertLoader(bundle=bundle, device="cpu", dtype=compute)
    return WanModel(name=model, bundle=bundle, loader=loader, device="cpu", memory=Memory())


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
        run=run_numbers(bundle, settings, frames, dtype=model.loader.dtype, beside=beside),
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
    shapes = layout_of(config).shapes
    half = {name: _imagined(shape, "bfloat16", 2) for name, shape in shapes.items()}
    weights = Weights(tensors=half, paths=(Path(kind),), container="safetensors")
    if kind in FLOATS or kind in EIGHT_BIT:
        return recast(weights, kind)
    block = BLOCKS[kind].nbytes / BLOCKS[kind].values
    packed = {name: _imagined(shape, kind, block) for name, shape in shapes.items() if in_blocks(name, shape)}
    return weights.with_tensors({**half, **packed})


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


def _kinds(bundle: Bundle) -> tuple[str, ...]:
    """The types in which matrices of the blocks are stored, the most frequent first."""
    weights = [tensor for expert in bundle.experts for tensor in expert.weights.values() if len(tensor.shape) == 2]
    return tuple(kind for kind, _ in Counter(kind_of(tensor) for tensor in weights).most_common(2))
