"""Experts whose blocks come and go: the same clip to the bit, less memory where it runs out, nothing left behind."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pasdedeux.animate.condition.wan import WanDenoiser
from pasdedeux.animate.perform import Bytes, Stopped
from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.checkpoints.convert import Target, convert_pair
from pasdedeux.engine import Engine, Event, Job, Memory, Noted, Parts, Report, Result
from pasdedeux.engine.loader import ExpertLoader
from pasdedeux.engine.memory import _limits, free_host, own_bytes, parse_memory, ran_out
from pasdedeux.engine.playing import Playing
from pasdedeux.engine.wan import WanModel
from pasdedeux.residency.numbers import Placement
from pasdedeux.residency.pool import HostBuffer

Folders = Callable[[str], Path]
Run = Callable[..., tuple[Result, list[Event]]]
FILE = "diffusion_pytorch_model.safetensors"
T2V, VACE = "wan2.2-t2v-a14b", "wan2.2-vace-fun-a14b"
CLIP = Job.generate("a cat", frames=5, steps=4, size="64x64")
TWO_SEGMENTS = Job(character="puppet:3", driver="puppet:4", frames=100, prompt="a", steps=2, size="64x64")
LEAST = 1


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`placed(budget, stays)`: from now on blocks come and go within that many bytes; None: as it is decided."""
    from pasdedeux.engine import wan

    decided = wan.place

    def set_to(budget: int | None, stays: bool = True) -> None:
        def placement(*arguments: Any) -> Placement:
            found = decided(*arguments)
            return found if budget is None else replace(found, place="streamed", budget=budget, stays=stays)

        monkeypatch.setattr(wan, "place", placement)

    return set_to


@pytest.fixture
def run() -> Run:
    """`run(folder, job, dtype=)`: the result, and what was told."""

    def made(folder: Path, job: Job, dtype: str = "bfloat16") -> tuple[Result, list[Event]]:
        told: list[Event] = []
        with Engine.open(folder, "cpu", Parts(dtype=dtype)) as engine:
            return engine.run(job, told.append), told

    return made


def said(told: list[Event]) -> list[str]:
    return [event.note for event in told if isinstance(event, Noted)]


@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize(("family", "job"), [(T2V, CLIP), (VACE, TWO_SEGMENTS)])
def test_blocks_that_come_and_go_make_the_same_clip(
    wan_folders: Folders, placed: Any, run: Run, family: str, job: Job, stays: bool
) -> None:
    folder = wan_folders(family)
    whole, _ = run(folder, job)
    placed(LEAST, stays)
    streamed, _ = run(folder, job)
    assert np.array_equal(streamed.frames, whole.frames)
    assert whole.report.memory is not None
    assert streamed.report.memory is not None
    assert (whole.report.memory.place, streamed.report.memory.place) == ("all resident", "streamed")
    assert whole.report.memory.moved == 0 < streamed.report.memory.moved
    assert Report.from_json(streamed.report.to_json()) == streamed.report


def test_more_memory_moves_less(wan_folders: Folders, placed: Any, run: Run) -> None:
    moved = []
    for budget in (LEAST, 10**9):
        placed(budget)
        made, _ = run(wan_folders(VACE), TWO_SEGMENTS)
        assert made.report.memory is not None
        moved.append(made.report.memory.moved)
    assert moved[1] < 0.7 * moved[0]


@pytest.mark.parametrize(("kind", "container"), [("fp8_scaled", "safetensors"), ("Q8_0", "gguf")])
@pytest.mark.parametrize("lora", [False, True])
def test_packed_weights_and_loras_too(
    wan_folders: Folders, placed: Any, tmp_path: Path, kind: str, container: str, lora: bool
) -> None:
    source = wan_folders(T2V)
    high, low = (expert.weights for expert in find_bundle(source).experts)
    target = Target(dialect="comfyui", container=container, dtype=kind)
    files = sorted(convert_pair(high, low, target, tmp_path / f"packed.{container}"))
    job = replace(CLIP, lora=(str(_lora(tmp_path)),)) if lora else CLIP

    def made() -> Result:
        parts = Parts(
            high=files[0],
            low=files[1],
            vae=source / "Wan2.1_VAE.pth",
            text=source / "models_t5_umt5-xxl-enc-bf16.pth",
            tokenizer=source / "google" / "umt5-xxl",
        )
        with Engine.open(None, "cpu", parts) as engine:
            return engine.run(job)

    whole = made()
    placed(LEAST)
    streamed = made()
    assert np.array_equal(streamed.frames, whole.frames)
    assert streamed.report.memory is not None
    assert streamed.report.memory.moved > 0


