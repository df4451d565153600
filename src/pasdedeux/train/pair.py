"""The built-in pair from nothing: film clips, measure the codec, train a trunk, its experts and the painter.

The trunk is trained over all noise levels. Each expert starts from it and goes on in its own band only, all of them in
one run (`together`); the dense baseline starts from it too and goes on over all levels, for as many steps as all
experts together, so that the pair and the dense model have had the same total compute. Every stage leaves a file and is
skipped when the file is complete; a stage that was stopped goes on from its checkpoint.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from pasdedeux.denoise import Handoff, schedule
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer
from pasdedeux.train.bands import Levels, whole
from pasdedeux.train.clips import ClipSpec, film, is_filmed, store
from pasdedeux.train.codec import measure, quality, residual_spread, train_painter
from pasdedeux.train.config import PairConfig, Paused, Work, branches, dense_run
from pasdedeux.train.evaluate import Sampling
from pasdedeux.train.heldout import HeldOut, band_loss, held_out
from pasdedeux.train.loop import TrainConfig, Trainer
from pasdedeux.train.previews import Previews, previews
from pasdedeux.train.pupil import Patience, Pupil
from pasdedeux.train.running import train_set
from pasdedeux.train.saving import whole_file
from pasdedeux.train.together import Turns

ELSEWHERE = ("device", "readers")
"""Fields of a configuration that change nothing of what is learnt."""
JUDGED = 16
"""How many of the last clips judge the codec, which has not seen them."""


def film_one(folder: Path, seed: int, frames: int, size: int) -> Path:
    """Film and store one clip unless both its files are there."""
    path = folder / f"{seed:07d}.npy"
    if not is_filmed(path):
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
    missing = [s for s, path in enumerate(paths) if not is_filmed(path)]
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


def model_config(config: PairConfig) -> DuetConfig:
    """The experts' sizes."""
    return replace(config.model, channels=config.codec.channels)


def make_model(config: PairConfig, spread: Tensor) -> DuetTransformer:
    """An untrained expert; the same weights for the same seed."""
    torch.manual_seed(config.seed)
    model = DuetTransformer(model_config(config))
    model.spread.copy_(spread)
    return model


def train(pupils: Sequence[Pupil], work: Work, device: str, *, shown: Previews | None = None) -> None:
    """Train a set to its end, from its checkpoints on. Raises Paused, after saving, when asked to stop."""
    turns = Turns(block=work.block, devices=work.devices or (device,), save_every=work.save_every)
    every = work.preview_every or 0.0
    train_set(pupils, work.folder, turns, work.report, work.stop, previews=shown, preview_every=every)


def make_trunk(work: Work, codec: PatchCodec, clips: list[Path]) -> None:
    """Train the trunk over all noise levels; leaves its checkpoint."""
    config, spread_file = work.config, work.folder / "spread.safetensors"
    if not spread_file.exists():
        save_file({"spread": residual_spread(codec, clips, config.seed)}, spread_file)
    model = make_model(config, load_file(spread_file)["spread"])
    trainer = Trainer(model, codec, whole(config.shift), config.trunk, clips)
    train([Pupil("trunk", trainer)], work, config.trunk.device)


def make_experts(work: Work, codec: PatchCodec, clips: list[Path]) -> None:
    """Branch the trunk into the experts; writes their averaged weights unless they are there."""
    plan = branches(work.config)
    if all((work.folder / f"{name}.safetensors").exists() for name in plan):
        return
    trunk = torch.load(work.folder / "trunk.pt", weights_only=True, map_location="cpu")
    trainers = {name: branch(work.config, trunk, codec, clips, *own) for name, own in plan.items()}
    patience = patience_of(work.config, codec)
    pupils = [Pupil(name, one, patience(one) if patience else None) for name, one in trainers.items()]
    train(pupils, work, work.config.branch.device, shown=previews_of(work, codec))
    for pupil in pupils:
        write_weights(work.folder, pupil)


