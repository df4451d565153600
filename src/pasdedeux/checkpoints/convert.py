"""A transformer from any layout to any other, tensor by tensor.

`Target` says what is wanted: the names (dialect), the kind of file (container) and the type of the values. Everything
that can be known beforehand is checked before the first byte is written: whether the layout exists, whether the place
is free, and whether the disk has room.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pasdedeux.checkpoints.configs import diffusers_config, model_index, native_config
from pasdedeux.checkpoints.formats.writers import (
    SHARD_BYTES,
    check_free,
    staged,
    write_gguf,
    write_safetensors,
    write_sharded,
)
from pasdedeux.checkpoints.names.dialects import DIALECTS, from_native, to_native
from pasdedeux.checkpoints.names.identify import Hints, hints_of, identify
from pasdedeux.checkpoints.names.layouts import json_object
from pasdedeux.checkpoints.packing.recast import (
    EIGHT_BIT,
    FLOATS,
    FP8,
    GGUF_BLOCKS,
    GGUF_PLAIN,
    MARKER,
    for_gguf,
    recast,
)
from pasdedeux.checkpoints.repositories import in_words
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.models.wan.config import WanConfig

CONTAINERS = ("safetensors", "sharded", "gguf")
SUFFIXES = {"safetensors": ".safetensors", "gguf": ".gguf"}
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
DTYPES = ("keep", *FLOATS, *EIGHT_BIT, *GGUF_PLAIN, *GGUF_BLOCKS)
FOLDERS = {
    "native": {"high": "high_noise_model", "low": "low_noise_model"},
    "diffusers": {"high": "transformer", "low": "transformer_2"},
}
LABEL, EXPERTS = "wan.", ("high", "low")  # what a header says of the model begins so
SPARE_BYTES = 64_000_000  # left free on the disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What to write. Raises ValueError for a layout that nothing reads.

    dialect: whose names; container: one safetensors file, shards of at most `shard_bytes`, or GGUF; dtype: "keep", a
    float, an 8-bit float with or without scales, or a GGUF type.
    """

    dialect: str = "native"
    container: str = "safetensors"
    dtype: str = "keep"
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        _one_of("layout", self.dialect, DIALECTS)
        _one_of("container", self.container, CONTAINERS)
        _one_of("dtype", self.dtype, DTYPES)
        gguf = self.container == "gguf"
        if gguf and self.dialect == "diffusers":
            raise ValueError("GGUF files are written under native names; diffusers itself reads them so.")
        if gguf and self.dtype in EIGHT_BIT:
            raise ValueError(f"GGUF has no {self.dtype}; of its types Q8_0 comes nearest.")
        if not gguf and self.dtype in (*GGUF_PLAIN, *GGUF_BLOCKS):
            raise ValueError(f"{self.dtype} is a type of GGUF files; choose gguf, or one of {', '.join(FLOATS)}.")
        if self.dialect == "comfyui" and self.container == "sharded":
            raise ValueError("ComfyUI reads single files; choose safetensors or gguf, or the native layout.")
        if self.dialect == "diffusers" and self.dtype == "fp8_scaled":
            raise ValueError("diffusers ignores the scales of fp8_scaled; choose native or comfyui, or bfloat16.")
        if self.shard_bytes < 1:
            raise ValueError(f"A shard of {self.shard_bytes} bytes holds nothing; it must be 1 or more.")

    @property
    def folder(self) -> bool:
        """Whether a model becomes a folder, with a config.json."""
        return self.dialect == "diffusers" or self.container == "sharded"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a conversion is: tensors and bytes written, of how many."""

    tensors: int
    of_tensors: int
    nbytes: int
    of_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """One transformer on its way: what is written where under the staged `out`, and what is beside it."""

    weights: Weights
    place: "_Place"
    expert: str = ""  # of a pair
    config: WanConfig | None = None  # of one that becomes a folder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A file, or a folder with perhaps a folder in it: `out` is what is staged."""

    out: Path
    folder: bool = False
    inner: str = ""

    def under(self, stages: Mapping[Path, Path]) -> Path:
        return stages[self.out] / self.inner if self.inner else stages[self.out]


def convert(
    source: Weights,
    target: Target,
    out: Path,
    *,
    overwrite: bool = False,
    sources: Iterable[Path] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Path]:
    """Write one transformer, under whatever names it comes, and return what was written.

    `out` is a file, or a folder for shards and for diffusers. `sources`: paths that the user gave, which `out` must
    not lie in. Raises ValueError if the layout has no place for a value, or `out` cannot be written.
    """
    return _convert({"": source}, target, out, (), overwrite, sources, on_progress)


