"""What the study's workers do: train a run, or sample a set of experts; each leaves one JSON file."""

import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from plan import SHIFT, SIZES, Part, Run, Sample, Size, runs, samples
from safetensors.torch import load_file, save_file

from pasdedeux.animate.condition.duet import denoiser
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer
from pasdedeux.train.codec import residual_spread
from pasdedeux.train.evaluate import Exam, Sampling, evaluate, exam
from pasdedeux.train.heldout import CHOOSING, HeldOut, curve, held_out
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.masters import Progress
from pasdedeux.train.pair import PairConfig, Work, film_clips, make_projection
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.together import SetTrainer, Turns

BATCH = 8
"""Clips sampled at once."""


def results(folder: Path) -> Path:
    """Where finished jobs' files are."""
    return folder / "results"


def run_file(folder: Path, seed: int, name: str) -> Path:
    """A run's result."""
    return results(folder) / f"s{seed}-run-{name}.json"


def sample_file(folder: Path, seed: int, key: str) -> Path:
    """A sampled set's result."""
    return results(folder) / f"s{seed}-samples-{key}.json"


def weights_file(folder: Path, seed: int, part: Part) -> Path:
    """An expert's averaged weights at a mark."""
    return folder / "weights" / f"s{seed}-{part.key}.safetensors"