def make_dense(work: Work, codec: PatchCodec, clips: list[Path]) -> None:
    """Go on from the trunk over all noise levels; writes the averaged weights unless they are there."""
    if (work.folder / "dense.safetensors").exists():
        return
    trunk = torch.load(work.folder / "trunk.pt", weights_only=True, map_location="cpu")
    levels, run = whole(work.config.shift), dense_run(work.config)
    pupil = Pupil("dense", branch(work.config, trunk, codec, clips, levels, run))
    train([pupil], replace(work, devices=()), run.device)
    write_weights(work.folder, pupil)


def branch(
    config: PairConfig, trunk: dict[str, Any], codec: PatchCodec, clips: list[Path], levels: Levels, run: TrainConfig
) -> Trainer:
    """A trainer that starts from the trunk's averaged weights; it waits on the processor for its turn."""
    trainer = Trainer(make_model(config, trunk["spread"]), codec, levels, replace(run, device="cpu"), clips)
    trainer.start_from(trunk["average"])
    return trainer


def write_weights(folder: Path, pupil: Pupil) -> None:
    """An expert's averaged weights as `folder`/NAME.safetensors."""
    path = folder / f"{pupil.name}.safetensors"
    with whole_file(path) as file:
        file.write(save({name: weight.contiguous().cpu() for name, weight in pupil.weights().items()}))


def patience_of(config: PairConfig, codec: PatchCodec) -> Callable[[Trainer], Patience] | None:
    """How an expert is judged for an early stop, if one was asked for."""
    if not config.patience:
        return None
    dtype = getattr(torch, config.branch.dtype)
    held = held_out(codec, config.shift, count=config.judged, frames=9, size=config.size, dtype=dtype)

    def patience(trainer: Trainer) -> Patience:
        return Patience(judge=lambda: judged(trainer, held), every=config.judge_every, times=config.patience)

    return patience


def judged(trainer: Trainer, held: HeldOut) -> float:
    """The averaged weights' held-out loss in their own band."""
    with trainer.averaged_model() as model:
        return band_loss(model, held, trainer.levels)


def previews_of(work: Work, codec: PatchCodec) -> Previews | None:
    """What is sampled on the way, if it was asked for."""
    c = work.config
    if work.preview_every is None:
        return None
    how = Sampling(sigmas=schedule(c.sampling_steps, c.shift), solver=c.solver, batch=2)
    return previews(model_config(c), codec, Handoff(c.bounds), how, getattr(torch, c.branch.dtype), size=c.size)


def settle(path: Path, config: PairConfig) -> None:
    """Write down what decides a run. Raises ValueError where the folder holds a run with something else."""
    mine = json.loads(json.dumps(asdict(config)))
    if path.exists():
        other = next(differences(json.loads(path.read_text(encoding="utf-8")), mine), None)
        if other is not None:
            raise ValueError(f"{path.parent} holds a run with {other}; give this one another folder.")
    path.write_text(json.dumps(mine, indent=1), encoding="utf-8")


def differences(theirs: Any, mine: Any, name: str = "") -> Iterator[str]:
    """What two configurations decide differently; where and how fast they are carried out is left out."""
    if not isinstance(theirs, dict) or not isinstance(mine, dict):
        if theirs != mine:
            yield f"{name.strip()} {theirs}, not {mine}"
        return
    for key in dict.fromkeys((*theirs, *mine)):
        if key not in ELSEWHERE:
            yield from differences(theirs.get(key), mine.get(key), f"{name} {key}")


def make_pair(work: Work, *, dense: bool) -> None:
    """Every stage in order; see the module's text. Raises Paused when `work.stop` says so.

    Raises ValueError where the folder holds another run.
    """
    folder, config = work.folder, work.config
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder / "config.json", config)
    clips = film_clips(work)
    codec = make_projection(work, clips)
    make_trunk(work, codec, clips)
    make_experts(work, codec, clips)
    make_painter(work, codec, clips)
    if dense:
        make_dense(work, codec, clips)
