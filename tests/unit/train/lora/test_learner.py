"""A LoRA in training: gradients and losses against plain torch, exact resume, passes, one expert in memory, faults."""

import gc
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pasdedeux.checkpoints.bundle import find_bundle, make_bundle
from pasdedeux.checkpoints.convert import Target, convert
from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.models.wan import build_wan
from pasdedeux.train import saving
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.layers import Shape, attach, branches_for
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.lora.samples import Sample
from pasdedeux.train.lora.subject import Draw, Lesson
from pasdedeux.train.lora.targets import chosen
from pasdedeux.train.lora.wan import WanSubject
from pasdedeux.train.masters import Progress
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.saving import SaveError
from pasdedeux.train.together import SetTrainer, Turns

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


@pytest.fixture
def judged(subject: WanSubject) -> WanSubject:
    """The same with one clip that judges."""
    return replace(subject, samples=subject.samples[:2], held_samples=subject.samples[2:])


def learners_of(subject: WanSubject, course: Course = COURSE) -> list[LoraLearner]:
    return [LoraLearner(subject, k, course, 0) for k in range(len(subject.names))]


def set_of(learners: Sequence[LoraLearner], folder: Path, save_every: float = 120.0, devices: int = 1) -> SetTrainer:
    """A run from its checkpoints on, in turns of two steps."""
    folder.mkdir(exist_ok=True)
    pupils = [Pupil(learner.name, learner, learner.patience) for learner in learners]
    trainer = SetTrainer(pupils, folder, Turns(block=2, devices=("cpu",) * devices, save_every=save_every))
    trainer.resume()
    return trainer


def never() -> bool:
    return False


def seen(_: Pupil, __: Progress, ___: float | None) -> None:
    """Watches and says nothing."""


def same(first: Any, second: Any) -> bool:
    """Two states, to the last bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


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
    learner = LoraLearner(subject, position, COURSE, 0)
    draw = torch.Generator().manual_seed(9)
    for branch in learner.branches.values():  # B is zero at the start; give it values, so that A has a gradient
        branch.up.data.copy_(torch.randn(branch.up.shape, generator=draw) * 0.05)
    lesson = subject.lesson(Draw(seed=1, position=position, step=0))
    with subject.opened(position, (True,)) as module:
        attach(module, learner.branches)
        loss = subject.loss(module, lesson)
        loss.backward()
    parts = {
        name: (b.down.detach().clone().requires_grad_(), b.up.detach().clone().requires_grad_(), 3.0 / 2.0)
        for name, b in learner.branches.items()
    }
    clean, noise, cond = lesson.data
    text = cond.prepare["text"]
    theirs = Reference(subject, position, parts).loss(clean, noise, lesson.sigma, text.float())
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name, branch in learner.branches.items():
        for mine, reference in ((branch.down.grad, parts[name][0].grad), (branch.up.grad, parts[name][1].grad)):
            assert mine is not None
            assert reference is not None
            torch.testing.assert_close(mine, reference, rtol=2e-3, atol=2e-6)


def test_noise_levels_stay_in_their_bands(subject: WanSubject, tmp_path: Path) -> None:
    high, low = learners_of(subject)
    set_of((high, low), tmp_path).run(seen, never)
    assert [int(learner.drawn.counts.sum()) for learner in (high, low)] == [12, 12]
    assert 0.875 <= high.drawn.low < high.drawn.high <= 1
    assert 0 < low.drawn.low < low.drawn.high < 0.875


def test_alternating_side_by_side_and_stopped_runs_are_bit_identical(judged: WanSubject, tmp_path: Path) -> None:
    course = replace(COURSE, check_every=2, patience=2)
    losses: dict[tuple[str, int], list[float]] = {}

    def watch(pupil: Pupil, progress: Progress, held: float | None) -> None:
        losses.setdefault((pupil.name, progress.step), []).append((progress.loss, held))

    whole, side = set_of(learners_of(judged, course), tmp_path / "whole"), tmp_path / "side"
    assert whole.run(watch, never)
    made = len(losses)
    assert set_of(learners_of(judged, course), side, devices=2).run(watch, never)
    for steps in (1, 4, 2, 20):
        asked = iter(range(100))
        half = set_of(learners_of(judged, course), tmp_path / "half")
        ended = half.run(watch, lambda asked=asked, steps=steps: next(asked) >= steps)
    assert ended
    assert len(losses) == made
    assert all(len(found) == 3 and len(set(found)) == 1 for found in losses.values())
    for name in judged.names:
        states = [torch.load(tmp_path / f / f"{name}.pt", weights_only=True) for f in ("whole", "side", "half")]
        assert states[0]["best"] is not None
        assert same(states[0], states[1])
        assert same(states[0], states[2])


@pytest.mark.parametrize(
    ("other", "what"),
    [({"shape": Shape(rank=2, alpha=2.0, targets="all")}, "course"), ({"seed": 1}, "seed")],
)
def test_a_checkpoint_of_another_run_is_refused(
    subject: WanSubject, tmp_path: Path, other: dict[str, Any], what: str
) -> None:
    set_of(learners_of(subject), tmp_path).run(seen, lambda: True)
    seed = other.pop("seed", 0)
    learners = [LoraLearner(subject, k, replace(COURSE, **other), seed) for k in range(2)]
    with pytest.raises(ValueError, match=f"high.pt cannot be gone on from: it is of a run with another {what}"):
        set_of(learners, tmp_path)


def test_a_run_may_be_made_longer(subject: WanSubject, tmp_path: Path) -> None:
    set_of(learners_of(subject), tmp_path).run(seen, never)
    longer = learners_of(subject, replace(COURSE, steps=8))
    set_of(longer, tmp_path).run(seen, never)
    assert [learner.step_number for learner in longer] == [8, 8]


class Watched(WanSubject):
    """Which experts are open, and what passes were announced and made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alive: list[weakref.ref[nn.Module]] = []
        self.announced: list[tuple[int, list[bool]]] = []
        self.made: list[list[bool]] = []

    def on(self, device: str) -> "Watched":
        return self

    @contextmanager
    def opened(self, position: int, passes: Sequence[bool]) -> Iterator[nn.Module]:
        assert not any(ref() for ref in self.alive), "another expert is still in memory"
        with super().opened(position, passes) as module:
            self.alive.append(weakref.ref(module))
            self.announced.append((position, list(passes)))
            self.made.append([])
            module.register_forward_pre_hook(lambda *_: self.made[-1].append(torch.is_grad_enabled()))
            yield module


