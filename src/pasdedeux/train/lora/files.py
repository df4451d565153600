"""A trained LoRA as files: one for each expert, in the manner of ComfyUI, of kohya's trainers or of diffusers.

Each says its alpha: as a tensor beside every layer or, where diffusers would not read that, as its own metadata, with
B multiplied so that alpha equals rank, which is what readers take where they look at neither. The metadata say which
expert it is for, its noise levels, and what it was trained on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pasdedeux.checkpoints.lora.base import BASE
from pasdedeux.checkpoints.lora.choice import EXPERT
from pasdedeux.checkpoints.names.keymaps import KeyMap, transformer_keys
from pasdedeux.train.bands import Band
from pasdedeux.train.lora.learner import LoraLearner
from pasdedeux.train.saving import whole_file

FORMS = ("comfyui", "kohya", "diffusers")
Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer's change s B A: down A [rank, in, ...], up B [out, rank, ...], alpha = s * rank."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Of the product."""
        return self.down.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What one expert learnt: layers by the model's names, differences in full, and what is to be said of it."""

    expert: str
    layers: Mapping[str, Layer]
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def trained(learner: LoraLearner, weights: Mapping[str, Tensor], step: int, model: str) -> Trained:
    """What was learnt: `weights` of a step, by the learner's names, beside an expert of a model of that name."""
    layers = {
        name: Layer(down=weights[f"{name}.down"], up=weights[f"{name}.up"], alpha=branch.scale * branch.rank)
        for name, branch in learner.branches.items()
    }
    shape, said = learner.course.shape, {"pasdedeux.step": str(step), "pasdedeux.model": model}
    if learner.name in ("high", "low"):
        said["wan.expert"] = learner.name
    said |= {
        EXPERT: learner.name,
        "pasdedeux.band": band_text(learner.band),
        BASE: learner.subject.base(learner.position),
        "pasdedeux.targets": shape.targets,
        "ss_network_dim": str(shape.rank),
        "ss_network_alpha": f"{shape.alpha:g}",
        "ss_network_module": "networks.lora",
    }
    differences = learner.subject.differences(learner.position)
    return Trained(expert=learner.name, layers=layers, differences=differences, metadata=said)


def band_text(band: Band) -> str:
    """A band as JSON."""
    return json.dumps({"low": band.low, "high": band.high, "shift": band.shift})


def in_form(result: Trained, form: str, names: Mapping[str, tuple[int, ...]]) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a file in one of FORMS. names: the model's, with their shapes."""
    if form == "comfyui":
        return dict(_comfyui(result)), dict(result.metadata)
    if form == "kohya":
        return dict(_kohya(result)), dict(result.metadata)
    if form == "diffusers":
        return _diffusers(result, transformer_keys(names))
    raise ValueError(f'There is no form "{form}"; there are {", ".join(FORMS)}.')


def write_lora(
    path: Path,
    result: Trained,
    names: Mapping[str, tuple[int, ...]],
    form: str = "comfyui",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a file in a form, its matrices in `dtype`, the rest in float32. Raises SaveError where the disk is full."""
    tensors, metadata = in_form(result, form, names)
    whole = (".alpha", ".diff", ".diff_b")
    kinds = {key: torch.float32 if key.endswith(whole) else dtype for key in tensors}
    kept = {key: tensor.to("cpu", kinds[key]).contiguous().clone() for key, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(save(kept, {**metadata, "pasdedeux.form": form, "format": "pt"}))
    return path


def _differences(result: Trained) -> Iterator[tuple[str, str, Tensor]]:
    """Layer, part and values of what changes in full."""
    for name, value in result.differences.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "bias":
            yield stem, "diff_b", value
        else:
            yield (stem if leaf == "weight" else name), "diff", value


def _comfyui(result: Trained) -> Iterator[tuple[str, Tensor]]:
    for name, layer in result.layers.items():
        yield f"diffusion_model.{name}.lora_A.weight", layer.down
        yield f"diffusion_model.{name}.lora_B.weight", layer.up
        yield f"diffusion_model.{name}.alpha", torch.tensor(layer.alpha)
    for name, part, value in _differences(result):
        yield f"diffusion_model.{name}.{part}", value


def _kohya(result: Trained) -> Iterator[tuple[str, Tensor]]:
    for name, layer in result.layers.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        yield f"{stem}.lora_down.weight", layer.down
        yield f"{stem}.lora_up.weight", layer.up
        yield f"{stem}.alpha", torch.tensor(layer.alpha)
    for name, part, value in _differences(result):
        yield f"lora_unet_{name.replace('.', '_')}.{part}", value


def _diffusers(result: Trained, keys: KeyMap) -> tuple[Tensors, dict[str, str]]:
    tensors: Tensors = {}
    ranks: dict[str, int] = {}
    for name, layer in result.layers.items():
        up = layer.up * (layer.alpha / layer.rank)
        halves = keys.halved.get(name, ())
        parts = zip(halves, up.chunk(2), strict=True) if halves else [(keys.renamed.get(name, name), up)]
        for theirs, part in parts:
            tensors[f"transformer.{theirs}.lora_A.weight"] = layer.down
            tensors[f"transformer.{theirs}.lora_B.weight"] = part
            ranks[theirs] = layer.rank
    for name, part, value in _differences(result):
        tensors[f"transformer.{keys.renamed.get(name, name)}.{part}"] = value
    most = max(ranks.values(), default=1)
    others = {name: rank for name, rank in ranks.items() if rank != most}
    config = {
        "r": most,
        "lora_alpha": most,
        "target_modules": list(ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_bias": False,
    }
    said = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    return tensors, {**result.metadata, "lora_adapter_metadata": said}
