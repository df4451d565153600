"""What a GPU is asked for, in which order: checked without one, on streams and events that only take notes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pasdedeux.residency.copies import DeviceCopies
from pasdedeux.residency.plan import plan
from pasdedeux.residency.pool import Pool
from pasdedeux.residency.sources import FileSource, HostSource, Source
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Unit

DEPTH = 5
X = torch.ones(2, 5)
CARD = "the second card"


class Event:
    """Knows who recorded it."""

    def __init__(self, notes: list[Any], name: str) -> None:
        self.notes, self.name = notes, name

    def record(self, stream: "Stream") -> None:
        self.notes.append((stream.name, "records", self.name))

    def synchronize(self) -> None:
        self.notes.append(("host", "waits for", self.name))


class Stream:
    """Notes what it waits for."""

    device = CARD

    def __init__(self, notes: list[Any], name: str) -> None:
        self.notes, self.name = notes, name

    def wait_event(self, event: Event) -> None:
        self.notes.append((self.name, "waits for", event.name))

    def wait_stream(self, stream: "Stream") -> None:
        self.notes.append((self.name, "waits for", stream.name))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What streams, events and the host do, in order; CUDA is made of note-takers meanwhile."""
    noted: list[Any] = []
    compute, copy = Stream(noted, "compute"), Stream(noted, "copy")
    stages = iter(range(9))

    here = threading.local()  # every thread begins on the first card

    class Cudart:
        def cudaHostRegister(self, *_: int) -> int:  # noqa: N802 (its name in CUDA)
            assert here.card == CARD
            noted.append(("host", "pins", ""))
            return 0

        def cudaHostUnregister(self, *_: int) -> int:  # noqa: N802
            assert here.card == CARD
            noted.append(("host", "unpins", ""))
            return 0

    class NotedPool(Pool):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for k, slot in enumerate(self.slots):
                made: Any = Event(noted, f"filled {k}"), Event(noted, f"free {k}")
                slot.filled, slot.free_after = made

    @contextmanager
    def on(card: str) -> Iterator[None]:
        before, here.card = getattr(here, "card", "the first card"), card
        yield
        here.card = before

    @contextmanager
    def queued(_: object) -> Iterator[None]:
        assert here.card == CARD  # else leaving the stream would make a context on the first card
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: copy)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(noted, f"stage {next(stages)}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: compute)
    monkeypatch.setattr(torch.cuda, "stream", queued)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: here.card)
    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: noted.append(("host", "waits for", "device")))
    monkeypatch.setattr("pasdedeux.residency.stream.copies_for", DeviceCopies)
    monkeypatch.setattr("pasdedeux.residency.stream.Pool", NotedPool)
    return noted


def go(made: Any, source: Source) -> None:
    """Two steps in two places."""
    model = made.empty()
    sizes = {unit: source.layout(unit).nbytes for unit in made.in_file}
    budget = 2 * sizes[Unit(0, 0)] + sizes[Unit(0, TRUNK)]
    planned = plan(trace([Step(0)] * 2, [DEPTH]), sizes, budget)
    with Streamer([Streamed(model, list(model.blocks))], source, planned, "cpu"), torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(X), made.resident(X))


def test_each_stream_waits_for_the_other_and_the_host_for_neither(case: Callable[..., Any], notes: list[Any]) -> None:
    made = case(DEPTH)
    with HostSource.of(made.in_memory, pin=False) as source:
        go(made, source)
    assert notes[0] == ("copy", "waits for", "compute")
    assert [note for note in notes if note[0] == "host"] == [("host", "waits for", "device")]  # once, at the end
    assert notes[-1] == ("host", "waits for", "device")
    for slot in range(2):
        own = [note[:2] for note in notes if note[2] in (f"filled {slot}", f"free {slot}")]
        turn = [("copy", "waits for"), ("copy", "records"), ("compute", "waits for"), ("compute", "records")]
        # Every place is filled, waited for, computed with, given up, and waited for again before it is filled.
        assert own == (turn * DEPTH)[:-1]


def test_what_is_read_from_a_disk_goes_through_two_pinned_buffers(case: Callable[..., Any], notes: list[Any]) -> None:
    made = case(DEPTH)
    go(made, FileSource(made.in_file))
    actions = [note[1] for note in notes if note[0] == "host"]
    assert actions.count("pins") == actions.count("unpins") == 2
    stages = [note[1:] for note in notes if note[2].startswith("stage")]
    assert [name for did, name in stages if did == "records"] == [f"stage {k % 2}" for k in range(2 * DEPTH)]
    # A buffer is read into only when the copy before from it is over.
    for k in range(2):
        assert [did for did, name in stages if name == f"stage {k}"] == ["waits for", "records"] * DEPTH
    first_unpinned = notes.index(("host", "unpins", ""))
    assert notes.index(("host", "waits for", "device")) < first_unpinned


def refuse(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """CUDA pins so many buffers at a time; those that are pinned, as addresses."""
    pinned: list[int] = []

    def register(address: int, *_: int) -> int:
        refused = len(pinned) == most
        pinned.extend([] if refused else [address])
        return 2 * refused

    def unregister(address: int) -> int:
        pinned.remove(address)
        return 0

    cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=unregister)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr("pasdedeux.residency.pool._forget_error", lambda: None)
    return pinned


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.usefixtures("notes")
def test_a_ring_that_cannot_be_pinned_is_used_as_it_is(
    case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    made, pinned = case(DEPTH), refuse(monkeypatch, most)
    go(made, FileSource(made.in_file))
    assert pinned == []


@pytest.mark.parametrize("most", [0, 2, 4, 9])
@pytest.mark.usefixtures("notes")
def test_units_that_cannot_be_kept_pinned_are_read_each_time(
    case: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    made, pinned = case(DEPTH), refuse(monkeypatch, most)
    with HostSource(FileSource(made.in_file), made.in_file, pin=True, later=True) as source:
        go(made, source)
        assert len(pinned) == min(most, DEPTH + 1)
        assert source.refused == (most < DEPTH + 1)
        assert source.nbytes == sum(
            source.layout(unit).nbytes for unit in made.in_file if source.held(unit) is not None
        )
        source.keep([])
        assert not source.refused
    assert pinned == []


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
@pytest.mark.usefixtures("notes")
def test_the_mode_of_whoever_computes_is_not_that_of_the_thread_that_copies(
    case: Callable[..., Any], mode: Callable[[], Any]
) -> None:
    made = case(DEPTH)
    with mode():
        go(made, FileSource(made.in_file))