def _lora(folder: Path) -> Path:
    draw = torch.Generator().manual_seed(5)
    down, up = torch.randn(2, 128, generator=draw), torch.randn(128, 2, generator=draw)
    path = folder / "lora.safetensors"
    save_file({"blocks.0.self_attn.q.lora_A.weight": down, "blocks.0.self_attn.q.lora_B.weight": up}, path)
    return path


class Short:
    """Lets every denoiser run out of memory at some of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
        self.count = 0
        self.calls = calls
        for name in ("__call__", "together"):
            monkeypatch.setattr(WanDenoiser, name, self._short(getattr(WanDenoiser, name)))

    def _short(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            made = real(*arguments)
            self.count += 1
            if self.count - 1 in self.calls:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return made

        return called


@pytest.mark.parametrize(
    ("family", "job", "calls"), [*((T2V, CLIP, (k,)) for k in (0, 3, 5)), (VACE, TWO_SEGMENTS, (1, 2))]
)
def test_a_step_that_runs_out_of_memory_is_made_again_with_less(
    wan_folders: Folders, run: Run, monkeypatch: pytest.MonkeyPatch, family: str, job: Job, calls: tuple[int, ...]
) -> None:
    whole, _ = run(wan_folders(family), job)
    Short(monkeypatch, *calls)
    less, told = run(wan_folders(family), job)
    assert np.array_equal(less.frames, whole.frames)
    assert len(said(told)) == len(calls)
    assert all("Memory ran out" in note for note in said(told))
    assert less.report.notes[-len(calls) :] == tuple(said(told))
    assert less.report.memory is not None
    assert less.report.memory.place != "all resident"


def test_whole_experts_are_gone_before_less_is_kept(
    wan_folders: Folders, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets: list[ref[nn.Module]] = []
    there: list[int] = []
    load, leave = ExpertLoader.expert, Playing._leave

    def loaded(*arguments: Any) -> WanDenoiser:
        made = load(*arguments)
        nets.append(ref(made.net))
        return made

    def left(*arguments: Any) -> bool:
        found = leave(*arguments)
        there.append(sum(net() is not None for net in nets))
        return found

    monkeypatch.setattr(ExpertLoader, "expert", loaded)
    monkeypatch.setattr(Playing, "_leave", left)
    Short(monkeypatch, 3)
    gc.disable()  # on a GPU there is no memory to wait with until it comes by
    try:
        run(wan_folders(T2V), CLIP)
    finally:
        gc.enable()
    assert len(nets) > 1
    assert there == [0]


def test_host_memory_that_is_refused_is_done_without(
    wan_folders: Folders, placed: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(wan_folders(VACE), TWO_SEGMENTS)
    placed(LEAST, stays=False)
    made: list[HostBuffer] = []

    def refusing(nbytes: int, *, pinned: bool) -> HostBuffer:
        if len(made) == 3:
            raise MemoryError("CUDA error 2: 0.01 GB of host memory cannot be pinned.")
        made.append(HostBuffer(nbytes, pinned=pinned))
        return made[-1]

    monkeypatch.setattr("pasdedeux.residency.sources.HostBuffer", refusing)
    monkeypatch.setattr(Memory, "pinnable", lambda *_: 10**9)
    kept, told = run(wan_folders(VACE), TWO_SEGMENTS)
    assert np.array_equal(kept.frames, whole.frames)
    assert said(told) == ["No more than 0.0 GB of weights can be kept in host memory; the others are read each time."]


def test_where_the_least_is_too_much_it_is_said_in_a_sentence(
    wan_folders: Folders, placed: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(LEAST)
    Short(monkeypatch, *range(9))
    with pytest.raises(ValueError, match="no memory for a step of this job beside the least weights"):
        run(wan_folders(T2V), CLIP)


@pytest.mark.parametrize(
    ("budget", "notes"),
    [(None, ["the experts leave"]), (None, ["the experts leave", "bfloat16"]), (LEAST, ["bfloat16"])],
)
def test_decoding_that_runs_out_of_memory_makes_room(
    wan_folders: Folders, placed: Any, run: Run, monkeypatch: pytest.MonkeyPatch, budget: Any, notes: list[str]
) -> None:
    placed(budget)
    whole, _ = run(wan_folders(T2V), CLIP)
    _short_of_room(monkeypatch, len(notes))
    made, told = run(wan_folders(T2V), CLIP)
    assert [words in note for words, note in zip(notes, said(told), strict=True)] == [True] * len(notes)
    difference = np.abs(made.frames.astype(int) - whole.frames)
    assert difference[0].max() == 0  # given before memory ran out, and not again
    assert difference.mean() < (1 if "bfloat16" in notes else 1e-9)


def test_decoding_that_cannot_be_helped_is_said_in_a_sentence(
    wan_folders: Folders, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _short_of_room(monkeypatch, 9)
    with pytest.raises(ValueError, match="Decoding a segment needs more memory than there is"):
        run(wan_folders(T2V), CLIP)


def _short_of_room(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Decoding runs out of memory so often, each time after its first frames."""
    from pasdedeux.animate.condition import wan_text

    real, left = wan_text.decode, [times]

    def decode(vae: Any, latent: Tensor) -> Iterator[Bytes]:
        for number, chunk in enumerate(real(vae, latent)):
            if number == 1 and left[0]:
                left[0] -= 1
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
            yield chunk

    monkeypatch.setattr(wan_text, "decode", decode)


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_stop_leaves_nothing_behind(wan_folders: Folders, placed: Any, when: int) -> None:
    placed(LEAST)
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > when

    with Engine.open(wan_folders(T2V), "cpu") as engine:
        with pytest.raises(Stopped):
            engine.run(CLIP, stop=stop)
        assert _all_away(engine)