@pytest.fixture
def watched(judged: WanSubject) -> Iterator[Watched]:
    """Nothing is collected meanwhile: an expert has to be let go of at once."""
    held = [*judged.held_samples, judged.samples[1]]
    gc.disable()
    yield Watched(bundle=judged.bundle, samples=judged.samples, held_samples=held, dtype=torch.float32)
    gc.enable()


def test_experts_take_turns_and_only_one_is_in_memory(watched: Watched, tmp_path: Path) -> None:
    order: list[str] = []
    run = set_of(learners_of(watched), tmp_path)
    run.run(lambda pupil, _, __: order.append(pupil.name), never)
    assert order == ["high", "high", "low", "low"] * 3
    assert not any(ref() for ref in watched.alive)


def test_the_passes_of_a_turn_are_as_announced(watched: Watched, tmp_path: Path) -> None:
    course = replace(COURSE, steps=7, check_every=3, patience=5)
    set_of(learners_of(watched, course), tmp_path).run(seen, never)
    assert watched.announced[:2] == [(0, []), (1, [])]  # only names and shapes
    assert watched.made == [passes for _, passes in watched.announced]
    once, judged = [True, True], [True, False, False]
    turns = [once, [*judged, True], [True, *judged], [True]]
    assert [passes for position, passes in watched.announced if position == 0][1:] == turns


@pytest.mark.parametrize("at", [1, 3])
def test_what_ends_a_turn_early_makes_fewer_passes_than_announced(watched: Watched, tmp_path: Path, at: int) -> None:
    course, steps = replace(COURSE, check_every=1), list[int]()
    set_of(learners_of(watched, course), tmp_path).run(lambda _, p, __: steps.append(p.step), lambda: len(steps) == at)
    (_, announced), made = watched.announced[-1], watched.made[-1]
    assert (announced, made) == ([True, False, False] * 2, [True, False, False])
    assert not any(ref() for ref in watched.alive)
    resumed = set_of(learners_of(watched, course), tmp_path)
    begun = len(watched.announced)
    resumed.run(seen, never)
    assert watched.made[begun:] == [passes for _, passes in watched.announced[begun:]]
    assert [True, False, False] in watched.made[begun:]  # what was left of the turn


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(subject: WanSubject, tmp_path: Path) -> None:
    real = WanSubject.loss
    calls: list[int] = []

    def broken(self: WanSubject, module: nn.Module, lesson: Lesson) -> Tensor:
        calls.append(0)
        return real(self, module, lesson) * (float("nan") if len(calls) == 4 else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WanSubject, "loss", broken)
        with pytest.raises(FloatingPointError, match=r"low: the loss is nan at step 1, from \d\.mp4, \d\.mp4"):
            set_of(learners_of(subject), tmp_path, save_every=0.0).run(seen, never)
    high, low = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in subject.names)
    assert (high["step"], low["step"]) == (2, 1)
    assert all(t.isfinite().all() for t in low["masters"])


