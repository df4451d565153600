"""Train the built-in pair at full size on a GPU, a few minutes at a time.

Give the same command again until it says that it is done; it goes on from the folder's clips and checkpoints. It needs
torch, einops, safetensors, numpy, OpenCV, Pillow and PyAV only. See docs/gpu.md.
"""

import argparse
import os
import time
from pathlib import Path

from pasdedeux.models.duet import DuetConfig
from pasdedeux.train.codec import PainterConfig
from pasdedeux.train.export import export
from pasdedeux.train.loop import TrainConfig
from pasdedeux.train.pair import PairConfig, Paused, Work, make_pair


def full_size(device: str, readers: int) -> PairConfig:
    """Two experts of 8.2M parameters each; 6,000 clips (45 GB); about twenty times what two cores train on."""
    shared = {"device": device, "readers": readers, "batch": 24, "window": 96}
    return PairConfig(
        clips=6_000,
        model=DuetConfig(depth=6),
        painter=PainterConfig(steps=1500, batch=8),
        trunk=TrainConfig(steps=20_000, frames=9, rate=1e-3, warmup=500, average=0.9995, **shared),
        branch=TrainConfig(
            steps=6_000, frames=17, rate=7e-4, warmup=50, cooldown=6_000, average=0.999, **(shared | {"batch": 12})
        ),
    )


def main() -> None:
    """Train until done or until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes

    def say(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, flush=True)

    config = full_size(options.device, max(options.processes - 2, 1))
    work = Work(
        folder=options.folder,
        config=config,
        report=say,
        processes=options.processes,
        stop=lambda: time.monotonic() > end,
    )
    try:
        make_pair(work, dense=True)
    except Paused as pause:
        say(f"{pause}; give the same command again")
    else:
        say(f"done; the model is in {export(options.folder, config)}")


if __name__ == "__main__":
    main()
