"""Streamed is resident to the bit, in the memory of its slots, and leaves nothing behind however it ends."""

import gc
import signal
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pasdedeux.residency.plan import plan
from pasdedeux.residency.sources import CallSource, FileSource, FileTensor, HostSource, Made, Source
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Plan, Unit, Use

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 10).reshape(2, 5)


class Noting:
    """A source that notes what is read, in a list that others write to as well."""

    def __init__(self, source: Source, notes: list[Any]) -> None:
        self.source, self.notes, self.layout, self.held = source, notes, source.layout, source.held

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        self.notes.append(("read", unit))
        self.source.read_into(unit, buffer)


def places(source: Source, uses: Sequence[Use], count: int, ahead: int = 1) -> Plan:
    """A plan with so many places for blocks."""
    units = {use.unit for use in uses} | {Unit(use.unit.model, TRUNK) for use in uses}
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    blocks = max(size for unit, size in sizes.items() if unit.index != TRUNK)
    trunks = sum(size for unit, size in sizes.items() if unit.index == TRUNK)
    return plan(uses, sizes, trunks + count * blocks, ahead=ahead)


def streamed(*models: nn.Module) -> list[Streamed]:
    return [Streamed(model, list(model.blocks)) for model in models]  # pyright: ignore[reportArgumentType]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "residency"]


