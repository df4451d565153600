"""GGUF: the header read within bounds, and turned into lazy tensors.

The reader of the `gguf` package takes a header at its word; here a count, length or shape that the file cannot hold
is refused before anything is made of it. The tensors must follow each other as every writer of the format lays them.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pasdedeux.checkpoints.formats.mapped import InFile, MappedFile, name_of
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS, UNKNOWN
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_HEADER = 32 << 20  # umT5's, with its vocabulary of 256,384 pieces, is 6 MB
MAX_ITEMS = 1 << 19  # of a list
MAX_ENTRIES = 1 << 16  # tensors, and metadata
MAX_SHOWN = 64  # longer lists are not among the metadata
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # of a tensor that was reshaped so that its rows fill whole blocks

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
PLAIN = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}
NUMBERED = {block.number: name for name, block in BLOCKS.items()}


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor as the header has it; `kind` is "Q4_K" or a torch type, `offset` counts from where the data begin."""

    shape: tuple[int, ...]
    kind: str | torch.dtype
    offset: int
    nbytes: int


def open_gguf(path: Path) -> Weights:
    """The tensors of one GGUF file. Raises ValueError if it is not whole, or of a type not supported."""
    file = MappedFile(path)
    try:
        with path.open("rb") as stream:
            metadata, infos, start = _header(_Cursor(stream, min(file.size, MAX_HEADER)))
        _check_cover(infos, max(file.size - start, 0), _alignment(metadata))
        infos = {name: _reshaped(name, info, metadata) for name, info in infos.items()}
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path} is not a GGUF file that can be read ({error}).") from error
    known = {name: value for name, value in metadata.items() if value is not None}
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}
    tensors = {name: _lazy(file, start, info) for name, info in infos.items()}
    return Weights(tensors=tensors, paths=(path,), container="gguf", metadata=text)


class _Cursor:
    """Reads on from a place in a file, never beyond `limit`."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream = stream
        self.limit = limit

    def take(self, count: int) -> bytes:
        data = self.stream.read(count) if self._fits(count) else b""
        if len(data) < count:
            raise ValueError("its header ends early")
        return data

    def skip(self, count: int) -> None:
        if not self._fits(count):
            raise ValueError("its header ends early")
        self.stream.seek(count, 1)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, most: int, what: str) -> int:
        found = self.number("Q")
        if found > most:
            raise ValueError(f"it names {found} {what}")
        return found

    def text(self) -> str:
        return self.take(self.count(self.limit, "bytes in one text")).decode("utf-8")

    def _fits(self, count: int) -> bool:
        return count <= self.limit - self.stream.tell()


def _header(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, _Info], int]:
    """Metadata, tensors, and where their data begin."""
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin as one")
    version = cursor.number("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}; readable are 2 and 3")
    tensors = cursor.count(MAX_ENTRIES, "tensors")
    values = cursor.count(MAX_ENTRIES, "metadata")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        _add(metadata, cursor.text(), _value(cursor, cursor.number("I")))
    infos: dict[str, _Info] = {}
    for _ in range(tensors):
        name = cursor.text()
        _add(infos, name, _info(cursor, name))
    alignment = _alignment(metadata)
    return metadata, infos, -(-cursor.stream.tell() // alignment) * alignment


def _add(known: dict[str, Any], name: str, value: Any) -> None:
    if name in known:
        raise ValueError(f"{name} stands in it twice")
    known[name] = value


def _value(cursor: _Cursor, kind: int) -> Any:
    """One value of the metadata; None in place of a long list."""
    if kind == STRING:
        return cursor.text()
    if kind == ARRAY:
        return _array(cursor)
    if kind not in SCALARS:
        raise ValueError(f"a value of its metadata is of type {kind}")
    return cursor.number(SCALARS[kind])


def _array(cursor: _Cursor) -> list[Any] | None:
    kind, count = cursor.number("I"), cursor.count(MAX_ITEMS, "values in one list")
    if kind == ARRAY or kind not in {STRING, *SCALARS}:
        raise ValueError(f"a list of its metadata is of type {kind}")
    if count <= MAX_SHOWN:
        return [_value(cursor, kind) for _ in range(count)]
    if kind in SCALARS:
        cursor.skip(count * struct.calcsize("<" + SCALARS[kind]))
        return None
    for _ in range(count):
        cursor.skip(cursor.number("Q"))
    return None


def _info(cursor: _Cursor, name: str) -> _Info:
    sides = cursor.number("I")
    if sides > 8:
        raise ValueError(f"{name} has {sides} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(sides))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number in PLAIN:
        return _Info(shape, PLAIN[number], offset, math.prod(shape) * PLAIN[number].itemsize)
    if number not in NUMBERED:
        known = ", ".join(["F32, F16, BF16", *BLOCKS])
        raise ValueError(f"{name} is stored as {UNKNOWN.get(number, number)}; supported are {known}")
    block = BLOCKS[NUMBERED[number]]
    if not shape or shape[-1] % block.values:
        raise ValueError(f"the rows of {name} do not fill whole blocks of {block.values}")
    return _Info(shape, NUMBERED[number], offset, math.prod(shape) // block.values * block.nbytes)


def _alignment(metadata: Mapping[str, Any]) -> int:
    found = metadata.get("general.alignment", ALIGNMENT)
    if type(found) is not int or not 8 <= found <= 1 << 16 or found & (found - 1):
        raise ValueError(f"its alignment is {found}")
    return found


def _check_cover(infos: Mapping[str, _Info], size: int, alignment: int) -> None:
    position = 0
    for name, info in sorted(infos.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != -(-position // alignment) * alignment:
            raise ValueError(f"{name} begins at byte {info.offset}, but the tensor before it ends at {position}")
        position = info.offset + info.nbytes
    if not position <= size < position + alignment:
        raise ValueError(f"its tensors need {position} bytes, but it has {size}")


def _reshaped(name: str, info: _Info, metadata: Mapping[str, Any]) -> _Info:
    """The tensor in the shape it had before it was laid out in blocks, where the file says so."""
    shape = metadata.get(ORIGINAL_SHAPE + name)
    if shape is None:
        return info
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"the original shape of {name} is {shape}")
    if math.prod(shape) != math.prod(info.shape):
        raise ValueError(f"the original shape of {name}, {shape}, does not hold what is stored")
    return replace(info, shape=tuple(shape))


def _lazy(file: MappedFile, start: int, info: _Info) -> LazyTensor:
    kind, dtype = (info.kind, torch.uint8) if isinstance(info.kind, str) else (name_of(info.kind), info.kind)
    stored = BLOCKS[kind].stored_shape(info.shape) if isinstance(info.kind, str) else info.shape
    return LazyTensor(
        shape=info.shape,
        dtype=kind,
        nbytes=info.nbytes,
        read=InFile(file, start + info.offset, stored, dtype),
    )
