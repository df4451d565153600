"""A file as tensors whose bytes are fetched when they are touched."""

import math
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# In Python's mmap only from 3.13 on.
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class MappedFile:
    """The bytes of a file, each tensor's mapped when it is read and for as long as it lives.

    A mapping for each, and not one for all, so that what was read and let go of leaves the process again. Mappings are
    private: writing into a tensor never reaches the file. They reserve nothing, since a private mapping larger than the
    machine's memory is refused otherwise, as safetensors' own is for one 28.6 GB expert on 24 GB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size, self._written = _state(path)

    def tensor(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The values stored from `start` on, without a copy unless they lie unaligned."""
        count = math.prod(shape) * dtype.itemsize
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if start + count > self.size:
            raise ValueError(f"{self.path} has {self.size} bytes, but a tensor ends at {start + count}.")
        if _state(self.path) != (self.size, self._written):
            raise ValueError(f"{self.path} has changed since it was opened.")
        skip = start % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            window = _private(file.fileno(), start - skip, skip + count)
        stored = torch.frombuffer(window, dtype=torch.uint8, count=count, offset=skip)
        aligned = stored if start % dtype.itemsize == 0 else stored.clone()
        return aligned.view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class InFile:
    """Values that lie in a file as they are, from byte `offset` on. Called, it maps them; others may read there."""

    file: MappedFile
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self) -> Tensor:
        return self.file.tensor(self.offset, self.shape, self.dtype)

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path


def name_of(dtype: torch.dtype) -> str:
    """Torch's name of a type, as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _private(file: int, start: int, length: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(file, length, access=mmap.ACCESS_COPY, offset=start)
    access = {"flags": mmap.MAP_PRIVATE | NORESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    return mmap.mmap(file, length, **access, offset=start)