def test_a_full_disk_keeps_the_checkpoint_before(
    subject: WanSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_of(learners_of(subject), tmp_path).run(lambda *_: None, lambda: True)
    before = (tmp_path / "high.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.os, "fsync", full)
    with pytest.raises(SaveError, match=r"high\.pt could not be written .*No space left on device.*is kept"):
        set_of(learners_of(subject), tmp_path, save_every=0.0).run(seen, never)
    assert (tmp_path / "high.pt").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_an_expert_stops_early_by_its_held_out_loss(judged: WanSubject, tmp_path: Path) -> None:
    first: dict[str, dict[str, Tensor]] = {}

    def watch(pupil: Pupil, progress: Progress, held: float | None) -> None:
        assert held == (None if progress.step % 2 else 1.0)
        if progress.step == 2:
            first[pupil.name] = pupil.learner.averaged()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoraLearner, "judge", lambda self: 1.0)
        run = set_of(learners_of(judged, replace(COURSE, steps=40, rate=1e-9, check_every=2, patience=2)), tmp_path)
        assert run.run(watch, never)
    assert [(one.step, one.gave_up) for one in run.pupils] == [(6, True), (6, True)]
    for one in run.pupils:  # what was best is kept, not what came last
        assert same(one.weights(), first[one.name])
        assert not same(one.weights(), one.learner.averaged())


def test_it_is_judged_by_its_average_on_what_is_held_out(judged: WanSubject) -> None:
    learner = LoraLearner(judged, 1, COURSE, 0)
    for progress in (run := learner.run(4)):
        if progress.step == 3:
            weights = [p.detach().clone() for p in learner.masters]
            held = learner.judge()
            break
    run.close()
    assert same(weights, [p.detach() for p in learner.masters])
    own = LoraLearner(judged, 1, COURSE, 0)
    for p, value in zip(own.masters, learner.average, strict=True):
        p.data.copy_(value)
    with torch.no_grad(), judged.opened(1, (False,)) as module:
        attach(module, own.branches)
        assert held == judged.loss(module, judged.lesson(Draw(seed=0, position=1, step=-1))).item()


@pytest.mark.parametrize("dtype", ["fp8_scaled", "Q8_0"])
def test_beside_a_packed_base(
    dtype: str, wan_folders: Callable[[str], Path], subject: WanSubject, tmp_path: Path
) -> None:
    container = "gguf" if dtype == "Q8_0" else "safetensors"
    file = tmp_path / f"packed.{container}"
    expert = find_bundle(wan_folders(T2V)).experts[1]
    convert(expert.weights, Target(dialect="native", container=container, dtype=dtype), file)
    subject.bundle = make_bundle(file, family=T2V)
    with subject.opened(0, (True,)) as module:
        assert any(isinstance(layer, PackedLinear) for layer in module.modules())
        branches = branches_for(module, chosen(module, "attention"), COURSE.shape, 0)
        attach(module, branches)
        subject.loss(module, subject.lesson(Draw(seed=0, position=0, step=0))).backward()
    assert all(b.up.grad is not None and b.up.grad.abs().sum() > 0 for b in branches.values())


CHILD = """
from pathlib import Path
import torch
from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.lora.samples import Sample
from pasdedeux.train.lora.wan import WanSubject
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.together import SetTrainer, Turns
torch.set_num_threads(1)
cache, folder = Cache(Path({cache!r})), Path({folder!r})
samples = [
    Sample(name=str(k), entry=cache.path("clip", k), words=cache.path("words", k), shape=shape)
    for k, shape in enumerate([(16, 3, 4, 4), (16, 3, 4, 4), (16, 2, 4, 6)])
]
subject = WanSubject(
    bundle=find_bundle(Path({model!r})), samples=samples[:2], held_samples=samples[2:], dtype=torch.float32
)
shape = Shape(rank=2, alpha=3.0, targets="attention")
course = Course(shape=shape, steps=30, rate=1e-2, warmup=2, cooldown=3, check_every=5, patience=9)
learners = [LoraLearner(subject, k, course, 0) for k in range(2)]
trainer = SetTrainer([Pupil(one.name, one, one.patience) for one in learners], folder, Turns(block=7, save_every=0))
trainer.resume()
trainer.run(lambda pupil, progress, held: print(pupil.name, progress.step, flush=True), lambda: False)
"""


@pytest.mark.slow
def test_killed_again_and_again_equals_uninterrupted(
    wan_folders: Callable[[str], Path], samples: list[Sample], tmp_path: Path
) -> None:
    def child(folder: str) -> "subprocess.Popen[str]":
        (tmp_path / folder).mkdir(exist_ok=True)
        places = {"cache": str(samples[0].entry.parent), "model": str(wan_folders(T2V))}
        script = CHILD.format(folder=str(tmp_path / folder), **places)
        return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)

    uninterrupted, killed = child("whole"), 0
    # Checkpoints are written after every step, so some of these land in the midst of one.
    for steps, pause in ((9, 0.0), (5, 0.013), (12, 0.004)):
        process = child("killed")
        assert process.stdout is not None
        for _ in range(steps):
            assert process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert child("killed").wait() == 0
    assert uninterrupted.wait() == 0
    assert killed == 3
    for name in ("high", "low"):
        once, again = (torch.load(tmp_path / f / f"{name}.pt", weights_only=True) for f in ("whole", "killed"))
        assert once["step"] == 30
        assert len(once["judged"]) == 6
        assert same(once, again)


def test_a_checkpoint_beside_another_base_is_refused(
    subject: WanSubject, wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    set_of(learners_of(subject), tmp_path).run(seen, lambda: True)
    high, low = subject.bundle.experts
    swapped = replace(subject.bundle, experts=(replace(low, name="high"), replace(high, name="low")))
    with pytest.raises(ValueError, match="it is of a run with another base"):
        set_of(learners_of(replace(subject, bundle=swapped)), tmp_path)
