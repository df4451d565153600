"""Checkpoints of torch (.pth, .pt, .ckpt, .bin): a zip of raw storages and a pickle that says which is which.

The pickle is read, never run (see `pickles`), and the storages are mapped from the zip, in which they lie as they are.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pasdedeux.checkpoints.formats.mapped import InFile, MappedFile, name_of
from pasdedeux.checkpoints.formats.pickles import MAX_PICKLE, Call, Name, Stored, read_pickle
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

WRAPPERS = ("state_dict", "model", "module")
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of what comes between it and the data
FOLLOWING = (b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02")  # the next record, the sizes of this one, the directory
# All that zipfile and a walk over what a broken file claims can end in.
BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, OSError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def open_torch(path: Path) -> Weights:
    """The tensors of one zipped checkpoint of torch. Raises ValueError if it is broken or would run code."""
    file = MappedFile(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = _Records(file, archive)
        found = _unwrapped(read_pickle(records.pickle))
        tensors = {
            name: _tensor(name, value, records)
            for name, value in found.items()
            if not isinstance(value, str | int | float | None)
        }
    except BROKEN as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not a checkpoint that can be loaded ({said}).") from error
    return Weights(tensors=tensors, paths=(path,), container="pth")


class _Records:
    """Where the storages of a checkpoint lie in its file."""

    def __init__(self, file: MappedFile, archive: zipfile.ZipFile) -> None:
        self.file = file
        self.infos = {info.filename: info for info in archive.infolist()}
        if len(self.infos) < len(archive.infolist()):
            raise ValueError("a record stands in its zip twice")
        pickles = [name for name in self.infos if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip without one data.pkl, so not a checkpoint of torch")
        self.root = pickles[0].removesuffix("data.pkl")
        self.pickle = self._small(archive, "data.pkl", MAX_PICKLE)
        if f"{self.root}byteorder" in self.infos and self._small(archive, "byteorder", 16) != b"little":
            raise ValueError("its numbers are not stored little end first")

    def _small(self, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
        info = self.infos[self.root + name]
        if not _is_plain(info) or info.file_size > most:
            raise ValueError(f"its {name} is compressed, or has more than {most} bytes")
        return archive.read(info)

    def storage(self, key: str) -> tuple[int, int]:
        """First byte and number of bytes of a storage."""
        info = self.infos.get(f"{self.root}data/{key}")
        if info is None or not _is_plain(info):
            raise ValueError(f"its storage {key} is missing, or compressed")
        with self.file.path.open("rb") as stream:
            stream.seek(info.header_offset)
            signature, name, extra = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
            begun = signature == b"PK\x03\x04" and stream.read(name) == info.filename.encode()
            start = info.header_offset + LOCAL_HEADER.size + name + extra
            stream.seek(start + info.file_size)
            # Only what follows tells that the length of the last field, and so the start, is right.
            if not begun or stream.read(4) not in FOLLOWING:
                raise ValueError(f"its storage {key} is not where its zip says")
        return start, info.file_size


def _is_plain(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size


def _unwrapped(found: Any) -> Mapping[str, Any]:
    """The dict that holds the tensors, which may lie in another under a customary name."""
    for _ in WRAPPERS:
        if not isinstance(found, dict) or any(isinstance(value, Call) for value in found.values()):
            break
        inner = [name for name in WRAPPERS if isinstance(found.get(name), dict)]
        if len(inner) > 1:
            raise ValueError(f"it holds {' and '.join(inner)}, and which is meant cannot be told")
        if not inner:
            break
        found = found[inner[0]]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError("it holds no tensors by name")
    return found


def _tensor(name: str, value: Any, records: _Records) -> LazyTensor:
    while isinstance(value, Call) and value.path.startswith("torch._utils._rebuild_parameter"):
        value = value.args[0]
    if not isinstance(value, Call) or value.path not in _REBUILT:
        raise ValueError(f"{name} is no tensor")
    stored, offset, shape, strides = value.args[:4]
    dtype, key, nbytes = _storage(stored)
    dtype = _type(value.args[6]) if value.path.endswith("_v3") else dtype
    start, size = records.storage(key)
    if nbytes != size:
        raise ValueError(f"the storage of {name} has {size} bytes, not {nbytes}")
    _check_view(name, offset, shape, strides, size // dtype.itemsize)
    return _lazy(records.file, start + offset * dtype.itemsize, shape, strides, dtype)


_REBUILT = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")


def _storage(stored: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and bytes of a storage, as ("storage", kind, key, device, count) has them."""
    if not isinstance(stored, Stored) or stored.key[0] != "storage":
        raise ValueError("a tensor of it has no storage")
    _, kind, key, _, count = stored.key
    if not isinstance(kind, Name) or kind.path not in STORAGES or type(key) is not str or type(count) is not int:
        raise ValueError("a storage of it is described wrongly")
    return STORAGES[kind.path], key, count * STORAGES[kind.path].itemsize


def _type(found: Any) -> torch.dtype:
    dtype = getattr(torch, found.path.removeprefix("torch."), None) if isinstance(found, Name) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor of it has no type")
    return dtype


def _check_view(name: str, offset: Any, shape: Any, strides: Any, count: int) -> None:
    """That a tensor stays inside its storage, and is not larger than it."""
    numbers = (offset, *shape, *strides)
    tuples = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not tuples or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"the shape of {name} is {shape}, its strides {strides}")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > count or (math.prod(shape) and last >= count):
        raise ValueError(f"{name} reaches beyond its storage")


def _lazy(
    file: MappedFile, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
) -> LazyTensor:
    nbytes = math.prod(shape) * dtype.itemsize
    if _in_a_row(shape, strides):
        return LazyTensor(shape=shape, dtype=name_of(dtype), nbytes=nbytes, read=InFile(file, start, shape, dtype))
    count = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    return LazyTensor(
        shape=shape,
        dtype=name_of(dtype),
        nbytes=nbytes,
        read=lambda: file.tensor(start, (count,), dtype).as_strided(shape, strides),
    )


def _in_a_row(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether values lie one after the other, the last side's nearest; so do none at all."""
    wanted = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    return math.prod(shape) == 0 or all(
        side == 1 or stride == step for side, stride, step in zip(shape, strides, wanted, strict=True)
    )
