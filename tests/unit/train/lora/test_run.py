"""The run: gradients and losses against plain torch, exact resume, turns, one expert in memory, faults."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pasdedeux.checkpoints.bundle import find_bundle, make_bundle
from pasdedeux.checkpoints.convert import Target, convert
from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.models.wan import build_wan
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.layers import Shape, attach, branches_for
from pasdedeux.train.lora.run import STATE, Course, Draw, Lesson, Run, Stopped, TrainingError, enrol
from pasdedeux.train.lora.samples import Sample
from pasdedeux.train.lora.targets import chosen
from pasdedeux.train.lora.wan import WanSubject

T2V = "wan2.2-t2v-a14b"
COURSE = Course(shape=Shape(rank=2, alpha=3.0, targets="all"), steps=6, rate=1e-2, warmup=2, cooldown=3)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Encoded clips of random latents, of two buckets."""
    cache, made = Cache(tmp_path / "cache"), []
    for k, shape in enumerate([(16, 3, 4, 4), (16, 3, 4, 4), (16, 2, 4, 6)]):
        draw = torch.Generator().manual_seed(k)
        entry, words = cache.path("clip", k), cache.path("words", k)
        cache.write(entry, {"clean": torch.randn(1, *shape, generator=draw)})
        cache.write(words, {"text": torch.randn(1, 3 + k, 16, generator=draw).bfloat16()})
        made.append(Sample(name=f"{k}.mp4", entry=entry, words=words, shape=shape))
    return made


@pytest.fixture
def subject(wan_folders: Callable[[str], Path], samples: list[Sample]) -> WanSubject:
    return WanSubject(bundle=find_bundle(wan_folders(T2V)), samples=samples, batch=2, dtype=torch.float32)


def run_of(subject: WanSubject, folder: Path, course: Course = COURSE, **options: object) -> Run:
    pupils = [enrol(subject, k, course, 0) for k in range(len(subject.names))]
    return Run(subject=subject, pupils=pupils, folder=folder, sticky=2, **options)  # type: ignore[arg-type]


def with_values(run: Run) -> None:
    """B is zero at the start; give it values, so that A has a gradient."""
    for pupil in run.pupils:
        draw = torch.Generator().manual_seed(9)
        for branch in pupil.branches.values():
            branch.up.data.copy_(torch.randn(branch.up.shape, generator=draw) * 0.05)


class Reference:
    """The same model with W + s B A as its weights, by torch's functional call and nothing of ours but the network."""

    def __init__(self, subject: WanSubject, position: int, layers: dict[str, tuple[Tensor, Tensor, float]]) -> None:
        expert = subject.bundle.experts[position]
        self.net = build_wan(expert.config)
        self.net.load_state_dict(load_file(next(iter(expert.weights.paths))))
        self.net.requires_grad_(False)
        self.layers = layers

    def loss(self, clean: Tensor, noise: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        weights = {f"{name}.weight": self._merged(name, *parts) for name, parts in self.layers.items()}
        level = sigma.view(-1, 1, 1, 1, 1)

        class Whole(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self) -> Tensor:
                cond = self.net.prepare(text=text, grid=tuple(clean.shape[2:]))  # type: ignore[operator]
                return self.net((1 - level) * clean + level * noise, 1000 * sigma, cond)

        velocity = torch.func.functional_call(Whole(self.net), {f"net.{k}": v for k, v in weights.items()}, ())
        return functional.mse_loss(velocity, noise - clean)

    def _merged(self, name: str, down: Tensor, up: Tensor, scale: float) -> Tensor:
        weight = self.net.get_submodule(name).weight
        return weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)  # type: ignore[operator]


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("position", [0, 1])
def test_gradients_and_losses_equal_plain_torch(subject: WanSubject, position: int, checkpointing: bool) -> None:
    subject.checkpointing = checkpointing
    run = run_of(subject, Path("unused"))
    with_values(run)
    pupil = run.pupils[position]
    lesson = subject.lesson(Draw(seed=1, position=position, step=0))
    module = subject.open(position)
    handles = attach(module, pupil.branches)
    loss = subject.loss(module, lesson)
    loss.backward()
    for handle in handles:
        handle.remove()
    parts = {
        name: (b.down.detach().clone().requires_grad_(), b.up.detach().clone().requires_grad_(), 3.0 / 2.0)
        for name, b in pupil.branches.items()
    }
    clean, noise, cond = lesson.data
    text = cond.prepare["text"]
    theirs = Reference(subject, position, parts).loss(clean, noise, lesson.sigma, text.float())
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, branch in pupil.branches.items():
        for mine, reference in ((branch.down.grad, parts[name][0].grad), (branch.up.grad, parts[name][1].grad)):
            assert mine is not None
            assert reference is not None
            torch.testing.assert_close(mine, reference, rtol=2e-3, atol=2e-6)


def test_noise_levels_stay_in_their_bands(subject: WanSubject, tmp_path: Path) -> None:
    run = run_of(subject, tmp_path / "out")
    for progress in run.go():
        low, high = (0.875, 1.0) if progress.expert == "high" else (0.0, 0.875)
        assert all(low <= level < high or level == high == 1 for level in progress.sigma)
    assert [sum(pupil.histogram) for pupil in run.pupils] == [12, 12]
    assert sum(run.pupils[0].histogram[:17]) == 0
    assert sum(run.pupils[1].histogram[18:]) == 0


