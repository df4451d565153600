"""The places that units move into: a fixed number of slots, who gets which, and how far the run has come."""

import mmap
import threading
import weakref
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter
from traceback import clear_frames
from typing import Any, Self

import torch
from torch import Tensor

from pasdedeux.residency.units import TRUNK, Move, Plan, Unit, Use

PAGE = mmap.PAGESIZE
PORTABLE = 1  # of cudaHostRegister: pinned for every card


def title(unit: Unit) -> str:
    """How messages name a unit."""
    return f"the trunk of model {unit.model}" if unit.index == TRUNK else f"block {unit.index} of model {unit.model}"


class HostBuffer:
    """`nbytes` of host memory, pinned or not: `tensor` [nbytes] of bytes.

    Pinned memory from torch's own allocator is rounded up to a power of two (a block of 0.7 GB would hold 1.07 GB).
    This is ordinary memory of the right size whose pages are registered with CUDA, which costs two pages at most.
    Raises MemoryError where there is none, and where CUDA refuses: some systems (WSL) let a process pin far less than
    is free.
    """

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        whole = -(-nbytes // PAGE) * PAGE
        memory = _memory(whole + PAGE)
        start = -memory.data_ptr() % PAGE  # whole pages of its own: a page can be registered once only
        self.tensor = memory[start : start + nbytes]
        self._unpin: Callable[[], object] | None = None
        if pinned and nbytes:
            _register(memory[start:], whole)
            self._unpin = weakref.finalize(self, _unregister, memory, start, torch.cuda.current_device())

    def free(self) -> None:
        """Unpin, and let go of the memory. No copy from it may be under way."""
        if self._unpin is not None:
            self._unpin()
        self.tensor = torch.empty(0, dtype=torch.uint8)


def _memory(nbytes: int) -> Tensor:
    """Bytes of the host. Raises MemoryError where there are none: torch's allocator says so by a RuntimeError."""
    try:
        return torch.empty(nbytes, dtype=torch.uint8)
    except RuntimeError as error:
        raise MemoryError(f"There is no host memory for {nbytes / 1e9:.2f} GB ({error}).") from error


def _register(memory: Tensor, nbytes: int) -> None:
    status = int(_cudart().cudaHostRegister(memory.data_ptr(), nbytes, PORTABLE))
    if status:
        _forget_error()
        raise MemoryError(f"CUDA error {status}: {nbytes / 1e9:.2f} GB of host memory cannot be pinned.")


def _forget_error() -> None:
    """CUDA tells an error once more, to the next kernel that its thread starts: let that be one nobody needs."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def _unregister(memory: Tensor, start: int, device: int) -> None:
    """On the card it was registered on: on any other, CUDA would first take some hundred megabytes for itself."""
    with torch.cuda.device(device):
        _cudart().cudaHostUnregister(memory.data_ptr() + start)


def _cudart() -> Any:
    return torch.cuda.cudart()


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one unit at a time. The events are CUDA's, and None elsewhere.

    filled: the copy into it is done; free_after: nothing that computes reads it any more.
    """

    buffer: Tensor
    filled: torch.cuda.Event | None = None
    free_after: torch.cuda.Event | None = None


class Pool:
    """Slots of the given sizes on one device, allocated once; it never grows. A context manager."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.slots: list[Slot] = []
        with torch.inference_mode(False):  # the thread that copies may not write to tensors made in that mode
            for size in sizes:
                self.slots.append(Slot(torch.empty(size, dtype=torch.uint8, device=device)))
                if device.type == "cuda":
                    self.slots[-1].filled, self.slots[-1].free_after = torch.cuda.Event(), torch.cuda.Event()

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.buffer.numel() for slot in self.slots)

    def close(self) -> None:
        """Let go of the slots; whoever holds a view of one keeps it alive."""
        for slot in self.slots:
            slot.buffer = torch.empty(0, dtype=torch.uint8)  # for a traceback may hold the slot
        self.slots.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Load:
    """A unit goes into a slot once use number `after` is over (-1: at once)."""

    unit: Unit
    slot: int
    after: int = -1


@dataclass(frozen=True, slots=True)
class Route:
    """A plan with its places.

    uses: without the trunks'; needs: for each use the number of the load that brings its unit; leaving: the uses
    after which the unit goes; slots: the bytes of each, those of the largest unit that ever lies in it.
    """

    uses: tuple[Use, ...]
    loads: tuple[Load, ...]
    needs: tuple[int, ...]
    leaving: frozenset[int]
    slots: tuple[int, ...]


class _Router:
    """Who is where while a plan is read through."""

    def __init__(self, uses: Sequence[Use], size: Callable[[Unit], int]) -> None:
        self.size = size
        self.turns: defaultdict[Unit, list[int]] = defaultdict(list)
        for turn, use in enumerate(uses):
            self.turns[use.unit].append(turn)
        self.loads: list[Load] = []
        self.slots: list[int] = []
        self.leaving: set[int] = set()
        self.where: dict[Unit, int] = {}  # the number of the load that brought it

    def load(self, unit: Unit, slot: int | None = None, after: int = -1) -> None:
        """Into a slot, or into one more."""
        if unit in self.where:
            raise ValueError(f"The plan loads {title(unit)}, which is there already.")
        if slot is None:
            slot = len(self.slots)
            self.slots.append(0)
        self.slots[slot] = max(self.slots[slot], self.size(unit))
        self.where[unit] = len(self.loads)
        self.loads.append(Load(unit, slot, after))

    def move(self, unit: Unit, evict: Unit | None, before: int) -> None:
        """A unit takes the place of another, whose last use before `before` has to be over."""
        if evict is None:
            return self.load(unit)
        if evict not in self.where:
            raise ValueError(f"The plan evicts {title(evict)}, which is not there.")
        earlier = bisect_left(self.turns[evict], before)
        after = self.turns[evict][earlier - 1] if earlier else -1
        self.leaving.add(after)
        return self.load(unit, self.loads[self.where.pop(evict)].slot, after)

    def need(self, use: Use, turn: int) -> int:
        """The number of the load that a use waits for."""
        if use.unit not in self.where:
            raise ValueError(f"The plan has not loaded {title(use.unit)} when it is used (use {turn}).")
        return self.where[use.unit]


def route(plan: Plan, size: Callable[[Unit], int]) -> Route:
    """Give every load of a plan its slot. Trunks are left out: they have places of their own, and stay.

    Raises ValueError for a plan that cannot be carried out: a use of what is not there, a load of what is, an eviction
    of what is not or of a trunk, moves out of order, places (those of the trunks in `first` too) over the budget.
    """
    kept = [turn for turn, use in enumerate(plan.uses) if use.unit.index != TRUNK]
    uses = tuple(plan.uses[turn] for turn in kept)
    router = _Router(uses, size)
    first = [unit for unit in plan.first if unit.index != TRUNK]
    for unit in sorted(first, key=lambda unit: (*router.turns.get(unit, ()), len(uses))[0]):
        router.load(unit)
    needs, moves = [], list(reversed(_moves(plan, kept)))
    for turn, use in enumerate(uses):
        while moves and moves[-1].before <= turn:
            move = moves.pop()
            router.move(move.load, move.evict, move.before)
        needs.append(router.need(use, turn))
    need = sum(router.slots) + sum(size(unit) for unit in plan.first if unit.index == TRUNK)
    if need > plan.budget:
        raise ValueError(f"The plan's places take {need:,} bytes, more than its budget of {plan.budget:,}.")
    return Route(uses, tuple(router.loads), tuple(needs), frozenset(router.leaving), tuple(router.slots))


def _moves(plan: Plan, kept: Sequence[int]) -> list[Move]:
    """The moves, numbered by the uses that are kept; none may be a trunk's."""
    if any(later.before < move.before for move, later in pairwise(plan.moves)):
        raise ValueError("The plan's moves are not in the order of the uses that wait for them.")
    for move in plan.moves:
        if TRUNK in ({move.load.index} if move.evict is None else {move.load.index, move.evict.index}):
            what = f"The plan loads {title(move.load)} before use {move.before}"
            raise ValueError(f"{what} by moving a trunk; trunks stay, so make the plan without uses of trunks.")
    return [replace(move, before=bisect_left(kept, move.before)) for move in plan.moves]


class Progress:
    """How far a run has come, told between the thread that computes and the one that copies.

    filled: loads begun on a GPU, done elsewhere; over: uses over. Whoever waits is woken by an error or the end too.
    """

    def __init__(self) -> None:
        self.filled = 0
        self.over = 0
        self.error: BaseException | None = None
        self.waited = 0.0  # seconds that the thread that computes has waited
        self._ended = False
        self._changed = threading.Condition()

    def one_filled(self) -> None:
        """The next load."""
        with self._changed:
            self.filled += 1
            self._changed.notify_all()

    def one_over(self) -> None:
        """The next use."""
        with self._changed:
            self.over += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more is to be loaded."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_over(self, turn: int) -> bool:
        """Wait until a use is over; False where the run ended first."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self.over > turn)
            return not self._ended

    def wait_filled(self, number: int) -> None:
        """Wait until a load has happened. Raises what went wrong in the loading thread instead."""
        start = perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self.filled > number or self._ended)
            reached = self.filled > number
        self.waited += perf_counter() - start
        if not reached:
            raise self.error or RuntimeError("The streamer was closed.")

    @contextmanager
    def reported(self) -> Iterator[None]:
        """What is raised in here is raised in the thread that computes, once it needs what was not loaded."""
        with ExitStack() as stack:
            stack.push(self._keep)
            yield

    def _keep(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self.error = error
            clear_frames(error.__traceback__)  # which hold views of slots for as long as the error is held
            self.end()
        return error is not None
