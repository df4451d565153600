"""A set of experts in one run: order changes nothing, and nothing is lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pasdedeux.denoise import Handoff
from pasdedeux.train.bands import Levels, bands
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.masters import Progress
from pasdedeux.train.pupil import Patience, Pupil
from pasdedeux.train.running import train_set
from pasdedeux.train.saving import SaveError
from pasdedeux.train.together import SetTrainer, Turns, furthest_behind

MakeTrainer = Callable[[TrainConfig, Levels], Trainer]
RUN = TrainConfig(steps=6, batch=1, frames=5, dtype="float32", warmup=2, cooldown=3, handed=0.5)
THREE = bands(Handoff((0.9, 0.6)), 5.0)
NAMES = ("a", "b", "c")


def seen(_: Pupil, __: Progress, ___: float | None) -> None:
    """Watches and says nothing."""


def never() -> bool:
    return False


def pupils(make: MakeTrainer, steps: tuple[int, ...] = (6, 6, 6)) -> list[Pupil]:
    runs = [replace(RUN, seed=k, steps=n) for k, n in enumerate(steps)]
    return [Pupil(n, make(run, band)) for n, run, band in zip(NAMES, runs, THREE, strict=True)]


def equal(first: Pupil, second: Pupil) -> bool:
    """Weights, averages and moments, to the last bit."""
    one, other = first.learner, second.learner
    kept = [[*t.masters, *t.average, *(m[k] for m in t.optimiser.state.values() for k in m)] for t in (one, other)]
    return first.step == second.step and all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_alternating_side_by_side_and_alone_learn_the_same(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    made = []
    for k, turns in enumerate((Turns(block=2), Turns(block=4, devices=("cpu", "cpu")), Turns(devices=("cpu",) * 3))):
        (tmp_path / str(k)).mkdir()
        own = pupils(small_trainer)
        assert SetTrainer(own, tmp_path / str(k), turns).run(seen, never)
        made.append(own)
    alone = pupils(small_trainer)
    for pupil in alone:
        list(pupil.learner.run(6))
    assert all(equal(a, b) for other in made for a, b in zip(other, alone, strict=True))


def test_turns_are_sticky_and_keep_to_the_shares(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    order: list[str] = []
    own = pupils(small_trainer, (8, 4, 4))
    SetTrainer(own, tmp_path, Turns(block=2)).run(lambda pupil, _, __: order.append(pupil.name), never)
    assert "".join(order) == "aabbccaaaabbccaa"


def test_only_one_expert_at_a_time_is_on_the_device(
    small_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[int, str] = {}
    most = 0

    def place(self: Trainer, device: str) -> None:
        nonlocal most
        where[id(self)] = device
        most = max(most, list(where.values()).count("gpu"))

    monkeypatch.setattr(Trainer, "place", place)
    own = pupils(small_trainer)
    SetTrainer(own, tmp_path, Turns(block=2, devices=("gpu",))).run(seen, never)
    assert most == 1
    assert len(where) == 3


@pytest.mark.gpu
def test_everything_moves_and_nothing_changes(small_trainer: MakeTrainer) -> None:
    moved, still = (pupils(small_trainer)[0] for _ in range(2))
    for trainer in (moved.learner, still.learner):
        list(trainer.run(2))
    trainer = moved.learner
    trainer.place("cuda")
    held = [*trainer.model.parameters(), *trainer.masters, *trainer.average]
    held += [m[name] for m in trainer.optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert {tensor.device.type for tensor in held} == {"cuda"}
    trainer.place("cpu")
    assert equal(moved, still)
    assert torch.cuda.memory_allocated() == 0
    trainer.place("cuda")
    # The optimiser still steps the very same masters.
    before = [m.detach().clone() for m in trainer.masters]
    list(trainer.run(3))
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.masters, strict=True) if a.ndim > 1)


def test_a_stopped_run_goes_on_with_the_same_bits(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = pupils(small_trainer)
    (tmp_path / "whole").mkdir()
    SetTrainer(whole, tmp_path / "whole", Turns(block=2)).run(seen, never)
    for patience in (3, 5, 4, 20):
        own, asked = pupils(small_trainer), iter(range(100))
        trainer = SetTrainer(own, tmp_path, Turns(block=2))
        trainer.resume()
        ended = trainer.run(seen, lambda asked=asked, patience=patience: next(asked) >= patience)
    assert ended
    assert all(equal(a, b) for a, b in zip(own, whole, strict=True))
    assert [p.learner.drawn.state() for p in own] == [p.learner.drawn.state() for p in whole]


@pytest.mark.parametrize("stop_at", [None, 4])
def test_an_expert_ends_early_with_its_best_weights(
    small_trainer: MakeTrainer, tmp_path: Path, stop_at: int | None
) -> None:
    losses = {1: 5.0, 2: 4.0, 3: 4.5, 4: 4.2, 5: 1.0}

    def one() -> Pupil:
        trainer = small_trainer(RUN, THREE[0])
        return Pupil("a", trainer, Patience(judge=lambda: losses[trainer.step_number], every=1, times=2))

    second = small_trainer(RUN, THREE[0])
    list(second.run(2))
    pupil = one()
    if stop_at is not None:
        SetTrainer([pupil], tmp_path, Turns()).run(seen, lambda: pupil.step >= 3)
        pupil = one()
    said: list[str] = []
    train_set([pupil], tmp_path, Turns(), said.append, never)
    assert (pupil.step, pupil.gave_up) == (4, True)
    assert any(line.startswith("a: ended early at step 4; ") for line in said)
    best, truth = pupil.weights(), second.averaged()
    assert all(torch.equal(best[name], truth[name]) for name in truth)


def test_a_loss_that_is_not_finite_names_the_expert_and_keeps_the_checkpoint(
    small_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainer: Trainer, step: int) -> object:
        data, sigma, noise = whole(trainer, step)
        return data, sigma, noise * (float("nan") if trainer.levels is THREE[1] and step == 3 else 1)

    whole = Trainer.batch_for
    monkeypatch.setattr(Trainer, "batch_for", broken)
    own = pupils(small_trainer)
    with pytest.raises(FloatingPointError, match="b: the loss is nan at step 3"):
        SetTrainer(own, tmp_path, Turns(block=2, save_every=0)).run(seen, never)
    kept = torch.load(tmp_path / "b.pt", weights_only=True)
    assert kept["step"] == 3
    assert all(bool(m.isfinite().all()) for m in kept["masters"])


def test_a_gradient_that_is_not_finite_changes_nothing(small_trainer: MakeTrainer) -> None:
    trainer = pupils(small_trainer)[0].learner
    before = [m.detach().clone() for m in trainer.masters]
    trainer.model.head.first.weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[union-attr]
    with pytest.raises(FloatingPointError, match="gradient's norm is"):
        trainer.step(*trainer.batch_for(0))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.masters, strict=True))


def test_whose_turn_it_is(small_trainer: MakeTrainer) -> None:
    own = pupils(small_trainer, (8, 4, 2))
    own[0].learner.step_number, own[1].learner.step_number, own[2].learner.step_number = 3, 1, 2
    assert furthest_behind(own) is own[1]
    for pupil in own:
        pupil.learner.step_number = pupil.steps
    assert furthest_behind(own) is None


CHILD = """
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from conftest import SMALL, stored_pictures
from pasdedeux.denoise import Handoff
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.bands import bands
from pasdedeux.train.codec import measure
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.saving import SaveError
from pasdedeux.train.together import SetTrainer, Turns
torch.set_num_threads(1)
folder = Path({folder!r})
(folder / "clips").mkdir(exist_ok=True)
clips = stored_pictures(folder / "clips")
codec = PatchCodec(CodecConfig(channels=8, width=8, depth=1))
measure(codec, clips, 0, count=20)
def pupil(k, name, band):
    config = TrainConfig(seed=k, steps=40, batch=1, frames=5, dtype="float32", warmup=2, cooldown=9, handed=0.5)
    torch.manual_seed(1 + k)
    return Pupil(name, Trainer(DuetTransformer(SMALL), codec, band, config, clips))
