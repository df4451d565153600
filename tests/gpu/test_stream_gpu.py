"""On a GPU: streamed is resident to the bit, in little memory, whichever of copying and computing is slower."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pasdedeux.residency.plan import plan
from pasdedeux.residency.sources import FileSource, FileTensor, HostSource, Source
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK, Unit

pytestmark = pytest.mark.gpu
DEPTH, WIDTH = 12, 2048
BLOCK = WIDTH * WIDTH * 2  # bytes


class Model(nn.Module):
    """Blocks of 8 MB, in bfloat16; `pause` is how many cycles a block waits before it computes."""

    def __init__(self, pause: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(16, WIDTH, bias=False, dtype=torch.bfloat16)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(DEPTH))
        self.pause = pause

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            if self.pause:
                torch.cuda._sleep(self.pause)
            x = x + torch.tanh(block(x)) / 4
        return x


def units_of(model: Model, number: int) -> dict[Unit, dict[str, Tensor]]:
    blocks = {Unit(number, k): {"weight": block.weight.data} for k, block in enumerate(model.blocks)}
    return {**blocks, Unit(number, TRUNK): {"first.weight": model.first.weight.data}}


def from_files(units: dict[Unit, dict[str, Tensor]], path: Path) -> FileSource:
    found: dict[Unit, dict[str, FileTensor]] = {}
    with path.open("wb") as file:
        for unit, tensors in units.items():
            for name, tensor in tensors.items():
                start, values = file.tell(), tensor.contiguous().view(torch.uint8).numpy().tobytes()
                file.write(values)
                place = FileTensor(
                    path=path, offset=start, nbytes=len(values), dtype=tensor.dtype, shape=tuple(tensor.shape)
                )
                found.setdefault(unit, {})[name] = place
    return FileSource(found)


def sources(kind: str, tmp_path: Path) -> Callable[[dict[Unit, dict[str, Tensor]]], Source]:
    return HostSource.of if kind == "host" else partial(from_files, path=tmp_path / "weights")


def pair(pause: int) -> tuple[list[Model], list[Model]]:
    """Two models in host memory, and the same on meta."""
    torch.manual_seed(0)
    full = [Model(pause).requires_grad_(False) for _ in range(2)]
    with torch.device("meta"):
        return full, [Model(pause) for _ in range(2)]


def walk(models: list[Model], x: Tensor, steps: list[int]) -> list[Tensor]:
    """The state after every step; the next step takes the one before's."""
    first, states = x, []
    for number in steps:
        states.append(models[number](first))
        first = states[-1][:, :16]
    return states


@pytest.mark.parametrize("kind", ["host", "file"])
@pytest.mark.parametrize("pause", [0, 300_000])
@pytest.mark.parametrize("places", [2, 5])
def test_two_models_are_streamed_to_the_bit_in_the_memory_of_their_places(tmp_path, kind, pause, places):
    full, empty = pair(pause)
    units = {unit: tensors for number, model in enumerate(full) for unit, tensors in units_of(model, number).items()}
    source = sources(kind, tmp_path)(units)
    steps, x = [0, 0, 0, 1, 1, 1], torch.randn(64, 16, device="cuda", dtype=torch.bfloat16)
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    budget = places * BLOCK + sum(size for unit, size in sizes.items() if unit.index == TRUNK)
    made = plan(trace([Step(number) for number in steps], [DEPTH, DEPTH]), sizes, budget)
    models = [Streamed(model, list(model.blocks)) for model in empty]
    with torch.no_grad():
        wanted = [state.cpu() for state in walk([model.cuda() for model in full], x, steps)]
        for model in full:
            model.to("cpu")
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with Streamer(models, source, made, "cuda") as streamer:
            torch.cuda.set_sync_debug_mode("error")
            try:
                states = walk(empty, x, steps)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            found = [state.cpu() for state in states]
    assert all(torch.equal(a.view(torch.int16), b.view(torch.int16)) for a, b in zip(found, wanted, strict=True))
    assert torch.cuda.max_memory_allocated() - before <= budget + BLOCK
    assert streamer.moved >= 2 * DEPTH * BLOCK
    del states
    assert torch.cuda.memory_allocated() - before <= BLOCK
    assert all(tensor.is_meta for model in empty for tensor in model.state_dict().values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_whatever_the_card_and_the_mode_of_whoever_computes(tmp_path, device, mode):
    if device == "cuda:1" and torch.cuda.device_count() < 2:
        pytest.skip("this machine has one card")
    full, empty = pair(0)
    units = units_of(full[0], 0)
    source = from_files(units, tmp_path / "weights")
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    made = plan(trace([Step(0)] * 2, [DEPTH]), sizes, 2 * BLOCK + sizes[Unit(0, TRUNK)])
    x, resident = torch.randn(8, 16, dtype=torch.bfloat16).to(device), full[0].to(device)
    with mode():
        wanted = walk([resident], x, [0, 0])
        with Streamer([Streamed(empty[0], list(empty[0].blocks))], source, made, device):
            found = walk([empty[0]], x, [0, 0])
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_disk_error_frees_the_gpu(tmp_path):
    full, empty = pair(0)
    units = units_of(full[0], 0)
    source = from_files(units, tmp_path / "weights")
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    made = plan(trace([Step(0)] * 2, [DEPTH]), sizes, 2 * BLOCK + sizes[Unit(0, TRUNK)])
    x = torch.zeros(2, 16, device="cuda", dtype=torch.bfloat16)
    x @ x.T  # so that what torch takes for multiplying is taken before
    before = torch.cuda.memory_allocated()
    streamer = Streamer([Streamed(empty[0], list(empty[0].blocks))], source, made, "cuda")

    def run() -> None:
        with streamer, torch.no_grad():
            empty[0](x)
            (tmp_path / "weights").write_bytes(b"")
            empty[0](x)

    with pytest.raises(ValueError, match=r"has changed|ends at"):
        run()
    assert torch.cuda.memory_allocated() - before <= BLOCK // 2


def test_a_pinned_host_source_holds_what_it_says():
    full, _ = pair(0)
    with HostSource.of(units_of(full[0], 0)) as source:
        held = source.held(Unit(0, 3))
        assert held is not None
        assert held.is_pinned()
        assert held.numel() == BLOCK
