"""The style LoRA of the built-in pair, both experts in one run; what was stopped goes on.

PYTHONPATH=src python experiments/2026-11-25-style-lora/train.py CLIPS FOLDER STEPS RANK RATE
"""

import sys
import time
from pathlib import Path

import torch

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.train.lora.duet import open_duet
from pasdedeux.train.lora.files import base_hash, trained, write_lora
from pasdedeux.train.lora.filmed import filmed
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.run import Course, Run, enrol

BUILTIN = Path("src/pasdedeux/builtin")


def main(clips: Path, folder: Path, steps: int, rank: int, rate: float) -> None:
    """Both experts, in turns of 50 steps, then their files."""
    subject = open_duet(BUILTIN, filmed(clips), 8, batch=4, frames=5, even=True)
    shape = Shape(rank=rank, alpha=float(rank), targets="all")
    course = Course(shape=shape, steps=steps, rate=rate, cooldown=steps // 2, average=0.98)
    run = Run(subject=subject, pupils=[enrol(subject, k, course, 0) for k in range(2)], folder=folder, save_every=60)
    losses: list[float] = []
    began = time.monotonic()
    for p in run.go():
        losses.append(p.loss)
        if p.step % 10 == 0:
            seconds = (time.monotonic() - began) / len(losses)
            print(p.expert, p.step, f"{sum(losses) / len(losses):.4f}", p.held, f"{seconds:.2f} s", flush=True)
            losses, began = [], time.monotonic()
    for pupil in run.pupils:
        base = open_safetensors(BUILTIN / f"{pupil.name}.safetensors")
        result = trained(pupil, subject.differences(pupil.position), base_hash(base), "builtin")
        print(write_lora(folder / f"night_{pupil.name}_noise.safetensors", result, base.shapes, dtype=torch.bfloat16))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