def convert_pair(
    high: Weights,
    low: Weights,
    target: Target,
    out: Path,
    *,
    bounds: Sequence[float] = (),
    overwrite: bool = False,
    sources: Iterable[Path] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Path]:
    """Write both experts: folders in the folder `out`, or for single files OUT_high_noise and OUT_low_noise.

    `bounds`: where the second takes over, which a diffusers folder records. Raises ValueError as `convert` does.
    """
    return _convert({"high": high, "low": low}, target, out, tuple(bounds), overwrite, sources, on_progress)


def labelled(weights: Weights, family: str, expert: str) -> Weights:
    """The weights with what a converted file's header says of them: `wan.family`, and of a pair `wan.expert`."""
    labels = {f"{LABEL}family": family} | ({f"{LABEL}expert": expert} if expert in EXPERTS else {})
    return replace(weights, metadata={**weights.metadata, **labels})


def check_apart(out: Path, sources: Iterable[Path]) -> None:
    """Raise ValueError if writing `out` would write into what is read, or over it."""
    place = out.resolve()
    for source in {path.resolve() for path in sources}:
        if place == source or place in source.parents:
            raise ValueError(f"{out} is where the model is read from; write it to another place.")
        if source.is_dir() and source in place.parents:
            raise ValueError(f"{out} lies inside {source}, which is read; write it to another place.")


def check_room(out: Path, nbytes: int) -> None:
    """Raise ValueError if the disk has no room for that many bytes."""
    place = next(parent for parent in out.resolve().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if nbytes + SPARE_BYTES > free:
        left = f"only {in_words(free)} are free on its disk, where {in_words(SPARE_BYTES)} are to be left"
        raise ValueError(f"{out} would take {in_words(nbytes)}, but {left}.")


def planned(source: Weights, target: Target) -> Weights:
    """What will be written: names, shapes, types and sizes, and values still to be computed."""
    native, _ = to_native(source)
    _check_kept(native, target)
    cast = recast(native, target.dtype)
    if target.container == "gguf":
        return for_gguf(cast)
    scaled = target.dialect != "diffusers" and any(t.scale is not None for t in cast.values())
    named = from_native(cast, target.dialect)
    return _with_scales(named) if scaled else named


def _convert(
    experts: Mapping[str, Weights],
    target: Target,
    out: Path,
    bounds: tuple[float, ...],
    overwrite: bool,
    sources: Iterable[Path],
    on_progress: Callable[[Progress], None],
) -> list[Path]:
    places = _places(tuple(experts), target, out)
    check_apart(out, sources)
    for place, folder in {place.out: place.folder for place in places.values()}.items():
        check_apart(place, (path for weights in experts.values() for path in (*weights.paths, weights.path)))
        check_free(place, overwrite, folder=folder)
    jobs = [_job(name, weights, target, places[name]) for name, weights in experts.items()]
    extra = _index(jobs, target, bounds) if target.dialect == "diffusers" and len(jobs) > 1 else None
    check_room(out, sum(job.weights.nbytes for job in jobs))
    _write(jobs, target, overwrite, extra, on_progress)
    return list(dict.fromkeys(job.place.out for job in jobs))


def _job(expert: str, weights: Weights, target: Target, place: _Place) -> _Job:
    config = None
    if place.folder:
        config = identify(to_native(weights)[0].shapes, _hints(weights.path))
        _config(config, target)  # raises where the layout has no such model
    return _Job(weights=planned(weights, target), place=place, expert=expert, config=config)


def _hints(path: Path) -> Hints | None:
    """What a config.json beside the weights says that shapes do not."""
    beside = (path if path.is_dir() else path.parent) / "config.json"
    return hints_of(json_object(beside)) if beside.is_file() else None


def _places(names: tuple[str, ...], target: Target, out: Path) -> dict[str, _Place]:
    """For each expert the file or folder it goes to."""
    pair = len(names) > 1
    if out.suffix in PICKLES:
        raise ValueError(f"{out} is not written, {out.suffix} is only read; choose .safetensors, .gguf or a folder.")
    if target.folder or (pair and target.dialect == "native" and target.container == "safetensors"):
        if out.suffix in SUFFIXES.values():
            raise ValueError(f"{out} must be a folder: this layout has several files; leave the suffix out.")
        inner = FOLDERS[target.dialect] if pair else dict.fromkeys(names, "")
        return {name: _Place(out=out, folder=True, inner=inner[name]) for name in names}
    suffix = SUFFIXES[target.container]
    if out.suffix != suffix and not (pair and out.suffix not in SUFFIXES.values()):
        raise ValueError(f"{out} must end in {suffix}.")
    stem = out.name.removesuffix(suffix)
    return {name: _Place(out=out.with_name(f"{stem}_{name}_noise{suffix}") if name else out) for name in names}


def _write(
    jobs: Sequence[_Job],
    target: Target,
    overwrite: bool,
    extra: Mapping[str, object] | None,
    on_progress: Callable[[Progress], None],
) -> None:
    written = _Counter(jobs, on_progress)
    with ExitStack() as stack:
        outs = dict.fromkeys(job.place.out for job in jobs)
        stages = {out: stack.enter_context(staged(out, overwrite)) for out in outs}
        for job in jobs:
            path = job.place.under(stages)
            if job.config is not None:
                path.mkdir(parents=True, exist_ok=True)
                _json(path / "config.json", _config(job.config, target))
            _write_one(job, target, path, written)
        if extra is not None:
            _json(stages[jobs[0].place.out] / "model_index.json", extra)


def _write_one(job: _Job, target: Target, path: Path, written: Callable[[LazyTensor], None]) -> None:
    weights = job.weights
    plain = "safetensors" in weights.container and target.container != "gguf"
    metadata = {key: text for key, text in weights.metadata.items() if plain or key.startswith(LABEL)}
    metadata |= {f"{LABEL}expert": job.expert} if job.expert else {}
    if target.container == "gguf":
        kind = target.dtype if target.dtype != "keep" else _mostly(weights)
        write_gguf(path, weights, metadata, written, kind)
    elif job.place.folder:
        whole = max(1, weights.nbytes)
        write_sharded(path, weights, metadata, written, target.shard_bytes if target.container == "sharded" else whole)
    else:
        write_safetensors(path, weights, metadata, written)


def _mostly(weights: Weights) -> str:
    """The type most bytes have."""
    sizes: dict[str, int] = {}
    for tensor in weights.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda kind: sizes[kind])