def prepare(folder: Path, size: Size, processes: int, stop: float) -> None:
    """Film the clips, measure codec and spread, unless they are there. Raises Paused when the time is over."""
    for name in ("results", "weights", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = PairConfig(clips=size.clips, frames=size.frames, size=size.size, shift=SHIFT, codec=size.codec)
    work = Work(folder=folder, config=config, report=say, processes=processes, stop=lambda: time.time() > stop)
    clips = film_clips(work)
    codec = make_projection(work, clips)
    if not (folder / "spread.safetensors").exists():
        save_file({"spread": residual_spread(codec, clips, 0)}, folder / "spread.safetensors")


def train_run(folder: Path, size_name: str, seed: int, name: str, stop: float) -> bool:
    """Train one run of one seed; whether it is finished. Goes on where it was stopped."""
    size = SIZES[size_name]
    _settle(size)
    run = next(r for r in runs(size) if r.name == name)
    place = folder / "work" / f"s{seed}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    with locked(place):
        if run_file(folder, seed, name).exists():
            return True
        trainer = SetTrainer(pupils(folder, size, seed, run), place, Turns(block=size.block, save_every=60))
        trainer.resume()
        ended = trainer.run(Watcher(folder, size, seed, run, place), lambda: time.time() > stop)
        if ended:
            write_run(folder, size, seed, run, place, trainer)
    return ended


def pupils(folder: Path, size: Size, seed: int, run: Run) -> list[Pupil]:
    """A run's experts, new or from their trunk."""
    codec, clips = codec_of(folder, size), clips_of(folder, size)
    spread = load_file(folder / "spread.safetensors")["spread"]
    number = [r.name for r in runs(size)].index(run.name)
    made = []
    for k, (name, levels) in enumerate(run.levels.items()):
        own = seed * 1000 + number * 20 + k
        torch.manual_seed(own)
        model = DuetTransformer(replace(size.big if run.big else size.model, channels=size.codec.channels))
        model.spread.copy_(spread)
        if run.trunk is not None:
            source, expert, mark = run.trunk
            model.load_state_dict(load_file(weights_file(folder, seed, Part(run=source, expert=expert, mark=mark))))
        config = TrainConfig(
            seed=own,
            steps=run.steps,
            batch=size.batch,
            frames=size.taken,
            rate=size.rate,
            warmup=min(50, size.steps // 10),
            average=size.average,
            handed=0.0,
            window=size.window,
            dtype=size.dtype,
            device=size.device,
            readers=size.readers,
        )
        made.append(Pupil(name, Trainer(model, codec, levels, config, clips)))
    return made


class Watcher:
    """Keeps weights and held-out losses at a run's marks, the losses of training, and says how far it is."""

    def __init__(self, folder: Path, size: Size, seed: int, run: Run, place: Path) -> None:
        self.folder, self.size, self.seed, self.run, self.place = folder, size, seed, run, place
        self.began, self.made = time.monotonic(), 0
        self.losses: dict[str, list[float]] = {name: [] for name in run.levels}

    def __call__(self, pupil: Pupil, progress: Progress, _: float | None) -> None:
        """Take in one step."""
        self.made += 1
        self.losses[pupil.name].append(progress.loss)
        if progress.step % self.size.block == 0:
            recent = self.losses[pupil.name][-self.size.block :]
            speed = self.made / (time.monotonic() - self.began)
            line = {"expert": pupil.name, "step": progress.step, "loss": sum(recent) / len(recent), "speed": speed}
            with (self.place / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(
                f"s{self.seed} {self.run.name} {pupil.name} {progress.step} loss {line['loss']:.4f} {speed:.2f} steps/s"
            )
        if progress.step in self.run.marks:
            self.mark(pupil, progress.step)

    def mark(self, pupil: Pupil, step: int) -> None:
        """Keep averaged weights and their held-out losses."""
        part = Part(run=self.run.name, expert=pupil.name, mark=step)
        path = weights_file(self.folder, self.seed, part)
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous().cpu() for k, v in pupil.learner.averaged().items()}, partial)
        partial.replace(path)
        with pupil.learner.averaged_model() as model:
            measured, seen = (curve(model, held(self.folder, self.size, first)) for first in (CHOOSING, 0))
        record = {
            "loss": measured.loss.tolist(),
            "velocity": measured.velocity.tolist(),
            "seen": seen.loss.mean(0).tolist(),
        }
        write_json(self.place / f"{pupil.name}@{step}.json", record)


def write_run(folder: Path, size: Size, seed: int, run: Run, place: Path, trainer: SetTrainer) -> None:
    """A finished run as one file."""
    experts = {
        pupil.name: {
            "drawn": pupil.learner.drawn.state(),
            "band": asdict(run.levels[pupil.name]),  # type: ignore[call-overload]
            "marks": {str(m): json.loads((place / f"{pupil.name}@{m}.json").read_text()) for m in run.marks},
        }
        for pupil in trainer.pupils
    }
    parameters = sum(m.numel() for m in trainer.pupils[0].learner.masters)
    record = {
        "run": run.name,
        "seed": seed,
        "steps": run.steps,
        "parameters": parameters,
        "edges": held(folder, size).edges,
        "experts": experts,
        **origin(size),
    }
    write_json(run_file(folder, seed, run.name), record)


def sample_set(folder: Path, size_name: str, seed: int, key: str, stop: float) -> bool:
    """Sample one set of experts on the held-out clips, and score them."""
    del stop
    size = SIZES[size_name]
    _settle(size)
    wanted = next(s for s in samples(size) if s.key == key)
    experts = experts_of(folder, size, seed, wanted)
    sigmas = schedule(size.sampling_steps, SHIFT)
    how = Sampling(sigmas=sigmas, solver="euler", batch=BATCH)
    scores = [
        asdict(a.score)
        for a in evaluate(exams(folder, size), codec_of(folder, size), {"set": experts}, how, lambda _: None)
        if a.arm == "set"
    ]
    write_json(sample_file(folder, seed, key), {"key": key, "seed": seed, "sigmas": sigmas, "clips": scores})
    say(f"s{seed} sampled {key}")
    return True


def experts_of(folder: Path, size: Size, seed: int, wanted: Sample) -> ExpertSet:
    """Trained experts as a set that samples."""
    made: dict[str, Expert] = {}
    for part in wanted.parts:
        if part.key not in made:
            config = size.big if part.run == "big" else size.model
            model = DuetTransformer(replace(config, channels=size.codec.channels))
            model.load_state_dict(load_file(weights_file(folder, seed, part)))
            model.to(size.device, getattr(torch, size.dtype))
            made[part.key] = Expert(denoiser(model), part.key)
    return ExpertSet(tuple(made[part.key] for part in wanted.parts), Handoff(wanted.bounds))


def baselines(folder: Path, size: Size) -> None:
    """Scores of what takes no denoising: still, carried, codec."""
    path = results(folder) / "baselines.json"
    if path.exists():
        return
    how = Sampling(sigmas=(1.0, 0.0), solver="euler", batch=BATCH)
    scores: dict[str, list[dict[str, float]]] = {}
    for answer in evaluate(exams(folder, size), codec_of(folder, size), {}, how, lambda _: None):
        scores.setdefault(answer.arm, []).append(asdict(answer.score))
    write_json(path, scores)


@lru_cache(maxsize=1)
def exams(folder: Path, size: Size) -> tuple[Exam, ...]:
    """The held-out clips that are sampled, with the character's exact joints."""
    codec, dtype = codec_of(folder, size), getattr(torch, size.dtype)
    return tuple(
        exam(i, codec, "replace" if i % 5 in (1, 3) else "animate", True, dtype, frames=size.taken, size=size.size)
        for i in range(size.sampled)
    )


@lru_cache(maxsize=2)
def held(folder: Path, size: Size, first: int = CHOOSING) -> HeldOut:
    """The held-out clips that losses are measured on; from seed 0 on it is clips that were trained on."""
    return held_out(
        codec_of(folder, size),
        SHIFT,
        count=size.judged,
        frames=size.taken,
        size=size.size,
        bins=size.bins,
        dtype=getattr(torch, size.dtype),
        first=first,
    )


@lru_cache(maxsize=1)
def codec_of(folder: Path, size: Size) -> PatchCodec:
    """The study's codec, its projection alone."""
    codec = PatchCodec(size.codec)
    codec.load_state_dict(load_file(folder / "projection.safetensors"))
    return codec


def clips_of(folder: Path, size: Size) -> list[Path]:
    """The training clips."""
    return [folder / "clips" / f"{seed:07d}.npy" for seed in range(size.clips)]


def origin(size: Size) -> dict[str, Any]:
    """Where a result comes from."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return {"size": asdict(size), "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d %H:%M:%S")}


def write_json(path: Path, record: object) -> None:
    """A file that is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record))
    partial.replace(path)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Alone in a folder: a worker whose parent was killed may still be at work in it. The system ends it with us."""
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    """One line with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def _settle(size: Size) -> None:
    if size.device == "cpu":
        torch.set_num_threads(1)
