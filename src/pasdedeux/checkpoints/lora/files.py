"""LoRA files of every dialect, told against one model: what each key changes, with every shape checked.

Nothing is dropped: a key has a place in the model, or is listed as having none, or the file is refused. Only headers
and alphas are read here; the matrices are read when they are merged.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.lora.base import other_base
from pasdedeux.checkpoints.lora.change import LoRA, first
from pasdedeux.checkpoints.lora.choice import LoRAChoice, assign, expert_of
from pasdedeux.checkpoints.lora.dialects import Key, Shapes, dialect_of, expert_of_layer, parse
from pasdedeux.checkpoints.lora.hints import made_for
from pasdedeux.checkpoints.lora.reader import Reader
from pasdedeux.checkpoints.names.swaps import Expert
from pasdedeux.checkpoints.tensors import Weights

_DIFFUSERS_METADATA = "lora_adapter_metadata"
EXPERTS: Mapping[str, Expert] = {"high": "high", "low": "low"}


def read_lora(
    weights: Weights,
    shapes: Shapes,
    *,
    config: Mapping[str, Any] | None = None,
    expert: Expert | None = None,
) -> LoRA:
    """The LoRA in a file, as changes of the model with those (native) names and shapes.

    config: PEFT's adapter_config.json; expert: whose keys to take from a file that holds those of both. Raises
    ValueError naming the key where halves are missing, ranks disagree or shapes do not fit, and where nothing fits.
    """
    keys = [key for key in map(parse, weights) if key is not None]
    if not keys:
        raise ValueError(f"{weights.path} is no LoRA: its {len(weights)} keys ({_some(weights)}) are not those of one.")
    keys, others = _of_expert(keys, expert, weights.path)
    said = expert_of(weights.path, weights.metadata) or _expert_of_prefixes(keys)
    scaling = _scaling(weights, config, said)
    reader = Reader(weights, shapes, scaling.of)
    reader.read(keys)
    if not reader.matched:
        raise ValueError(_nothing_fits(weights, keys))
    return _lora(reader, others, said, bool(reader.alphas or scaling.given))


def fit_loras(
    choices: Sequence[LoRAChoice], models: Mapping[str, Weights]
) -> tuple[dict[str, tuple[tuple[LoRA, float], ...]], tuple[str, ...]]:
    """What each expert is to be merged with, and notes: files opened, given out, and told against the experts' weights.

    models: the (native) weights of each expert, by name, noisiest first. Raises ValueError as `assign` and
    `read_lora` do.
    """
    files = {choice.path: open_weights(choice.path) for choice in choices}
    given, notes = assign(choices, list(models), {path: file.metadata for path, file in files.items()})
    fitted: dict[str, tuple[tuple[LoRA, float], ...]] = {}
    said = list(notes)
    for name, mine in given.items():
        shapes, expert = models[name].shapes, EXPERTS.get(name)
        fitted[name] = tuple(
            (read_lora(files[one.path], shapes, config=config_beside(one.path), expert=expert), one.weight)
            for one in mine
        )
        said += [f"In {title_of(name)}, {lora.path.name} {lora.summary()}." for lora, _ in fitted[name]]
        said += [f"In {title_of(name)}, {doubt}" for lora, _ in fitted[name] for doubt in lora.doubts()]
        others = ((lora.path.name, other_base(lora.metadata, models[name])) for lora, _ in fitted[name])
        said += [f"In {title_of(name)}, {file} {other}." for file, other in others if other]
    return fitted, tuple(said)


def title_of(expert: str) -> str:
    """What an expert is called in a sentence."""
    return "the model" if expert == "model" else f"the {expert} expert"


def config_beside(path: Path) -> Mapping[str, Any] | None:
    """PEFT's adapter_config.json from the folder of a LoRA file, if there is one. Raises ValueError if it is broken."""
    beside = path.with_name("adapter_config.json")
    return _json(beside.read_bytes(), str(beside)) if beside.is_file() else None


