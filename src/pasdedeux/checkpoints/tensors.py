"""Weights that lie in files, not read yet: names, shapes and types from the headers, bytes on demand.

Every file format ends here (`files.open_weights`), every dialect goes through here under our names, and everything
that loads, converts or inspects starts here. A `LazyTensor` costs no memory until it is read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyTensor:
    """One tensor of a file.

    shape: as torch would have it (a GGUF file lists it the other way round); dtype: torch's name of the stored type
    ("bfloat16", "float8_e4m3fn"), or a GGUF block type ("Q4_K"); nbytes: bytes stored. `read` gives what is stored:
    a tensor of that shape and type, mapped from the file where the format allows, or for a block type uint8 of shape
    [*shape[:-1], bytes per row]. scale: what the stored values are to be multiplied by, where a file of 8-bit floats
    says so: a number, or one per row.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    read: Callable[[], Tensor]
    scale: "LazyTensor | None" = None

    @property
    def packed(self) -> bool:
        """Whether the stored values are not yet the weight's: 8-bit floats with or without a scale, or blocks."""
        return self.dtype.startswith("float8") or self.dtype[:1].isupper()

    @property
    def size(self) -> int:
        """Number of values."""
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights(Mapping[str, LazyTensor]):
    """The tensors of one model, by name: `paths` are the files they lie in, `metadata` what their headers say.

    container: "safetensors", "sharded safetensors", "gguf" or "pth". Changing names or values gives new Weights over
    the same files.
    """

    tensors: Mapping[str, LazyTensor]
    paths: tuple[Path, ...]
    container: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LazyTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def path(self) -> Path:
        """The file, or the folder of the shards: what a message names."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes stored, scales included."""
        every = list(self.tensors.values()) + [t.scale for t in self.tensors.values() if t.scale is not None]
        return sum(t.nbytes for t in every)

    def with_tensors(self, tensors: Mapping[str, LazyTensor]) -> "Weights":
        """Other tensors over the same files."""
        return replace(self, tensors=tensors)