class _Counter:
    """Counts what was written, and says so."""

    def __init__(self, jobs: Sequence[_Job], on_progress: Callable[[Progress], None]) -> None:
        self._of = [tensor.nbytes for job in jobs for tensor in job.weights.values()]
        self._done, self._bytes, self._say = 0, 0, on_progress

    def __call__(self, tensor: LazyTensor) -> None:
        self._done, self._bytes = self._done + 1, self._bytes + tensor.nbytes
        self._say(Progress(self._done, len(self._of), self._bytes, sum(self._of)))


def _check_kept(weights: Weights, target: Target) -> None:
    """Raise ValueError if values are to be kept that the target has no place for."""
    if target.dtype != "keep":
        return
    blocks = next((t.dtype for t in weights.values() if t.dtype[:1].isupper()), None)
    if blocks and target.container != "gguf":
        raise ValueError(f"{weights.path} holds {blocks}, which only GGUF files can keep; give a dtype, as bfloat16.")
    if target.dialect == "diffusers" and any(t.scale is not None for t in weights.values()):
        raise ValueError(f"{weights.path} has scales, which diffusers ignores; give a dtype, as bfloat16.")


def _with_scales(weights: Weights) -> Weights:
    """Scales as tensors of their own, and the marker by which ComfyUI knows such a file.

    Two elements in the marker ask for products in full precision, of the rounded weights.
    """
    import torch

    flat: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        flat[name] = tensor
        if tensor.scale is not None:
            flat[f"{name.removesuffix('.weight')}.scale_weight"] = tensor.scale
    read = lambda: torch.zeros(2, dtype=getattr(torch, FP8))  # noqa: E731
    flat[MARKER] = LazyTensor(shape=(2,), dtype=FP8, nbytes=2, read=read)
    return weights.with_tensors(flat)


def _config(config: WanConfig, target: Target) -> dict[str, object]:
    return diffusers_config(config) if target.dialect == "diffusers" else native_config(config)


def _index(jobs: Sequence[_Job], target: Target, bounds: tuple[float, ...]) -> dict[str, object]:
    if len(bounds) != len(jobs) - 1:
        raise ValueError("A diffusers folder of two experts records where the second takes over; give the boundary.")
    config = jobs[0].config
    assert config is not None
    return model_index(config, bounds)


def _json(path: Path, record: Mapping[str, object]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f'The {what} is "{given}"; it must be one of {", ".join(known)}.')