def test_a_file_that_changes_stops_the_job_in_a_sentence(
    wan_folders: Folders, placed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for item in wan_folders(T2V).iterdir():
        if item.name != "low_noise_model":
            (folder / item.name).symlink_to(item)
    (folder / "low_noise_model").mkdir()
    path = folder / "low_noise_model" / FILE
    save_file(load_file(wan_folders(T2V) / "low_noise_model" / FILE), path)
    placed(LEAST)
    with Engine.open(folder, "cpu") as engine:
        monkeypatch.setattr(
            WanDenoiser, "together", _then(WanDenoiser.together, lambda: path.write_bytes(path.read_bytes()[:-9]))
        )
        with pytest.raises(ValueError, match=r"has changed since it was opened\."):
            engine.run(CLIP)
        assert _all_away(engine)


def _then(real: Callable[..., Any], action: Callable[[], object]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        made = real(*arguments)
        action()
        return made

    return called


def _all_away(engine: Engine) -> bool:
    model = engine.model
    assert isinstance(model, WanModel)
    return all(p.is_meta for k in range(2) for p in model.loader.bare(k).net.parameters())


@pytest.mark.parametrize(
    ("text", "nbytes"), [("24GB", 24 * 10**9), ("2 GiB", 2**31), ("500mb", 5 * 10**8), ("8", 8 * 10**9)]
)
def test_memory_is_read(text: str, nbytes: int) -> None:
    assert parse_memory(text) == nbytes
    assert Memory.parse(text, text) == Memory(main=nbytes, host=nbytes)
    assert Memory.parse(" Auto") == Memory()


@pytest.mark.parametrize("text", ["", "lots", "-3GB", "0", "3TBs", "1e9"])
def test_memory_that_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not understood; write 24GB"):
        Memory.parse(text)


def test_what_may_be_used() -> None:
    assert Memory(main=10**9).usable("cpu") < 10**9
    assert 0 < Memory().usable("cpu") < free_host() + own_bytes()
    assert Memory(host=5).pinnable("cuda") == 5
    assert 0 < Memory().pinnable("cuda") < free_host()
    # What holds weights of the last job already is free for those of the next.
    assert Memory().pinnable("cuda", 10**12) > 10**11
    assert Memory(host=5).pinnable("cpu") == 0


def test_pages_of_files_do_not_fill_a_containers_limit(tmp_path: Path) -> None:
    no_limit = _limits(tmp_path / "none")
    assert len(no_limit) == 1
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert _limits(tmp_path) == [100, *no_limit]
    (tmp_path / "memory.stat").write_text("anon 200\nfile 650\ninactive_file 500\nactive_file 100\n")
    assert _limits(tmp_path) == [700, *no_limit]
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 50\n")
    assert _limits(tmp_path) == [450, *no_limit]


def test_too_little_memory_is_refused_before_anything_is_loaded(wan_folders: Folders) -> None:
    told: list[Event] = []
    with (
        Engine.open(wan_folders(T2V), "cpu", memory=Memory(main=10**8)) as engine,
        pytest.raises(ValueError, match=r"The memory is too little: .* needs .* GB at least, and 0.1 GB can be used"),
    ):
        engine.run(CLIP, told.append)
    assert not told


def test_what_counts_as_running_out() -> None:
    assert ran_out(torch.OutOfMemoryError("x"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not ran_out(RuntimeError("shapes do not match"))
    assert not ran_out(ValueError("out of memory"))
