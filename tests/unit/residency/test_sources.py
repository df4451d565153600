"""Bytes arrive where the layout says, whatever they come from; a file that is not what it was is refused."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.residency.sources import ALIGNMENT, CallSource, FileSource, FileTensor, HostSource, Layout, Made
from pasdedeux.residency.units import TRUNK, Unit

UNIT = Unit(0, 0)
DTYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.float8_e4m3fn, torch.int64]


def read(source, unit=UNIT) -> dict[str, torch.Tensor]:
    layout = source.layout(unit)
    buffer = torch.full((layout.nbytes,), 0xAB, dtype=torch.uint8)
    source.read_into(unit, buffer)
    return layout.views(buffer)


def same(found, wanted) -> bool:
    return found.keys() == wanted.keys() and all(
        found[n].dtype == t.dtype and found[n].shape == t.shape and torch.equal(bits(found[n]), bits(t))
        for n, t in wanted.items()
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.sampled_from(DTYPES)), max_size=8))
def test_a_layout_is_aligned_and_its_tensors_do_not_touch(kinds):
    layout = Layout.of((str(k), tuple(shape), dtype) for k, (shape, dtype) in enumerate(kinds))
    ends = [0]
    for tensor in layout.tensors:
        assert tensor.offset % ALIGNMENT == 0
        assert tensor.offset >= ends[-1]
        ends.append(tensor.offset + tensor.nbytes)
    assert ends[-1] <= layout.nbytes < ends[-1] + ALIGNMENT
    views = layout.views(torch.zeros(layout.nbytes + 5, dtype=torch.uint8))
    assert [(list(v.shape), v.dtype) for v in views.values()] == [(list(shape), dtype) for shape, dtype in kinds]


@pytest.mark.parametrize("forget", [False, True])
def test_every_source_gives_the_bytes_of_the_model(case, forget):
    made = case(3)
    made_by_call = {
        unit: {name: Made(tuple(t.shape), t.dtype, t.clone) for name, t in tensors.items()}
        for unit, tensors in made.in_memory.items()
    }
    files = FileSource(made.in_file, forget=forget)
    with HostSource(files, [Unit(0, 1)]) as some, HostSource.of(made.in_memory) as host:
        for source in (files, CallSource(made_by_call), some, host):
            for unit, tensors in made.in_memory.items():
                assert same(read(source, unit), tensors)
        assert [some.held(unit) is not None for unit in sorted(made.in_memory)] == [False, False, True, False]
        held = host.held(UNIT)
        assert held is not None
        assert len(held) == host.layout(UNIT).nbytes
        assert same(host.layout(UNIT).views(held), made.in_memory[UNIT])
    assert host.held(UNIT) is None


def test_neighbours_in_a_file_are_read_in_one_go(case, monkeypatch):
    made, calls = case(1), []
    system = os.preadv

    def counted(fd, buffers, offset):
        calls.append(len(buffers))
        return system(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    source = FileSource(made.in_file)
    assert same(read(source), made.in_memory[UNIT])
    assert sum(calls) == len(made.in_memory[UNIT])
    assert len(calls) <= 2  # safetensors sorts by type first; the trunk's float32 lie between the block's and the rest


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_system_that_reads_little_at_a_time_is_asked_again(case, monkeypatch, most):
    made, system = case(1, dim=8), os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: system(fd, [buffers[0][:most]], offset))
    assert same(read(FileSource(made.in_file)), made.in_memory[UNIT])


def test_without_preadv_the_same_is_read(case, monkeypatch):
    made = case(2)
    monkeypatch.delattr(os, "preadv")
    assert same(read(FileSource(made.in_file)), made.in_memory[UNIT])


def test_a_tensor_without_values_and_a_single_number(tmp_path: Path):
    path = tmp_path / "two"
    path.write_bytes(torch.tensor(3.5).numpy().tobytes())
    number = FileTensor(path=path, offset=0, nbytes=4, dtype=torch.float32, shape=())
    nothing = FileTensor(path=path, offset=4, nbytes=0, dtype=torch.float32, shape=(0, 3))
    found = read(FileSource({UNIT: {"number": number, "nothing": nothing}}))
    assert found["number"].item() == 3.5
    assert found["nothing"].shape == (0, 3)


def test_a_changed_file_is_refused(case):
    made = case(1)
    source = FileSource(made.in_file)
    os.utime(made.path, ns=(1, 1))
    with pytest.raises(ValueError, match="has changed since it was opened"):
        read(source)


def test_a_file_that_changes_while_it_is_read_is_refused(case, monkeypatch):
    made, system = case(1), os.preadv
    source = FileSource(made.in_file)

    def meddled(fd, buffers, offset):
        os.utime(made.path, ns=(1, 1))
        return system(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", meddled)
    with pytest.raises(ValueError, match="has changed while it was read"):
        read(source)


def test_a_short_read_is_refused(case, monkeypatch):
    made = case(1)
    source = FileSource(made.in_file)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: 0)
    with pytest.raises(ValueError, match=r"model0.safetensors ends at \d+, \d+ bytes too early"):
        read(source)


def test_what_cannot_be_in_the_file_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "short"
    path.write_bytes(bytes(10))
    with pytest.raises(ValueError, match="has 10 bytes, but w ends at 12"):
        FileSource({UNIT: {"w": FileTensor(path=path, offset=8, nbytes=4, dtype=torch.float32, shape=(1,))}})
    with pytest.raises(ValueError, match=r"has 3 bytes; its shape \[1\] of torch.float32 takes 4"):
        FileSource({UNIT: {"w": FileTensor(path=path, offset=0, nbytes=3, dtype=torch.float32, shape=(1,))}})
    with pytest.raises(FileNotFoundError):
        FileSource({UNIT: {"w": FileTensor(path=tmp_path / "no", offset=0, nbytes=4, dtype=torch.float32, shape=(1,))}})


def test_a_unit_that_is_not_there_is_named(case):
    with pytest.raises(ValueError, match="no weights for block 7 of model 0"):
        FileSource(case(1).in_file).layout(Unit(0, 7))
    with pytest.raises(ValueError, match="no weights for the trunk of model 2"):
        CallSource({}).layout(Unit(2, TRUNK))


def test_a_tensor_made_otherwise_than_said_is_refused():
    source = CallSource({UNIT: {"w": Made((2,), torch.float32, lambda: torch.zeros(3))}})
    with pytest.raises(ValueError, match=r"w of block 0 of model 0 was made as \[3\].*should be \[2\]"):
        read(source)


def test_tensors_with_gradients_can_be_sources():
    weight = torch.randn(2, 2, requires_grad=True)
    with HostSource.of({UNIT: {"w": weight.t()}}) as source:
        assert torch.equal(read(source)["w"], weight.detach().t())


def test_a_host_source_that_cannot_be_filled_lets_go_of_what_it_has(case, monkeypatch):
    made = case(2)
    source = FileSource(made.in_file)
    freed, reads, system = [], [], os.preadv
    monkeypatch.setattr("pasdedeux.residency.pool.HostBuffer.free", lambda self: freed.append(self))

    def failing(fd, buffers, offset):
        reads.append(offset)
        if len(reads) > len(made.in_memory[UNIT]):
            raise OSError(5, "Input/output error")
        return system(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="Input/output"):
        HostSource(source, [Unit(0, 0), Unit(0, 1)])
    assert len(freed) == 2


def test_what_there_is_no_memory_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's allocator says so by a RuntimeError."""

    def none(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")

    unit = Unit(0, 0)
    source = CallSource({unit: {"a": Made((4,), torch.float32, lambda: torch.ones(4))}})
    with HostSource(source, [unit], pin=False, later=True) as kept:
        monkeypatch.setattr("pasdedeux.residency.pool.torch.empty", none)
        assert kept.held(unit) is None
        assert kept.refused