def _lora(reader: Reader, others: tuple[str, ...], expert: Expert | None, alphas: bool) -> LoRA:
    weights, changes = reader.weights, reader.changes
    known = {*reader.matched, *others}
    unmatched = tuple(key for key in weights if key not in known)
    ranks = [change.rank for some in changes.values() for change in some if change.rank is not None]
    linear = [name for name, shape in reader.shapes.items() if name.endswith(".weight") and len(shape) == 2]
    return LoRA(
        path=weights.path,
        changes={name: tuple(some) for name, some in changes.items()},
        dialects=tuple(dict.fromkeys(reader.matched.values())),
        matched=tuple(key for key in weights if key in reader.matched),
        unmatched=unmatched,
        other_expert=others,
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alphas=alphas,
        without_alpha=reader.without_alpha,
        coverage=sum(name in changes for name in linear) / max(1, len(linear)),
        expert=expert,
        made_for=made_for(unmatched),
        metadata=weights.metadata,
    )


def _of_expert(keys: list[Key], expert: Expert | None, path: Path) -> tuple[list[Key], tuple[str, ...]]:
    """The keys of one expert, and the names of the other's, where the prefixes name both."""
    said = {key.key: expert_of_layer(key.layer) for key in keys}
    if not {"high", "low"} <= set(said.values()):
        return keys, ()
    if expert is None:
        raise ValueError(f"{path} holds a LoRA for each expert; say which one is meant, as high:{path.name}.")
    others = tuple(key for key, of in said.items() if of not in (expert, None))
    return [key for key in keys if key.key not in others], others


def _expert_of_prefixes(keys: list[Key]) -> Expert | None:
    """The low-noise expert where every key says so; that of the high-noise one is also that of a single model."""
    return "low" if all(expert_of_layer(key.layer) == "low" for key in keys) else None


def _nothing_fits(weights: Weights, keys: list[Key]) -> str:
    hint = made_for(weights) or "its layers are not those of this model"
    dialect = dialect_of(keys[:1])
    return (
        f"{weights.path} looks like a LoRA in the manner of {dialect}, but none of its {len(weights)} keys "
        f"({_some(weights)}) has a place in this model; {hint}."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scaling:
    """alpha / rank where a file's keys have no alpha: as PEFT's config says, or 1. Patterns are PEFT's, by layer."""

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    root: bool = False
    source: str = ""

    @property
    def given(self) -> bool:
        return self.alpha is not None

    def of(self, layer: str, rank: int) -> float:
        if self.alpha is None:
            return 1.0
        own = (alpha for pattern, alpha in self.patterns.items() if _is_layer(pattern, layer, self.source))
        return next(own, self.alpha) / (sqrt(rank) if self.root else rank)


def _is_layer(pattern: str, layer: str, source: str) -> bool:
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None
    except re.error as error:
        raise ValueError(f"{source} has the alpha pattern {pattern!r}, which is no regular expression.") from error


def _scaling(weights: Weights, config: Mapping[str, Any] | None, expert: Expert | None) -> _Scaling:
    """From PEFT's config if there is one, else from diffusers' metadata, which is the same under a prefix."""
    source = f"The adapter_config.json of {weights.path}"
    if config is None and _DIFFUSERS_METADATA in weights.metadata:
        source = f"The metadata of {weights.path}"
        every = _json(weights.metadata[_DIFFUSERS_METADATA], source)
        prefixes = ("transformer_2.", "transformer.") if expert == "low" else ("transformer.", "transformer_2.")
        prefix = next((p for p in prefixes if any(key.startswith(p) for key in every)), "")
        config = {key.removeprefix(prefix): value for key, value in every.items() if key.startswith(prefix)}
    if config is None or config.get("lora_alpha") is None:
        return _Scaling()
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"{source} has {patterns!r} for alpha_pattern; it is a table of layers and numbers.")
    return _Scaling(
        alpha=_number(config["lora_alpha"], source),
        patterns={str(pattern): _number(alpha, source) for pattern, alpha in patterns.items()},
        root=bool(config.get("use_rslora", False)),
        source=source,
    )


def _number(value: object, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value == 0:
        raise ValueError(f"{source} has {value!r} for an alpha; it is a finite number other than 0.")
    return float(value)


def _json(text: str | bytes, source: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source} cannot be read as JSON ({error}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"{source} is not a JSON object.")
    return record


def _some(names: Iterable[str]) -> str:
    return first(list(names))