def test_a_resumed_run_is_bit_identical(subject: WanSubject, tmp_path: Path) -> None:
    whole = run_of(subject, tmp_path / "whole")
    losses = {(p.expert, p.step): p.loss for p in whole.go()}
    asked: list[int] = []
    half = run_of(subject, tmp_path / "half", stop=lambda: len(asked) == 5)
    with pytest.raises(Stopped):
        asked.extend(progress.step for progress in half.go())
    rest = run_of(subject, tmp_path / "half")
    again = {(p.expert, p.step): p.loss for p in rest.go()}
    assert len(again) == len(losses) - 5
    assert all(losses[key] == loss for key, loss in again.items())
    for a, b in zip(whole.pupils, rest.pupils, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.masters, b.masters, strict=True))
        assert all(torch.equal(x, y) for x, y in zip(a.average, b.average, strict=True))


def test_a_checkpoint_of_another_run_is_refused(subject: WanSubject, tmp_path: Path) -> None:
    list(run_of(subject, tmp_path).go())
    other = replace(COURSE, shape=Shape(rank=2, alpha=2.0, targets="all"))
    with pytest.raises(TrainingError, match="another course"):
        list(run_of(subject, tmp_path, other).go())


def test_experts_take_turns_and_only_one_is_in_memory(subject: WanSubject, tmp_path: Path) -> None:
    opened: list[weakref.ref[nn.Module]] = []
    order: list[str] = []
    real = WanSubject.open

    def counted(self: WanSubject, position: int) -> nn.Module:
        gc.collect()
        assert not any(ref() for ref in opened), "another expert is still in memory"
        module = real(self, position)
        opened.append(weakref.ref(module))
        return module

    run = run_of(subject, tmp_path / "out")
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WanSubject, "open", counted)
        order = [p.expert for p in run.go()]
    assert order == ["high", "high", "low", "low"] * 3


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(subject: WanSubject, tmp_path: Path) -> None:
    run = run_of(subject, tmp_path, save_every=0.0)
    real = WanSubject.loss
    calls: list[int] = []

    def broken(self: WanSubject, module: nn.Module, lesson: Lesson) -> Tensor:
        calls.append(0)
        return real(self, module, lesson) * (float("nan") if len(calls) == 4 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WanSubject, "loss", broken)
        with pytest.raises(TrainingError, match=r"loss of the low expert is nan at step 1, from \d\.mp4"):
            list(run.go())
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert (state["high"]["step"], state["low"]["step"]) == (2, 1)
    assert all(t.isfinite().all() for t in state["low"]["masters"])


def test_a_full_disk_keeps_the_checkpoint_before(subject: WanSubject, tmp_path: Path) -> None:
    stopped = run_of(subject, tmp_path, stop=lambda: True)
    with pytest.raises(Stopped):
        list(stopped.go())
    before = (tmp_path / STATE).read_bytes()

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*The one from before is whole"):
            list(run_of(subject, tmp_path, save_every=0.0).go())
    assert (tmp_path / STATE).read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_an_expert_stops_early_by_its_held_out_loss(subject: WanSubject, tmp_path: Path) -> None:
    subject = WanSubject(
        bundle=subject.bundle, samples=subject.samples[:2], held_samples=subject.samples[2:], dtype=torch.float32
    )
    course = replace(COURSE, steps=40, rate=1e-9, check_every=2, patience=2)
    run = run_of(subject, tmp_path, course)
    first: dict[str, list[Tensor]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "judge", lambda self, pupil, module: 1.0)
        last = {}
        for p in run.go():
            last[p.expert] = p
            if p.step == 2:
                pupil = next(one for one in run.pupils if one.name == p.expert)
                first[p.expert] = [value.clone() for value in pupil.average]
    assert {name: (p.step, p.early) for name, p in last.items()} == {"high": (6, True), "low": (6, True)}
    for one in run.pupils:  # what was best is kept, not what came last
        assert all(map(torch.equal, one.learnt, first[one.name]))
        assert not all(map(torch.equal, one.learnt, one.average))


@pytest.mark.parametrize("dtype", ["fp8_scaled", "Q8_0"])
def test_beside_a_packed_base(
    dtype: str, wan_folders: Callable[[str], Path], subject: WanSubject, tmp_path: Path
) -> None:
    container = "gguf" if dtype == "Q8_0" else "safetensors"
    file = tmp_path / f"packed.{container}"
    expert = find_bundle(wan_folders(T2V)).experts[1]
    convert(expert.weights, Target(dialect="native", container=container, dtype=dtype), file)
    subject.bundle = make_bundle(file, family=T2V)
    module = subject.open(0)
    assert any(isinstance(layer, PackedLinear) for layer in module.modules())
    branches = branches_for(module, chosen(module, "attention"), COURSE.shape, 0)
    attach(module, branches)
    subject.loss(module, subject.lesson(Draw(seed=0, position=0, step=0))).backward()
    assert all(b.up.grad is not None and b.up.grad.abs().sum() > 0 for b in branches.values())
