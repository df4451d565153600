"""Weights to files, one tensor in memory at a time: safetensors, whole or in shards, and GGUF.

What is to be written is a mapping of LazyTensors, as what was read is: sizes are known beforehand, so the header goes
first, and each value is computed when its turn comes. A file or folder grows under another name beside its place and
is moved there when it is whole; a failure or Ctrl-C leaves nothing behind.

Pickles (.pth) are read, never written: they hold nothing that a safetensors file does not, and nobody should have to
trust one more of them.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from pasdedeux.checkpoints.tensors import LazyTensor

Tensors = Mapping[str, LazyTensor]
Written = Callable[[LazyTensor], None]
SHARD_BYTES = 5_000_000_000
SHARD_NAME = "diffusion_pytorch_model"
# Names that the safetensors format has for types that torch has.
SAFE_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# What a folder may hold that is written over: other weights may be the only copy of somebody's model.
OURS = re.compile(
    r"((high_noise_model|low_noise_model|transformer|transformer_2)/)?"
    rf"(config\.json|model_index\.json|{SHARD_NAME}(-\d+-of-\d+)?\.safetensors(\.index\.json)?)"
)


@contextmanager
def staged(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A name beside `out` to write a file or a folder under; it becomes `out` if the block ends well.

    Raises ValueError if `out` exists and may not be overwritten, or is a folder with more than a model in it.
    """
    check_free(out, overwrite)
    partial = out.with_name(f"{out.name}.partial")
    remove(partial)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if out.is_dir():  # a folder cannot be moved over another
            shutil.rmtree(out)
        partial.replace(out)
    finally:
        remove(partial)  # on every way out but the one on which it has its name by now


def check_free(out: Path, overwrite: bool = False, *, folder: bool | None = None) -> None:
    """Raise ValueError unless `out` may be written; folder: as a folder or as a file, where that is known."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir():
        raise ValueError(f"{out} cannot be written: {place} is no folder.")
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists already; give another name, or say that it may be overwritten (--overwrite).")
    if folder is not None and out.is_dir() != folder:
        kinds = ("folder", "file") if out.is_dir() else ("file", "folder")
        raise ValueError("{} is a {}, and no {} is written over it; give another name.".format(out, *kinds))
    inside = sorted(path for path in out.rglob("*") if not path.is_dir()) if out.is_dir() else []
    strange = [path.name for path in inside if not OURS.fullmatch(path.relative_to(out).as_posix())]
    if strange:
        raise ValueError(f"{out} is not overwritten, because it holds more than a model: {strange[0]}.")


def remove(path: Path) -> None:
    """A file or a folder, whether it is there or not."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str], written: Written) -> None:
    """One file. Wider types come first in it, so that every value lies aligned, as the format's readers like it."""
    _check_types(tensors)
    order = sorted(tensors, key=lambda name: -_width(tensors[name]))
    starts, end, entries = {}, 0, {}
    for name in order:
        tensor = tensors[name]
        starts[name], end = end, end + tensor.nbytes
        span = [starts[name], end]
        entries[name] = {"dtype": SAFE_TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
    text = json.dumps({"__metadata__": {**metadata, "format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        for name, tensor in tensors.items():
            file.seek(first + starts[name])
            _write_values(file, tensor.read(), name, tensor)
            written(tensor)
        file.truncate(first + end)


def write_sharded(
    folder: Path, tensors: Tensors, metadata: Mapping[str, str], written: Written, shard_bytes: int = SHARD_BYTES
) -> None:
    """Files of at most `shard_bytes` (one tensor may be more) and their index; a single file where that is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = split(tensors, shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / f"{SHARD_NAME}.safetensors", tensors, metadata, written)
        return
    names = [f"{SHARD_NAME}-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, metadata, written)
    places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{SHARD_NAME}.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def split(tensors: Tensors, shard_bytes: int) -> list[dict[str, LazyTensor]]:
    """In the given order, a new shard whenever the next tensor would make the last one too large."""
    shards: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def write_gguf(path: Path, tensors: Tensors, metadata: Mapping[str, str], written: Written, file_type: str) -> None:
    """One GGUF file of architecture "wan". Types are GGUF's: "F32", "BF16", "Q8_0"; blocks are read as bytes."""
    from gguf import GGUFWriter

    _check_gguf_names(tensors)
    writer = GGUFWriter(None, "wan")
    try:
        _describe_gguf(writer, tensors, metadata, file_type)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            values = _bytes(tensor.read(), name, tensor)
            writer.write_tensor_data(values.numpy())
            written(tensor)
    finally:
        writer.close()


def _describe_gguf(writer: object, tensors: Tensors, metadata: Mapping[str, str], file_type: str) -> None:
    """Header and places: known before the first value is."""
    import numpy as np
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType

    assert isinstance(writer, GGUFWriter)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    kind = getattr(LlamaFileType, "ALL_F32" if file_type == "F32" else f"MOSTLY_{file_type}", None)
    if kind is not None:
        writer.add_file_type(kind)
    for key, text in metadata.items():
        writer.add_string(key, text)
    for name, tensor in tensors.items():
        # A type that is no bytes' keeps the package from taking the shape for one of bytes.
        kind = GGMLQuantizationType[tensor.dtype]
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)


def _check_types(tensors: Tensors) -> None:
    strange = [f"{name} ({t.dtype})" for name, t in tensors.items() if t.dtype not in SAFE_TYPES]
    if strange:
        raise ValueError(f"A safetensors file cannot hold {strange[0]}; convert to bfloat16 or to another plain type.")


def _check_gguf_names(tensors: Iterable[str]) -> None:
    long = [name for name in tensors if len(name.encode()) > 127]
    if long:
        raise ValueError(f"A GGUF file holds names of at most 127 bytes; {long[0]} is longer.")


def _width(tensor: LazyTensor) -> int:
    return getattr(torch, tensor.dtype).itemsize


def _write_values(file: BinaryIO, values: Tensor, name: str, tensor: LazyTensor) -> None:
    file.write(_bytes(values, name, tensor).numpy().data)


def _bytes(values: Tensor, name: str, tensor: LazyTensor) -> Tensor:
    """The values as they are stored. Raises RuntimeError if they are not what was announced: a fault of ours."""
    flat = values.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    if flat.numel() != tensor.nbytes:
        raise RuntimeError(f"{name} was to have {tensor.nbytes} bytes, but has {flat.numel()}.")
    return flat
