"""Slots: who gets which, when, and that impossible plans are refused; threads tell each other how far they are."""

import threading
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.residency.plan import place_bytes, plan
from pasdedeux.residency.pool import PAGE, HostBuffer, Load, Pool, Progress, route
from pasdedeux.residency.units import TRUNK, Move, Plan, Unit, Use

A, B, C = (Unit(0, k) for k in range(3))
ORDER = tuple(Use(unit, step) for step in range(2) for unit in (A, B, C))
MOVES = (Move(C, A, 2), Move(A, B, 3), Move(B, C, 4), Move(C, A, 5))
RING = Plan(ORDER, (A, B), MOVES, 20)


def ten(unit: Unit) -> int:
    return 10


def test_a_load_takes_the_place_of_what_it_evicts_after_its_last_use():
    found = route(RING, ten)
    assert found.slots == (10, 10)
    assert found.loads == (
        Load(A, 0), Load(B, 1), Load(C, 0, after=0), Load(A, 1, after=1), Load(B, 0, after=2), Load(C, 1, after=3),
    )  # fmt: skip
    assert found.needs == (0, 1, 2, 3, 4, 5)
    assert found.leaving == {0, 1, 2, 3}


def test_a_slot_is_as_large_as_the_largest_unit_that_lies_in_it():
    sizes = {A: 5, B: 7, C: 12}
    plan_ = Plan(ORDER, (A, B), MOVES, 24)
    assert route(plan_, sizes.__getitem__).slots == (12, 12)
    with pytest.raises(ValueError, match="places take 24 bytes, more than its budget of 23"):
        route(Plan(ORDER, (A, B), MOVES, 23), sizes.__getitem__)


def test_first_units_are_loaded_in_the_order_of_their_use_whatever_the_plan_lists():
    found = route(Plan(ORDER, (C, Unit(1, 0), A, B), (), 40), ten)
    assert [load.unit for load in found.loads] == [A, B, C, Unit(1, 0)]
    assert found.needs == (0, 1, 2, 0, 1, 2)


def test_trunks_have_no_turns_and_stay():
    trunk = Unit(0, TRUNK)
    uses = tuple(u for use in ORDER for u in (Use(trunk, use.step), use))
    moves = tuple(Move(m.load, m.evict, 2 * m.before + 1) for m in MOVES)
    assert route(Plan(uses, (trunk, A, B), moves, 30), ten) == route(RING, ten)
    with pytest.raises(ValueError, match="places take 30 bytes"):
        route(Plan(uses, (trunk, A, B), moves, 29), ten)
    with pytest.raises(ValueError, match="loads block 2 of model 0 before use 2 by moving a trunk; trunks stay"):
        route(Plan(ORDER, (trunk, B), (Move(C, trunk, 2),), 30), ten)


@pytest.mark.parametrize(
    ("first", "moves", "says"),
    [
        ((A,), (), "not loaded block 1 of model 0 when it is used"),
        ((A, B), (Move(C, Unit(1, 4), 2),), "evicts block 4 of model 1, which is not there"),
        ((A, B), (Move(B, A, 2),), "loads block 1 of model 0, which is there already"),
        ((A, B), (MOVES[1], MOVES[0]), "not in the order"),
        ((A, B), (Move(C, A, 2),), "not loaded block 0 of model 0 when it is used"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(first, moves, says):
    with pytest.raises(ValueError, match=says):
        route(Plan(ORDER, first, moves, 100), ten)


@given(st.data())
def test_every_plan_that_is_made_has_a_route_that_never_overwrites_what_will_be_used(data):
    sizes = {Unit(m, k): data.draw(st.integers(1, 9)) for m in range(2) for k in range(4)}
    order = data.draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=25))
    budget = data.draw(st.integers(18, 72))
    made = plan([Use(unit, k) for k, unit in enumerate(order)], sizes, budget)
    found = route(made, sizes.__getitem__)
    assert sorted(found.slots) == sorted(place_bytes(made, sizes))
    # As late as can be and as early as may be: what a use finds in its slot is what it needs.
    for turn, use in enumerate(found.uses):
        load = found.loads[found.needs[turn]]
        assert load.unit == use.unit
        assert load.after < turn
        later = [other for other in found.loads[found.needs[turn] + 1 :] if other.slot == load.slot]
        assert all(other.after >= turn for other in later)
    # No load waits for a use that waits for a later load.
    for number, load in enumerate(found.loads):
        assert all(need < number for need in found.needs[: load.after + 1])


def test_a_pool_lets_go_of_its_slots_whoever_holds_them():
    with Pool([100, 28], torch.device("cpu")) as pool:
        assert pool.nbytes == 128
        slot = pool.slots[0]
        assert slot.buffer.dtype == torch.uint8
    assert pool.nbytes == 0
    assert slot.buffer.numel() == 0


@pytest.mark.parametrize("nbytes", [0, 1, 5000, 3 << 20])
def test_host_memory_has_the_bytes_asked_for_and_pages_of_its_own(nbytes):
    buffer = HostBuffer(nbytes, pinned=False)
    buffer.tensor.fill_(7)
    assert buffer.tensor.shape == (nbytes,)
    assert nbytes == 0 or buffer.tensor.data_ptr() % PAGE == 0
    assert buffer.tensor.untyped_storage().nbytes() < nbytes + 2 * PAGE
    buffer.free()
    assert buffer.tensor.numel() == 0


def test_what_cannot_be_pinned_is_an_error_in_a_sentence(monkeypatch):
    class Refusing:
        def cudaHostRegister(self, *_: int) -> int:  # noqa: N802 (its name in CUDA)
            return 2

    forgotten: list[str] = []

    def started(*_: int, device: str) -> None:
        forgotten.append(device)
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "cudart", Refusing)
    monkeypatch.setattr(torch, "zeros", started)
    with pytest.raises(MemoryError, match=r"CUDA error 2: 0.00 GB of host memory cannot be pinned"):
        HostBuffer(100, pinned=True)
    assert forgotten == ["cuda"]  # else the next kernel would fail in its place


def test_pinned_memory_is_registered_whole_and_unregistered_once(monkeypatch):
    calls = []

    class Recording:
        def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
            calls.append((address, nbytes))
            return 0

        def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
            calls.append((address,))
            return 0

    cards: list[int] = []
    monkeypatch.setattr(torch.cuda, "cudart", Recording)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device", lambda card: cards.append(card) or nullcontext())
    buffer = HostBuffer(5000, pinned=True)
    address = buffer.tensor.data_ptr()
    buffer.free()
    buffer.free()
    forgotten = HostBuffer(100, pinned=True)
    del forgotten
    assert calls[:2] == [(address, -(-5000 // PAGE) * PAGE), (address,)]
    assert [len(call) for call in calls] == [2, 1, 2, 1]
    assert cards == [3, 3]  # unregistered where they were registered


def test_progress_wakes_whoever_waits_and_hands_errors_over():
    progress = Progress()
    seen = []

    def copy() -> None:
        with progress.reported():
            progress.one_filled()
            seen.append(progress.wait_over(0))
            raise OSError(5, "Input/output error")

    thread = threading.Thread(target=copy)
    thread.start()
    progress.wait_filled(0)
    progress.one_over()
    with pytest.raises(OSError, match="Input/output") as caught:
        progress.wait_filled(1)
    thread.join()
    assert caught.value is progress.error
    assert seen == [True]
    assert progress.wait_over(5) is False
    progress.wait_filled(0)  # what is there is there
