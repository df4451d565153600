"""Where a unit's bytes come from: files, host memory, or functions that make them.

A unit travels as one buffer, so that one read and one copy move all of it. Its tensors keep the type they are stored
in: whatever is packed stays packed on the way, and in the slot it ends in.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from pasdedeux.residency.pool import HostBuffer, title
from pasdedeux.residency.units import Unit

ALIGNMENT = 256  # bytes: what the allocator of a GPU gives, and kernels that read wide words count on
VECTORS = 512  # buffers in one read; systems allow at least 1024
Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor of a unit, `offset` bytes into its buffer; named as in the block, or for a trunk as in the model."""

    name: str
    shape: Shape
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """How a unit's tensors lie in one buffer of `nbytes`, each aligned."""

    tensors: tuple[Placed, ...]
    nbytes: int

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Shape, torch.dtype]]) -> Self:
        """One after the other, in the order given."""
        placed, end = [], 0
        for name, shape, dtype in tensors:
            placed.append(Placed(name, shape, dtype, end))
            end += -(-placed[-1].nbytes // ALIGNMENT) * ALIGNMENT
        return cls(tuple(placed), end)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors by name, in a buffer [>= nbytes] of bytes on any device; nothing is copied."""
        return {t.name: buffer[t.offset : t.offset + t.nbytes].view(t.dtype).view(t.shape) for t in self.tensors}


class Source(Protocol):
    """Gives every unit's bytes, and how they lie."""

    def layout(self, unit: Unit) -> Layout:
        """How the unit's tensors will lie. Raises ValueError for a unit it does not have."""
        ...

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        """Fill a buffer [layout(unit).nbytes] of bytes in host memory; called from a thread of its own."""
        ...

    def held(self, unit: Unit) -> Tensor | None:
        """The unit's buffer, where it is in host memory already and need not be read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTensor:
    """Where a tensor's `nbytes` lie in a file, as its header says."""

    path: Path
    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: Shape

    @property
    def end(self) -> int:
        """Where the next tensor may begin."""
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes that follow one another in a file, and the parts of the buffer (start, length) that they go to."""

    path: Path
    offset: int
    parts: tuple[tuple[int, int], ...]


class FileSource:
    """Units that lie in files, safetensors or any other kind whose tensors are plain bytes.

    Tensors that are neighbours in a file are read together, in the file's order. forget: whether the system is told
    that what was read will not be wanted again, so that it need not keep it in memory.
    Raises ValueError where a tensor reaches over the end of its file or its bytes do not make its shape.
    """

    def __init__(self, units: Mapping[Unit, Mapping[str, FileTensor]], *, forget: bool = False) -> None:
        self._forget = forget
        paths = {tensor.path for tensors in units.values() for tensor in tensors.values()}
        self._states = {path: _state(path.stat()) for path in paths}
        self._layouts: dict[Unit, Layout] = {}
        self._runs: dict[Unit, tuple[_Run, ...]] = {}
        for unit, tensors in units.items():
            for name, tensor in tensors.items():
                self._check(name, tensor)
            ordered = sorted(tensors.items(), key=lambda item: (item[1].path, item[1].offset))
            self._layouts[unit] = Layout.of((name, tensor.shape, tensor.dtype) for name, tensor in ordered)
            self._runs[unit] = _runs([tensor for _, tensor in ordered], self._layouts[unit])

    def layout(self, unit: Unit) -> Layout:
        """In the order of the files."""
        return _of(self._layouts, unit)

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        """Raises ValueError for a file that has changed or ends early; OSError as the system gives it."""
        target = memoryview(buffer.numpy().data)
        for run in _of(self._runs, unit):
            with self._unchanged(run.path) as file:
                self._read(file, run, target)

    def held(self, unit: Unit) -> Tensor | None:
        """Nothing: it lies on the disk."""
        return None

    def _check(self, name: str, tensor: FileTensor) -> None:
        needed, (size, _) = math.prod(tensor.shape) * tensor.dtype.itemsize, self._states[tensor.path]
        if tensor.nbytes != needed:
            kind = f"{list(tensor.shape)} of {tensor.dtype}"
            raise ValueError(f"{name} in {tensor.path} has {tensor.nbytes} bytes; its shape {kind} takes {needed}.")
        if tensor.end > size:
            raise ValueError(f"{tensor.path} has {size} bytes, but {name} ends at {tensor.end}.")

    @contextmanager
    def _unchanged(self, path: Path) -> Iterator[FileIO]:
        """The file, compared with what it was before anything is read from it, and once more after."""
        with path.open("rb", buffering=0) as file:
            self._compare(path, file, "since it was opened")
            yield file
            self._compare(path, file, "while it was read")

    def _compare(self, path: Path, file: FileIO, when: str) -> None:
        if _state(os.fstat(file.fileno())) != self._states[path]:
            raise ValueError(f"{path} has changed {when}.")

    def _read(self, file: FileIO, run: _Run, target: memoryview) -> None:
        wanted, position = [target[start : start + length] for start, length in run.parts if length], run.offset
        while wanted:
            got = _read_some(file, wanted[:VECTORS], position)
            if got == 0:
                raise ValueError(f"{run.path} ends at {position}, {sum(map(len, wanted))} bytes too early.")
            position, wanted = position + got, _rest(wanted, got)
        if self._forget and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), run.offset, position - run.offset, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that `make` gives when it is asked for, on any device: a merged or an unpacked weight."""

    shape: Shape
    dtype: torch.dtype
    make: Callable[[], Tensor]


class CallSource:
    """Units whose tensors are made anew at each read, one at a time. Whatever `make` raises is passed on."""

    def __init__(self, units: Mapping[Unit, Mapping[str, Made]]) -> None:
        self._units = units
        self._layouts = {u: Layout.of((n, m.shape, m.dtype) for n, m in ts.items()) for u, ts in units.items()}

    def layout(self, unit: Unit) -> Layout:
        """In the order given."""
        return _of(self._layouts, unit)

    @torch.no_grad()
    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        """Raises ValueError where a tensor comes in another shape or type than was said."""
        made = _of(self._units, unit)
        for name, place in self.layout(unit).views(buffer).items():
            tensor = made[name].make()
            if (tensor.shape, tensor.dtype) != (place.shape, place.dtype):
                found, wanted = (f"{list(t.shape)} of {t.dtype}" for t in (tensor, place))
                raise ValueError(f"{name} of {title(unit)} was made as {found}; it should be {wanted}.")
            place.copy_(tensor)

    def held(self, unit: Unit) -> Tensor | None:
        """Nothing: it is made when it is read."""
        return None


class JointSource:
    """Units whose tensors come from several sources, each of which has them all, if with no tensors: one part after
    the other in a unit's buffer."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def layout(self, unit: Unit) -> Layout:
        """The parts' layouts, in the order of the sources."""
        placed, end = list[Placed](), 0
        for part in (source.layout(unit) for source in self._sources):
            placed.extend(replace(tensor, offset=end + tensor.offset) for tensor in part.tensors)
            end += part.nbytes
        return Layout(tuple(placed), end)

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        """Raises what the sources raise."""
        start = 0
        for source in self._sources:
            end = start + source.layout(unit).nbytes
            source.read_into(unit, buffer[start:end])
            start = end

    def held(self, unit: Unit) -> Tensor | None:
        """Nothing: the parts would have to lie together."""
        return None


class Place(Protocol):
    """Where bytes lie in a file."""

    @property
    def path(self) -> Path: ...
    @property
    def offset(self) -> int: ...


class Value(Protocol):
    """A tensor to come: `make` gives it on a device; stored is where it lies in a file, if it lies there as it is."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def make(self) -> Callable[[str], Tensor]: ...
    @property
    def stored(self) -> Place | None: ...


def source_of(units: Mapping[Unit, Mapping[str, Value]], *, forget: bool = False) -> Source:
    """What lies in files is read there, in the order of the file; everything else is made. Raises as FileSource."""
    files = {unit: dict[str, FileTensor]() for unit in units}
    made = {unit: dict[str, Made]() for unit in units}
    for unit, values in units.items():
        for name, value in values.items():
            if value.stored is None:
                made[unit][name] = Made(value.shape, value.dtype, partial(value.make, "cpu"))
            else:
                files[unit][name] = _in_file(value, value.stored)
    return JointSource((FileSource(files, forget=forget), CallSource(made)))


def _in_file(value: Value, place: Place) -> FileTensor:
    nbytes = math.prod(value.shape) * value.dtype.itemsize
    return FileTensor(path=place.path, offset=place.offset, nbytes=nbytes, dtype=value.dtype, shape=value.shape)


class HostSource:
    """Another source's units kept in host memory, those named; the others are still read from there.

    Each unit has a buffer of exactly its bytes, pinned where there is CUDA (pin: None) or where told to. later: whether
    units are read when they are first asked for, and not now; then what there is no memory for is not kept, and
    `refused` says so. A context manager; `close` gives the memory back.
    """

    def __init__(self, source: Source, units: Iterable[Unit], *, pin: bool | None = None, later: bool = False) -> None:
        self._source = source
        self._pinned = torch.cuda.is_available() if pin is None else pin
        self._wanted = set(units)
        self._buffers: dict[Unit, HostBuffer] = {}
        self.refused = False
        with ExitStack() as stack:
            stack.callback(self.close)
            for unit in () if later else sorted(self._wanted):
                self._read(unit)
            stack.pop_all()

    @classmethod
    def of(cls, units: Mapping[Unit, Mapping[str, Tensor]], *, pin: bool | None = None) -> Self:
        """A copy of tensors that are in memory."""
        made = {
            unit: {name: Made(tuple(t.shape), t.dtype, partial(_same, t)) for name, t in tensors.items()}
            for unit, tensors in units.items()
        }
        return cls(CallSource(made), units, pin=pin)

    def keep(self, units: Iterable[Unit]) -> None:
        """From now on keep these, and let go of others; no copy may be under way."""
        self._wanted, self.refused = set(units), False
        for unit in self._buffers.keys() - self._wanted:
            self._buffers.pop(unit).free()

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        return sum(buffer.tensor.numel() for buffer in self._buffers.values())

    def layout(self, unit: Unit) -> Layout:
        """The other source's."""
        return self._source.layout(unit)

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        """From memory, or from the other source."""
        held = self.held(unit)
        if held is None:
            self._source.read_into(unit, buffer)
        else:
            buffer.copy_(held)

    def held(self, unit: Unit) -> Tensor | None:
        """The unit's own buffer, read now if it has not been yet, or the other source's."""
        if unit in self._wanted and unit not in self._buffers:
            try:
                self._read(unit)
            except MemoryError:  # the others would not find any either
                self._wanted, self.refused = set(self._buffers), True
        own = self._buffers.get(unit)
        return self._source.held(unit) if own is None else own.tensor

    def close(self) -> None:
        """Let go of the memory."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._wanted.clear()

    def _read(self, unit: Unit) -> None:
        buffer = HostBuffer(self._source.layout(unit).nbytes, pinned=self._pinned)
        with ExitStack() as stack:
            stack.callback(buffer.free)
            self._source.read_into(unit, buffer.tensor)
            stack.pop_all()
        self._buffers[unit] = buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _of(units: Mapping[Unit, T], unit: Unit) -> T:
    if unit not in units:
        raise ValueError(f"There are no weights for {title(unit)}.")
    return units[unit]


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _runs(tensors: list[FileTensor], layout: Layout) -> tuple[_Run, ...]:
    """Tensors in the order of a file and of the layout, joined where nothing lies between them."""
    runs: list[_Run] = []
    end = None
    for tensor, placed in zip(tensors, layout.tensors, strict=True):
        part = (placed.offset, placed.nbytes)
        if (tensor.path, tensor.offset) == end:
            runs[-1] = replace(runs[-1], parts=(*runs[-1].parts, part))
        else:
            runs.append(_Run(tensor.path, tensor.offset, (part,)))
        end = tensor.path, tensor.end
    return tuple(runs)


def _read_some(file: FileIO, targets: list[memoryview], position: int) -> int:
    """Bytes read from `position` on; no more than one target's where the system cannot fill several at once."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), targets, position)
    file.seek(position)
    return file.readinto(targets[0]) or 0


def _rest(targets: list[memoryview], filled: int) -> list[memoryview]:
    """What is left of the targets after `filled` bytes."""
    for k, target in enumerate(targets):
        if filled < len(target):
            return [target[filled:], *targets[k + 1 :]]
        filled -= len(target)
    return []
