"""The run that made the built-in pair of 2026-11-25, on two processor cores; see README.md for what came of it.

Run with PYTHONPATH=src. It goes on where it was stopped, and stops by itself after `--minutes`.
"""

import argparse
import time
from pathlib import Path

import torch

from pasdedeux.train.codec import PainterConfig
from pasdedeux.train.export import export
from pasdedeux.train.loop import TrainConfig
from pasdedeux.train.pair import PairConfig, Paused, Work, make_pair

CONFIG = PairConfig(
    clips=3600,
    painter=PainterConfig(steps=1000),
    sampling_steps=4,
    trunk=TrainConfig(steps=6500, batch=8, frames=5, rate=1e-3, warmup=50, average=0.998, window=80),
    branch=TrainConfig(steps=600, batch=4, frames=13, rate=1e-3, warmup=20, cooldown=600, average=0.99, window=96),
)


def say(line: str) -> None:
    """One line with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> None:
    """Every stage in order, as far as the minutes reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=600.0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    end = time.monotonic() + 60 * options.minutes
    try:
        make_pair(
            Work(folder=options.folder, config=CONFIG, report=say, stop=lambda: time.monotonic() > end), dense=True
        )
    except Paused as pause:
        say(f"{pause}; give the same command again")
    else:
        say(f"the model is in {export(options.folder, CONFIG)}")


if __name__ == "__main__":
    main()
