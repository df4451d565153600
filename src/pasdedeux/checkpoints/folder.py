"""A built-in-style model as a folder: `duet.json`, one safetensors file per expert, and the codec's.

Here a folder is read and written, so that training exports exactly what the engine opens. The manifest is
data: how many experts there are, where each takes over, and the defaults a job falls back to.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints.load import load_module
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer

MANIFEST = "duet.json"
CODEC_FILE = "codec.safetensors"
FAMILY = "duet"
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertFile:
    """One expert of a folder: its name, its file beside the manifest, its guidance scale (1: none)."""

    name: str
    file: str
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(
                f'The file of expert {self.name} is "{self.file}"; it must be a plain name, in the folder.'
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `duet.json` says. `bounds` are sigmas, one fewer than experts; `size` is (width, height).

    Raises ValueError where the parts do not fit each other.
    """

    codec: CodecConfig
    model: DuetConfig
    experts: tuple[ExpertFile, ...]
    bounds: tuple[float, ...]
    shift: float = 3.0
    steps: int = 12
    solver: str = "euler"
    length: int = 25
    overlap: int = 5
    fps: float = 12.0
    size: tuple[int, int] = (128, 128)
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.bounds) + 1:
            raise ValueError(
                f"{len(self.experts)} experts need {len(self.experts) - 1} bounds, not {len(self.bounds)}."
            )
        if len({expert.name for expert in self.experts}) < len(self.experts):
            raise ValueError("Two experts of the model bear the same name; each needs its own.")
        if self.dtype not in DTYPES:
            raise ValueError(f'The dtype is "{self.dtype}"; it must be one of {", ".join(DTYPES)}.')
        if self.model.channels != self.codec.channels:
            raise ValueError(
                f"The model takes {self.model.channels} channels, but the codec gives {self.codec.channels}."
            )

    @property
    def compute(self) -> torch.dtype:
        """The type the experts compute in; the codec computes in float32."""
        return getattr(torch, self.dtype)

    @property
    def grid(self) -> tuple[int, int]:
        """Width and height of a picture must be multiples of these."""
        return self.codec.stride[2], self.codec.stride[1]

    def to_json(self) -> str:
        """Indented text that `from_json` reads back as an equal manifest."""
        return json.dumps({"family": FAMILY, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises ValueError unless the text is a manifest of this family without unknown keys."""
        record = json.loads(text)
        family = record.pop("family", None) if isinstance(record, dict) else None
        if family != FAMILY:
            raise ValueError(f'The model\'s family is {json.dumps(family)}; only "{FAMILY}" can be opened.')
        experts = tuple(_record(ExpertFile, expert) for expert in record.pop("experts", []))
        codec, model = (
            _record(CodecConfig, record.pop("codec", {})),
            _record(DuetConfig, record.pop("model", {})),
        )
        return _record(cls, {**record, "codec": codec, "model": model, "experts": experts})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder. Raises ValueError if there is none or it is broken."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no {MANIFEST}.")
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def load_expert(folder: Path, manifest: Manifest, expert: ExpertFile, device: str = "cpu") -> DuetTransformer:
    """One expert in the manifest's compute type. Raises ValueError if its file does not fit."""
    return load_module(
        lambda: DuetTransformer(manifest.model), folder / expert.file, dtype=manifest.compute, device=device
    )


def load_codec(folder: Path, manifest: Manifest) -> PatchCodec:
    """The codec, in float32. Raises ValueError if its file does not fit."""
    return load_module(lambda: PatchCodec(manifest.codec), folder / CODEC_FILE, dtype=torch.float32)


def save_model(
    folder: Path,
    manifest: Manifest,
    experts: Mapping[str, Mapping[str, Tensor]],
    codec: Mapping[str, Tensor],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a model folder from state dicts, experts in `dtype`, codec in float32; the manifest comes last.

    Raises ValueError unless there is one state dict per expert of the manifest.
    """
    if set(experts) != {expert.name for expert in manifest.experts}:
        raise ValueError(f"Weights were given for {sorted(experts)}, but the manifest names {manifest.experts}.")
    folder.mkdir(parents=True, exist_ok=True)
    for expert in manifest.experts:
        _store(folder / expert.file, experts[expert.name], dtype)
    _store(folder / CODEC_FILE, codec, torch.float32)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _store(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    partial = path.with_suffix(".partial")
    save_file({name: t.detach().to("cpu", dtype).contiguous().clone() for name, t in weights.items()}, partial)
    partial.replace(path)


def _record(kind: type[Any], values: dict[str, Any]) -> Any:
    """A dataclass from JSON, whose lists are tuples here. Raises ValueError for keys it does not know."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} is not known in a {kind.__name__}; known are {', '.join(sorted(known))}."
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
