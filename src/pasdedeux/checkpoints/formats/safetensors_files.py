"""Safetensors: the header read, checked against the file, and turned into lazy tensors.

The header is not believed: it must be small enough to hold, every tensor's bytes must be as many as its shape and
type say, and together they must cover the file without gap or overlap. No weight is read for that.
"""

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pasdedeux.checkpoints.formats.mapped import InFile, MappedFile, name_of
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

MAX_HEADER = 32 << 20  # of a pair's 1,095 tensors it is 0.1 MB
MAX_COMMAS = 1 << 19  # a short item of JSON costs 64 bytes of memory: what a header may cost is bounded by its commas
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_safetensors(path: Path) -> Weights:
    """The tensors of one safetensors file. Raises ValueError if there is none, or it is not whole."""
    if not path.is_file():
        raise ValueError(f"There is no file of weights at {path}.")
    try:
        file = MappedFile(path)
        header, start = _header(file)
        metadata = header.pop("__metadata__", {})
        if not _is_text(metadata):
            raise ValueError("its metadata are not text by name")
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_cover(spans.values(), file.size - start)
        with safe_open(path, framework="np"):  # the format's own reader must agree; as numpy it maps nothing private
            pass
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error
    tensors = {name: _lazy(file, start, *span) for name, span in spans.items()}
    return Weights(tensors=tensors, paths=(path,), container="safetensors", metadata=metadata)


def parse_json(data: bytes) -> dict[str, Any]:
    """An object of JSON no larger than a header may be, without a key twice. Raises ValueError."""
    if len(data) > MAX_HEADER or data.count(b",") > MAX_COMMAS:
        raise ValueError(f"{len(data)} bytes of JSON with {data.count(b',')} commas are more than a model needs")
    found = json.loads(data, object_pairs_hook=_unique)
    if not isinstance(found, dict):
        raise ValueError(f"its JSON is a {type(found).__name__}, not an object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in its JSON")
    return found


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    with file.path.open("rb") as stream:
        first = stream.read(8)
        if len(first) < 8:
            raise ValueError(f"it has {file.size} bytes")
        length = struct.unpack("<Q", first)[0]
        if length > min(MAX_HEADER, file.size - 8):
            raise ValueError(f"its header should be {length} bytes long, in a file of {file.size}")
        return parse_json(stream.read(length)), 8 + length


Span = tuple[tuple[int, ...], torch.dtype, int, int]  # shape, type, first byte, byte after the last


def _span(name: str, entry: Any) -> Span:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by a type, a shape and offsets")
    shape, offsets, kind = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{name} is of type {kind}; known are {', '.join(TYPES)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"the shape or offsets of {name} are no whole numbers")
    begin, end = offsets
    wanted = math.prod(shape) * TYPES[kind].itemsize
    if end - begin != wanted:
        raise ValueError(f"{name} has {end - begin} bytes where its shape and type need {wanted}")
    return tuple(shape), TYPES[kind], begin, end


def _check_cover(spans: Iterable[Span], size: int) -> None:
    position = 0
    for _, _, begin, end in sorted(spans, key=lambda span: span[2:]):
        if begin != position:
            raise ValueError(f"a tensor begins at byte {begin}, where {position} is next")
        position = end
    if position != size:
        raise ValueError(f"its tensors need {position} bytes, but it has {size}")


def _lazy(file: MappedFile, start: int, shape: tuple[int, ...], dtype: torch.dtype, begin: int, end: int) -> LazyTensor:
    return LazyTensor(
        shape=shape,
        dtype=name_of(dtype),
        nbytes=end - begin,
        read=InFile(file, start + begin, shape, dtype),
    )


def _are_counts(values: Any) -> bool:
    """Whether it is a short list of whole numbers, none negative."""
    return isinstance(values, list) and len(values) <= 16 and all(type(v) is int and v >= 0 for v in values)


def _is_text(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(v, str) for v in values.values())
