"""The built-in pair from nothing: film clips, measure the codec, train a trunk, its experts and the painter.

The trunk is trained over all noise levels. Each expert starts from it and goes on in its own band only; the dense
baseline starts from it too and goes on over all levels, for as many steps as all experts together, so that the pair and
the dense model have had the same total compute. Every stage leaves a file and is skipped when the file is complete;
a stage that was stopped goes on from its checkpoint.
"""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pasdedeux.denoise import Handoff
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer
from pasdedeux.train.bands import Band, bands
from pasdedeux.train.clips import ClipSpec, film, store
from pasdedeux.train.codec import PainterConfig, measure, quality, residual_spread, train_painter
from pasdedeux.train.loop import TrainConfig, Trainer

Report = Callable[[str], None]
SAVE_EVERY = 120.0
"""Seconds between checkpoints."""
JUDGED = 16
"""How many of the last clips judge the codec, which has not seen them."""


class Paused(Exception):  # noqa: N818  (not an error: somebody asked)
    """Training was stopped before its end, by request, and goes on from its checkpoint when it is called again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    """All of a training run. Steps of the branches are for each expert; the dense model gets their sum."""

    seed: int = 0
    clips: int = 2400
    frames: int = 25
    size: int = 128
    shift: float = 12.0
    bounds: tuple[float, ...] = (0.9,)
    sampling_steps: int = 4
    solver: str = "euler"
    codec: CodecConfig = field(default_factory=CodecConfig)
    model: DuetConfig = field(default_factory=DuetConfig)
    painter: PainterConfig = field(default_factory=PainterConfig)
    trunk: TrainConfig = field(default_factory=TrainConfig)
    branch: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1500, cooldown=1500, warmup=20))


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Where and how a configuration is carried out: `folder` holds clips, checkpoints and results."""

    folder: Path
    config: PairConfig
    report: Report
    processes: int = 2
    stop: Callable[[], bool] = _never


def names(handoff: Handoff) -> tuple[str, ...]:
    """What the experts are called: high and low for a pair, else by number from the noisiest."""
    return ("high", "low") if handoff.experts == 2 else tuple(f"expert{k}" for k in range(handoff.experts))


def film_one(folder: Path, seed: int, frames: int, size: int) -> Path:
    """Film and store one clip unless it is there."""
    path = folder / f"{seed:07d}.npy"
    if not path.exists():
        store(path, film(ClipSpec.from_seed(seed, frames=frames, size=size)))
    return path


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; who films leaves it to who asked for the clips."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def film_clips(work: Work) -> list[Path]:
    """The configuration's clips as files, filmed by several processes. Raises Paused when asked to stop."""
    folder, config = work.folder / "clips", work.config
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{s:07d}.npy" for s in range(config.clips)]
    missing = [s for s, path in enumerate(paths) if not path.exists()]
    began = time.monotonic()
    with ProcessPoolExecutor(work.processes, initializer=_leave_interrupts) as pool:
        jobs = [pool.submit(film_one, folder, s, config.frames, config.size) for s in missing]
        for i, job in enumerate(jobs, 1):
            job.result()
            if i % 100 == 0 or i == len(jobs):
                rate = i * config.frames / (time.monotonic() - began)
                work.report(f"filmed {i}/{len(jobs)} clips, {rate:.0f} frames/s")
            if work.stop():
                pool.shutdown(cancel_futures=True)
                raise Paused(f"filming stopped at clip {i} of {len(jobs)}")
    return paths


def make_projection(work: Work, clips: list[Path]) -> PatchCodec:
    """The codec without its painter, from its file or measured on clips; the last 16 clips are kept for judging it."""
    codec, path = PatchCodec(work.config.codec), work.folder / "projection.safetensors"
    if path.exists():
        codec.load_state_dict(load_file(path))
        return codec
    measure(codec, clips[:-JUDGED], work.config.seed)
    work.report(f"codec: projection alone {quality(codec, clips[-JUDGED:]):.2f} dB")
    save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, path)
    return codec


