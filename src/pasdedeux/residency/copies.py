"""How a unit's bytes get into its slot: read there in host memory, or copied to a GPU beside what computes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor

from pasdedeux.residency.pool import HostBuffer, Slot
from pasdedeux.residency.sources import Source
from pasdedeux.residency.units import Unit

STAGES = 2  # host buffers on the way from a disk to a GPU: one is read into while the other is copied from


class Copies(Protocol):
    """How bytes get into slots. `free` waits until the slot may be written to, and is False where the run has ended."""

    def fill(self, unit: Unit, slot: Slot) -> None:
        """Now, before anything computes."""
        ...

    def bring(self, unit: Unit, slot: Slot, free: Callable[[], bool]) -> bool:
        """Beside the compute, from the thread that copies; whether it was done (on a GPU: begun)."""
        ...

    def arrive(self, slot: Slot) -> None:
        """What computes from here on waits for the slot's bytes."""
        ...

    def leave(self, slot: Slot) -> None:
        """What is copied into the slot from here on waits for what computes."""
        ...

    def close(self) -> None:
        """Wait for what is under way."""
        ...


class HostCopies:
    """Into slots in host memory: the source reads there itself."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def fill(self, unit: Unit, slot: Slot) -> None:
        self._source.read_into(unit, slot.buffer[: self._source.layout(unit).nbytes])

    def bring(self, unit: Unit, slot: Slot, free: Callable[[], bool]) -> bool:
        if not free():
            return False
        self.fill(unit, slot)
        return True

    def arrive(self, slot: Slot) -> None:
        pass

    def leave(self, slot: Slot) -> None:
        pass

    def close(self) -> None:
        pass


class DeviceCopies:
    """Into slots on a GPU, on a stream of its own: from memory the source holds, or by way of a ring of pinned buffers.

    What lies on a disk is read ahead into the ring before the slot is free. Whatever is asked of CUDA is asked on the
    slots' own card: a thread begins on the first one, and CUDA would settle there, or fail where that one is full.
    """

    def __init__(self, source: Source, units: Sequence[Unit], device: torch.device) -> None:
        self._source, self._device = source, device
        self._stream = torch.cuda.Stream(device)
        self._card = self._stream.device  # numbered, where "cuda" is what another thread may take for another
        # Slots may be memory that queued work still uses.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._largest = max((source.layout(unit).nbytes for unit in units), default=0)
        self._copied = [torch.cuda.Event(blocking=True) for _ in range(STAGES)]
        self._ring = list[HostBuffer]()
        self._stage = 0

    def fill(self, unit: Unit, slot: Slot) -> None:
        with torch.cuda.device(self._card):
            host = self._source.held(unit)
            if host is None:
                host = torch.empty(self._source.layout(unit).nbytes, dtype=torch.uint8)
                self._source.read_into(unit, host)
            slot.buffer[: len(host)].copy_(host)

    def bring(self, unit: Unit, slot: Slot, free: Callable[[], bool]) -> bool:
        with torch.cuda.device(self._card):
            host, copied = self._source.held(unit), None
            if host is None:
                host, copied = self._read(unit)
            if not free():
                return False
            assert slot.filled is not None
            assert slot.free_after is not None
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(slot.free_after)
                slot.buffer[: len(host)].copy_(host, non_blocking=True)
                slot.filled.record(self._stream)
                if copied is not None:
                    copied.record(self._stream)
            return True

    def arrive(self, slot: Slot) -> None:
        assert slot.filled is not None
        torch.cuda.current_stream(self._device).wait_event(slot.filled)

    def leave(self, slot: Slot) -> None:
        assert slot.free_after is not None
        slot.free_after.record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._free)
            torch.cuda.synchronize(self._device)

    def _read(self, unit: Unit) -> tuple[Tensor, torch.cuda.Event]:
        """Into the ring's next buffer, once what was in it has been copied; only the copying thread waits here."""
        while len(self._ring) <= self._stage:  # made when it is needed: all units may be in memory
            self._ring.append(_stage_of(self._largest))
        buffer, copied = self._ring[self._stage], self._copied[self._stage]
        self._stage = (self._stage + 1) % STAGES
        copied.synchronize()
        host = buffer.tensor[: self._source.layout(unit).nbytes]
        self._source.read_into(unit, host)
        return host, copied

    def _free(self) -> None:
        for buffer in self._ring:
            buffer.free()
        self._ring.clear()


def _stage_of(nbytes: int) -> HostBuffer:
    """Pinned; where CUDA refuses that, as it is: what is copied from it is the same, and the copying thread waits."""
    try:
        return HostBuffer(nbytes, pinned=True)
    except MemoryError:
        return HostBuffer(nbytes, pinned=False)


def copies_for(source: Source, units: Sequence[Unit], device: torch.device) -> Copies:
    """What can bring these units to a device. Raises ValueError for a device that is neither a processor nor CUDA's."""
    if device.type == "cuda":
        return DeviceCopies(source, units, device)
    if device.type == "cpu":
        return HostCopies(source)
    raise ValueError(f'Weights cannot be streamed to "{device}"; the device has to be "cpu" or "cuda".')