pupils = [pupil(k, "ab"[k], band) for k, band in enumerate(bands(Handoff((0.8,)), 5.0))]
trainer = SetTrainer(pupils, folder, Turns(block=7, save_every=0))
trainer.resume()
def watch(pupil, progress, held):
    print(pupil.name, progress.step, flush=True)
"""
RUN_ON = """
trainer.run(watch, lambda: False)
"""
FULL = """
trainer.run(watch, lambda: pupils[0].step >= 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    trainer.run(watch, lambda: False)
except SaveError as error:
    print("refused:", error)
"""


def child(folder: Path, what: str) -> subprocess.Popen[str]:
    """Another process that trains in `folder`."""
    folder.mkdir(exist_ok=True)
    script = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder)) + what
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_again_and_again_equals_uninterrupted(tmp_path: Path) -> None:
    uninterrupted = child(tmp_path / "whole", RUN_ON)
    killed = 0
    # Checkpoints are written after every step, so some of these land in the midst of one.
    for steps, pause in ((9, 0.0), (5, 0.013), (12, 0.004)):
        process = child(tmp_path / "killed", RUN_ON)
        assert process.stdout is not None
        for _ in range(steps):
            assert process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert child(tmp_path / "killed", RUN_ON).wait() == 0
    assert uninterrupted.wait() == 0
    assert killed == 3
    for name in ("a", "b"):
        once, again = (torch.load(tmp_path / f / f"{name}.pt", weights_only=True) for f in ("whole", "killed"))
        assert once["step"] == again["step"] == 40
        assert once["drawn"] == again["drawn"]
        for part in ("masters", "average"):
            assert all(torch.equal(a, b) for a, b in zip(once[part], again[part], strict=True))
        moments = [[m[k] for m in s["optimiser"]["state"].values() for k in sorted(m)] for s in (once, again)]
        assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size as POSIX does")
def test_a_disk_that_is_full_loses_nothing_of_the_last_checkpoint(tmp_path: Path) -> None:
    process = child(tmp_path / "full", FULL)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert "refused: " in said
    assert ".pt could not be written" in said
    assert "what was there before is kept" in said
    assert torch.load(tmp_path / "full" / "a.pt", weights_only=True)["step"] == 2
    assert not list((tmp_path / "full").glob("*.partial"))


def test_saving_says_what_is_wrong(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    own = pupils(small_trainer)[0]
    with pytest.raises(SaveError, match="could not be written"):
        own.save(tmp_path / "nowhere" / "a.pt")


@pytest.mark.parametrize(
    ("other", "what"), [({"seed": 7}, "configuration"), ({"rate": 1e-5}, "configuration"), ({}, "noise levels")]
)
def test_a_checkpoint_of_another_run_is_refused(
    small_trainer: MakeTrainer, tmp_path: Path, other: dict[str, float], what: str
) -> None:
    SetTrainer([Pupil("a", small_trainer(RUN, THREE[0]))], tmp_path, Turns()).run(seen, never)
    band = THREE[0] if other else THREE[1]
    another = Pupil("a", small_trainer(replace(RUN, **other), band))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"a.pt cannot be gone on from: it is of a run with another {what}"):
        SetTrainer([another], tmp_path, Turns()).resume()
    longer = Pupil("a", small_trainer(replace(RUN, steps=9, device="cpu"), THREE[0]))
    SetTrainer([longer], tmp_path, Turns()).resume()
    assert longer.step == 6


def test_a_held_out_loss_that_is_no_number_is_no_best_one(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    patience = Patience(judge=lambda: float("nan"), every=2, times=3)
    own = Pupil("a", small_trainer(RUN, THREE[0]), patience)
    with pytest.raises(FloatingPointError, match="a: the held-out loss is nan at step 2"):
        SetTrainer([own], tmp_path, Turns()).run(seen, never)
    assert own.best is None


def test_the_step_of_what_was_learnt_is_that_of_the_best(small_trainer: MakeTrainer, tmp_path: Path) -> None:
    losses = iter([0.5, 0.4, 0.6])
    own = Pupil("a", small_trainer(RUN, THREE[0]), Patience(judge=lambda: next(losses), every=2, times=0))
    SetTrainer([own], tmp_path, Turns()).run(seen, never)
    assert (own.step, own.learnt) == (6, 4)
    assert Pupil("b", own.learner).learnt == 6