def traces_of(*models: nn.Module) -> list[str]:
    """What a streamer that has ended may not leave behind."""
    hooks = [m for model in models for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    held = [n for model in models for n, t in model.state_dict().items() if not t.is_meta]
    return [*threads(), *map(str, hooks), *held]


@contextmanager
def counted_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes of every slot that is made."""
    made: list[int] = []
    system = torch.empty

    def noted(*args: Any, **more: Any) -> Tensor:
        made.append(args[0])
        return system(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("pasdedeux.residency.pool.torch.empty", noted)
        yield made


@pytest.mark.parametrize("count", [2, 3, 5, 6])
@pytest.mark.parametrize("kind", ["file", "host", "call"])
def test_streamed_is_resident_to_the_bit(case, count, kind):
    made = case(6)
    calls = {u: {n: Made(tuple(t.shape), t.dtype, t.clone) for n, t in ts.items()} for u, ts in made.in_memory.items()}
    sources = {
        "file": lambda: FileSource(made.in_file),
        "host": lambda: HostSource.of(made.in_memory),
        "call": lambda: CallSource(calls),
    }
    source, model = sources[kind](), made.empty()
    uses = trace([Step(0)] * 4, [6])
    planned = places(source, uses, count)
    with Streamer(streamed(model), source, planned, "cpu") as streamer, torch.no_grad():
        for step in range(4):
            assert same_bits(model(X + step), made.resident(X + step))
    assert traces_of(model) == []
    loads = sum(unit.index != TRUNK for unit in planned.first) + len(planned.moves)
    assert streamer.moved == source.layout(Unit(0, 0)).nbytes * loads
    assert (loads == 6) == (count == 6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_blocks_of_two_models_in_any_order_and_number_are_what_they_are(case, data):
    pair = [case(3, dim=8), case(2, dim=12, number=1)]
    source = FileSource({**pair[0].in_file, **pair[1].in_file})
    models = [made.empty() for made in pair]
    kinds = sorted(unit for unit in [*pair[0].in_file, *pair[1].in_file] if unit.index != TRUNK)
    turns = data.draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, 3)), min_size=1, max_size=20))
    uses = [Use(unit, step, passes) for step, (unit, passes) in enumerate(turns)]
    planned = places(source, uses, data.draw(st.integers(2, 4)))
    used = [Streamed(model, list(model.blocks)) for model in models]
    with Streamer(used, source, planned, "cpu"), torch.no_grad():
        for use in uses:
            real = pair[use.unit.model].resident.blocks[use.unit.index]
            block = models[use.unit.model].blocks[use.unit.index]
            for k in range(use.passes):
                x = torch.full((1, pair[use.unit.model].dim), 0.1 * k)
                assert same_bits(block(x), real(x))
    assert traces_of(*models) == []


def test_tensors_are_views_of_the_slots_in_the_types_they_are_stored_in(case):
    made = case(3)
    source, model = FileSource(made.in_file), made.empty()
    seen, ends = [], []

    def look(block: nn.Module, *_: Any) -> None:
        seen.append({name: t.dtype for name, t in block.state_dict().items()})
        ends.append({t.untyped_storage().data_ptr() for t in block.state_dict().values()})

    uses = trace([Step(0)] * 2, [3])
    with Streamer(streamed(model), source, places(source, uses, 2), "cpu"), torch.no_grad():
        for block in model.blocks:
            block.linear.register_forward_pre_hook(lambda _, __, block=block: look(block))
        model(X)
        model(X)
        kinds = {type(model.blocks[2].shift), type(model.blocks[2].packed)}
    wanted = {name: tensor.dtype for name, tensor in made.in_memory[Unit(0, 1)].items()}
    assert all(kinds_of == wanted for kinds_of in seen)
    assert all(len(end) == 1 for end in ends)
    assert len(set.union(*ends)) == 2  # addresses, in two slots
    assert kinds == {nn.Parameter, Tensor}


class Wide(nn.Module):
    """Many blocks of 4 MB."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, 1024, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x)) / 32
        return x


def anonymous_bytes() -> int:
    """The process's memory that no file stands behind."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell a process its memory")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def held_bytes(size: int) -> int:
    """Bytes of all tensors whose memory has that size, whoever holds them."""
    tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter) and thing.device == CPU]
    return sum(t.untyped_storage().nbytes() for t in tensors if t.untyped_storage().nbytes() == size)


def test_memory_is_that_of_the_slots_whatever_the_depth(tmp_path, monkeypatch):
    block, path, depth = 4 << 20, tmp_path / "weights", 40
    path.write_bytes(torch.randn(1024, 1024).numpy().tobytes())

    def at_start(*shape: int) -> FileTensor:
        return FileTensor(path=path, offset=0, nbytes=4 * shape[0] * shape[1], dtype=torch.float32, shape=shape)

    blocks = {Unit(0, k): {"weight": at_start(1024, 1024)} for k in range(depth)}
    source = FileSource({**blocks, Unit(0, TRUNK): {"first.weight": at_start(1024, 8)}})
    with torch.device("meta"):
        model = Wide(depth)
    uses = trace([Step(0)] * 2, [depth])
    seen: list[int] = []
    with torch.no_grad(), counted_buffers(monkeypatch) as buffers:
        torch.tanh(torch.randn(2, 1024) @ torch.randn(1024, 1024))  # what torch itself takes at first
        before = anonymous_bytes()
        with Streamer(streamed(model), source, places(source, uses, 2), "cpu"):
            for held in model.blocks:
                held.register_forward_hook(lambda *_: seen.append(anonymous_bytes()))
            for _ in range(2):
                model(torch.randn(2, 8))
    assert sum(buffers) == 2 * block + 1024 * 8 * 4
    assert max(seen) - before <= 3 * block
    assert held_bytes(block) == 0


def test_the_next_model_is_read_before_the_last_step_of_this_one_ends(case):
    pair = [case(4), case(4, number=1)]
    notes: list[Any] = []
    source = Noting(FileSource({**pair[0].in_file, **pair[1].in_file}), notes)
    models = [made.empty() for made in pair]

    def wait(*_: Any) -> None:
        if ("step", 1) in notes:  # in the last step: computing goes on until the other model's first block is read
            assert within_seconds(lambda: ("read", Unit(1, 0)) in notes)

    uses = trace([Step(0)] * 3 + [Step(1)] * 2, [4, 4])
    with Streamer(streamed(*models), source, places(source, uses, 2), "cpu"), torch.no_grad():
        models[0].blocks[3].linear.register_forward_hook(wait)
        for step, number in enumerate([0, 0, 0, 1, 1]):
            assert same_bits(models[number](X + step), pair[number].resident(X + step))
            notes.append(("step", step))
    assert notes.index(("step", 1)) < notes.index(("read", Unit(1, 0))) < notes.index(("step", 2))
    reads = [note[1] for note in notes if note[0] == "read"]
    assert reads[:2] == [Unit(0, TRUNK), Unit(1, TRUNK)]
    assert reads[2:6] == [Unit(0, k) for k in range(4)]


def within_seconds(true: Callable[[], bool], seconds: float = 5) -> bool:
    end = monotonic() + seconds
    while not true() and monotonic() < end:
        sleep(0.001)
    return true()


@pytest.mark.parametrize(("step", "loads"), [(Step(0, passes=2), 1), (Step(0, rounds=2), 2)])
def test_both_streams_of_guidance_share_a_load_block_by_block(case, step, loads):
    made, notes = case(8), []
    source, model = Noting(FileSource(made.in_file), notes), made.empty()
    uses = trace([step], [8])
    with Streamer(streamed(model), source, places(source, uses, 2), "cpu"), torch.no_grad():
        if step.passes == 2:
            a, b = model.embed(X), model.embed(-X)
            for block in model.blocks:
                a, b = block(a), block(b)
            found = model.head(a), model.head(b)
        else:
            found = model(X), model(-X)
    assert same_bits(found[0], made.resident(X))
    assert same_bits(found[1], made.resident(-X))
    reads = [unit for _, unit in notes if unit.index != TRUNK]
    assert len(reads) == 8 * loads


def ready(case: Callable[..., Any], depth: int = 4, steps: int = 2) -> tuple[Any, Any, Plan]:
    """An empty model, the source of its weights, a plan for two places."""
    made = case(depth)
    source = FileSource(made.in_file)
    return made.empty(), source, places(source, trace([Step(0)] * steps, [depth]), 2)


def run(streamer: Streamer, *calls: Callable[[], object]) -> None:
    with streamer, torch.no_grad():
        for call in calls:
            call()


def test_a_block_out_of_turn_is_named_and_so_is_the_one_expected(case):
    model, source, planned = ready(case)
    calls = [lambda: model.blocks[0](torch.zeros(2, 24)), lambda: model.blocks[2](torch.zeros(2, 24))]
    with pytest.raises(RuntimeError, match=r"Block 2 of model 0 is used where the plan has block 1 of model 0 \(use 1"):
        run(Streamer(streamed(model), source, planned, "cpu"), *calls)
    assert traces_of(model) == []


def test_a_use_after_the_plan_is_refused(case):
    model, source, planned = ready(case, steps=1)
    with pytest.raises(RuntimeError, match="Block 0 of model 0 is used after the last of the plan's 4 uses"):
        run(Streamer(streamed(model), source, planned, "cpu"), lambda: model(X), lambda: model(X))
    assert traces_of(model) == []


class Failing(Noting):
    """Raises in place of reading one unit."""

    def __init__(self, source: Source, unit: Unit, error: BaseException) -> None:
        super().__init__(source, [])
        self.unit, self.error = unit, error

    def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
        if unit == self.unit:
            raise self.error
        super().read_into(unit, buffer)


@pytest.mark.parametrize("unit", [Unit(0, TRUNK), Unit(0, 0), Unit(0, 1), Unit(0, 3)])
@pytest.mark.parametrize("kind", [OSError, ValueError, MemoryError, KeyboardInterrupt])
def test_what_goes_wrong_in_reading_is_raised_as_it_was_and_nothing_stays(case, unit, kind):
    model, source, planned = ready(case)
    error = kind("something about the disk")
    with (
        pytest.raises(kind) as caught,
        Streamer(streamed(model), Failing(source, unit, error), planned, "cpu") as streamer,
        torch.no_grad(),
    ):
        model(X)
    assert caught.value is error
    assert traces_of(model) == []
    if unit.index != TRUNK:
        assert streamer._pool.slots == []


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_what_goes_wrong_in_a_forward_is_raised_as_it_was_and_nothing_stays(case, kind):
    model, source, planned = ready(case)
    error = kind("in the middle")

    def fail(*_: Any) -> None:
        raise error

    handle = model.blocks[2].linear.register_forward_hook(fail)
    with (
        pytest.raises(kind) as caught,
        Streamer(streamed(model), source, planned, "cpu") as streamer,
        torch.no_grad(),
    ):
        model(X)
    handle.remove()
    assert caught.value is error
    assert traces_of(model) == []
    assert streamer._pool.slots == []


def test_no_memory_for_the_slots_leaves_nothing(case, monkeypatch):
    model, source, planned = ready(case)
    made: list[int] = []

    def out_of_memory(*args: Any, **more: Any) -> Tensor:
        made.append(1)
        if len(made) > 1:
            raise torch.cuda.OutOfMemoryError("no memory is left")
        return torch.zeros(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("pasdedeux.residency.pool.torch.empty", out_of_memory)
        with (
            pytest.raises(torch.cuda.OutOfMemoryError, match="no memory is left"),
            Streamer(streamed(model), source, planned, "cpu"),
        ):
            pass
    assert traces_of(model) == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_host_waits_for_a_disk_ends_the_run(case):
    model, source, planned = ready(case)

    class Slow(Noting):
        def read_into(self, unit: Unit, buffer: Tensor, /) -> None:
            if unit == Unit(0, 2):
                interrupt_main()
                sleep(0.2)
            super().read_into(unit, buffer)

    with (
        pytest.raises(KeyboardInterrupt),
        Streamer(streamed(model), Slow(source, []), planned, "cpu"),
        torch.no_grad(),
    ):
        model(X)
    assert traces_of(model) == []


def test_a_failed_run_holds_no_memory_even_while_its_error_is_held(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(torch.randn(1024, 1024).numpy().tobytes())
    whole = FileTensor(path=path, offset=0, nbytes=4 << 20, dtype=torch.float32, shape=(1024, 1024))
    source = FileSource({Unit(0, k): {"weight": whole} for k in range(8)})
    with torch.device("meta"):
        model = Wide(8)
    model.first = nn.Identity()  # no trunk at all
    uses = trace([Step(0)], [8])
    sizes = dict.fromkeys((Unit(0, k) for k in range(8)), 4 << 20)
    with (
        pytest.raises(OSError, match="gone") as caught,
        Streamer(streamed(model), Failing(source, Unit(0, 7), OSError("gone")), plan(uses, sizes, 24 << 20), "cpu"),
        torch.no_grad(),
    ):
        model(torch.zeros(1, 1024))
    assert caught.value.__traceback__ is not None
    assert held_bytes(4 << 20) == 0


def test_a_run_that_is_stopped_early_leaves_nothing_and_raises_nothing(case):
    model, source, planned = ready(case)
    with Streamer(streamed(model), source, planned, "cpu") as streamer, torch.no_grad():
        model(X)
    assert traces_of(model) == []
    with pytest.raises(RuntimeError, match="once; make another one"), streamer:
        pass


def test_an_error_nobody_waited_for_is_not_lost(case):
    model, source, planned = ready(case, depth=2)
    failing = Failing(source, Unit(0, 1), OSError("gone"))
    streamer = Streamer(streamed(model), failing, planned, "cpu")
    with pytest.raises(OSError, match="gone"):
        run(streamer, lambda: model.blocks[0](torch.zeros(2, 24)), lambda: within_seconds(lambda: not threads()))
    assert traces_of(model) == []


def test_weights_that_were_real_are_replaced_and_on_meta_afterwards(case):
    _, source, planned = ready(case)
    made = case(4)
    model = type(made.resident)(4)
    assert not same_bits(model(X).detach(), made.resident(X))
    source = FileSource(made.in_file)
    with Streamer(streamed(model), source, planned, "cpu"), torch.no_grad():
        assert same_bits(model(X), made.resident(X))
    assert traces_of(model) == []


def test_parts_of_a_block_may_be_used_from_outside_in_their_turn(case):
    made = case(3)
    source, model = FileSource(made.in_file), made.empty()
    uses = (*(Use(Unit(0, k), 0) for k in range(3)), *trace([Step(0)], [3]))
    with Streamer(streamed(model), source, places(source, uses, 2), "cpu") as streamer, torch.no_grad():
        for k in range(3):
            with streamer.using(Unit(0, k)):
                found = model.blocks[k].linear(torch.ones(24))
            assert same_bits(found, made.resident.blocks[k].linear(torch.ones(24)))
        assert same_bits(model(X), made.resident(X))


def test_gradients_through_streamed_blocks_are_refused(case):
    model, source, planned = ready(case)
    with pytest.raises(RuntimeError, match="gone before a backward"), Streamer(streamed(model), source, planned, "cpu"):
        model(X.clone().requires_grad_())
    assert traces_of(model) == []


def test_a_tensor_with_two_names_is_stored_under_one(case):
    made = case(2)
    model = made.empty()
    model.again = model.embed
    source = FileSource(made.in_file)
    planned = places(source, trace([Step(0)], [2]), 2)
    with Streamer(streamed(model), source, planned, "cpu"), torch.no_grad():
        assert same_bits(model.again(X), made.resident.embed(X))
        model(X)
    assert traces_of(model) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda units: units[Unit(0, 1)].pop("gain"), "do not fit block 1 of model 0; missing: gain"),
        (lambda units: units[Unit(0, TRUNK)].pop("head.bias"), "do not fit the trunk of model 0; missing: head.bias"),
        (lambda units: units[Unit(0, 0)].update(more=units[Unit(0, 0)]["gain"]), "block 0 of model 0; unknown: more"),
        (
            lambda units: units[Unit(0, 0)].update(shift=units[Unit(0, 0)]["linear.bias"]),
            "block 0 of model 0; misshaped: shift",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_moves(case, change, says):
    made = case(2)
    units = made.in_file
    change(units)
    source, model = FileSource(units), made.empty()
    with pytest.raises(ValueError, match=says):
        Streamer(streamed(model), source, places(source, trace([Step(0)], [2]), 2), "cpu")


def test_strange_arguments_are_refused(case):
    model, source, planned = ready(case)
    twice = [Streamed(model, [model.blocks[0], model.blocks[0]])]
    with pytest.raises(ValueError, match="One block is given twice"):
        Streamer(twice, source, planned, "cpu")
    with pytest.raises(ValueError, match="uses block 2 of model 0, which no model has"):
        Streamer([Streamed(model, list(model.blocks)[:2])], source, planned, "cpu")
    with (
        pytest.raises(ValueError, match='cannot be streamed to "meta"'),
        Streamer(streamed(model), source, planned, "meta"),
    ):
        pass
    assert traces_of(model) == []


@pytest.mark.parametrize("way", ["module", "forward", "wrapped"])
def test_a_compiled_block_is_compiled_once_for_all_blocks(case, way):
    made = case(10)
    source, model = FileSource(made.in_file), made.empty()
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    uses = trace([Step(0)] * 3, [10])
    compiled = list(model.blocks)
    for k, block in enumerate(model.blocks):
        if way == "module":
            block.compile(backend=backend)
        elif way == "forward":
            block.forward = torch.compile(block.forward, backend=backend)
        else:
            compiled[k] = torch.compile(block, backend=backend)
    with Streamer(streamed(model), source, places(source, uses, 3), "cpu"), torch.no_grad():
        for step in range(3):
            x = model.embed(X + step)
            for block in compiled:
                x = block(x)
            assert same_bits(model.head(x), made.resident(X + step))
    assert len(graphs) == 1


def test_what_has_left_is_on_meta_and_not_a_view_of_others_bytes(case):
    model, source, planned = ready(case, depth=6)
    with Streamer(streamed(model), source, planned, "cpu"), torch.no_grad():
        model(X)
        there = [k for k, block in enumerate(model.blocks) if not block.linear.weight.is_meta]
    left = {move.evict.index for move in planned.moves if move.evict is not None and move.before <= 5}
    assert left
    assert not left & set(there)
    assert len(there) <= 2