def make_painter(work: Work, codec: PatchCodec, clips: list[Path]) -> None:
    """Train the codec's painter and write the whole codec unless it is there. No latent depends on the painter.

    Raises Paused when asked to stop; it begins anew then, being short.
    """
    steps, path = work.config.painter.steps, work.folder / "codec.safetensors"
    if path.exists():
        return
    for step, loss in train_painter(codec, clips[:-JUDGED], work.config.painter):
        if step % 100 == 0:
            work.report(f"codec: painter step {step}/{steps} loss {loss:.4f}")
        if work.stop():
            raise Paused(f"the painter stopped at step {step} of {steps}")
    work.report(f"codec: with painter {quality(codec, clips[-JUDGED:]):.2f} dB")
    save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, path)


def make_model(config: PairConfig, spread: Tensor) -> DuetTransformer:
    """An untrained expert; the same weights for the same seed."""
    torch.manual_seed(config.seed)
    model = DuetTransformer(replace(config.model, channels=config.codec.channels))
    model.spread.copy_(spread)
    return model


def train(trainer: Trainer, path: Path, clips: list[Path], name: str, work: Work) -> None:
    """Run a trainer to its end with checkpoints on the way. Raises Paused, after saving, when asked to stop."""
    report = work.report
    if path.exists():
        trainer.restore(path)
        report(f"{name}: resumed at step {trainer.step_number}/{trainer.config.steps}")
    saved = shown = time.monotonic()
    losses: list[float] = []
    for progress in trainer.run(clips):
        losses.append(progress.loss)
        now = time.monotonic()
        if progress.step % 50 == 0:
            speed = len(losses) / (now - shown)
            left = (trainer.config.steps - progress.step) / speed / 60
            mean = sum(losses) / len(losses)
            report(
                f"{name}: step {progress.step}/{trainer.config.steps} loss {mean:.4f} rate {progress.rate:.1e} "
                f"norm {progress.norm:.2f}, {speed * trainer.config.batch:.1f} clips/s, {left:.0f} min left"
            )
            losses, shown = [], now
        if now - saved > SAVE_EVERY or work.stop():
            trainer.save(path)
            saved = now
        if work.stop():
            raise Paused(f"{name} stopped at step {progress.step} of {trainer.config.steps}")
    trainer.save(path)


def make_trunk(work: Work, codec: PatchCodec, clips: list[Path]) -> None:
    """Train the trunk over all noise levels; leaves its checkpoint."""
    config, spread_file = work.config, work.folder / "spread.safetensors"
    if not spread_file.exists():
        save_file({"spread": residual_spread(codec, clips, config.seed)}, spread_file)
    model = make_model(config, load_file(spread_file)["spread"])
    band = Band(low=0.0, high=1.0, shift=config.shift)
    train(Trainer(model, codec, band, config.trunk), work.folder / "trunk.pt", clips, "trunk", work)


def make_branch(work: Work, codec: PatchCodec, clips: list[Path], name: str) -> None:
    """Branch the trunk into the expert `name`, or into `dense`; writes its averaged weights unless they are there."""
    config, handoff = work.config, Handoff(bounds=work.config.bounds)
    if (work.folder / f"{name}.safetensors").exists():
        return
    trunk = torch.load(work.folder / "trunk.pt", weights_only=True)
    if name == "dense":
        count, band = handoff.experts, Band(low=0.0, high=1.0, shift=config.shift)
    else:
        count, band = 1, dict(zip(names(handoff), bands(handoff, config.shift), strict=True))[name]
    run = replace(config.branch, steps=count * config.branch.steps, cooldown=count * config.branch.cooldown)
    run = replace(run, seed=config.branch.seed + 1 + ("dense", *names(handoff)).index(name))
    trainer = Trainer(make_model(config, trunk["spread"]), codec, band, run)
    trainer.start_from(trunk["average"])
    train(trainer, work.folder / f"{name}.pt", clips, name, work)
    save_file({k: v.contiguous().cpu() for k, v in trainer.averaged().items()}, work.folder / f"{name}.safetensors")


def make_pair(work: Work, *, dense: bool) -> None:
    """Every stage in order; see the module's text. Raises Paused when `work.stop` says so."""
    folder, config = work.folder, work.config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
    clips = film_clips(work)
    codec = make_projection(work, clips)
    make_trunk(work, codec, clips)
    for name in names(Handoff(bounds=config.bounds)):
        make_branch(work, codec, clips, name)
    make_painter(work, codec, clips)
    if dense:
        make_branch(work, codec, clips, "dense")
