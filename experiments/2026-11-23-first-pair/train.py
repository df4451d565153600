"""The run that made the built-in pair of 2026-11-23, on two processor cores; see README.md for what came of it.

Run with PYTHONPATH=src. It takes about 50 minutes and goes on where it was stopped. The order differs from `pasdedeux
train pair` in one thing: the painter, on which no latent depends, is trained last.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetConfig
from pasdedeux.train.codec import PainterConfig, measure, quality, train_painter
from pasdedeux.train.export import export
from pasdedeux.train.loop import TrainConfig
from pasdedeux.train.pair import PairConfig, Work, film_clips, make_branch, make_trunk

STEPS = 1685
"""Of the trunk, at a constant rate: it was stopped when its time was over."""
CONFIG = PairConfig(
    clips=1756,
    model=DuetConfig(depth=6),
    painter=PainterConfig(steps=400),
    sampling_steps=4,
    trunk=TrainConfig(steps=STEPS, batch=9, frames=5, rate=1.5e-3, warmup=100, window=80),
    branch=TrainConfig(steps=200, batch=4, frames=13, rate=1e-3, warmup=10, cooldown=200, average=0.98),
)


def say(line: str) -> None:
    """One line with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def projected(folder: Path, clips: list[Path]) -> PatchCodec:
    """The codec without its painter."""
    codec, path = PatchCodec(CONFIG.codec), folder / "projection.safetensors"
    if path.exists():
        codec.load_state_dict(load_file(path))
        return codec
    measure(codec, clips[:-16], CONFIG.seed)
    save_file(codec.state_dict(), path)
    return codec


def main() -> None:
    """Every stage in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    work = Work(folder=folder, config=CONFIG, report=say)
    clips = film_clips(folder / "clips", range(CONFIG.clips), CONFIG, 2, say)
    codec = projected(folder, clips)
    say(f"projection alone: {quality(codec, clips[-16:]):.2f} dB")
    make_trunk(work, codec, clips)
    for name in ("high", "low"):
        make_branch(work, codec, clips, name)
    for step, loss in train_painter(codec, clips[:-16], CONFIG.painter):
        if step % 50 == 0:
            say(f"painter: step {step} loss {loss:.4f}")
    say(f"with painter: {quality(codec, clips[-16:]):.2f} dB")
    save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, folder / "codec.safetensors")
    say(f"the model is in {export(folder, CONFIG)}")


if __name__ == "__main__":
    main()
