"""The style LoRA of the built-in pair, both experts in one run; what was stopped goes on.

PYTHONPATH=src python experiments/2026-11-25-style-lora/train.py CLIPS FOLDER STEPS RANK RATE
"""

import sys
from pathlib import Path

import torch

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.train.lora.duet import open_duet
from pasdedeux.train.lora.files import trained, write_lora
from pasdedeux.train.lora.filmed import filmed
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.pupil import Pupil
from pasdedeux.train.running import train_set
from pasdedeux.train.together import Turns

BUILTIN = Path("src/pasdedeux/builtin")


def main(clips: Path, folder: Path, steps: int, rank: int, rate: float) -> None:
    """Both experts, in turns of 50 steps, then their files."""
    kept = folder / "spread.safetensors"
    subject = open_duet(BUILTIN, filmed(clips), 8, kept=kept, batch=4, frames=5, even=True)
    subject.keep(kept)
    shape = Shape(rank=rank, alpha=float(rank), targets="all")
    course = Course(shape=shape, steps=steps, rate=rate, cooldown=steps // 2, average=0.98)
    learners = [LoraLearner(subject, k, course, 0) for k in range(2)]
    pupils = [Pupil(learner.name, learner, learner.patience) for learner in learners]
    train_set(pupils, folder, Turns(save_every=60), lambda line: print(line, flush=True), lambda: False)
    for learner, pupil in zip(learners, pupils, strict=True):
        base = open_safetensors(BUILTIN / f"{pupil.name}.safetensors")
        result = trained(learner, pupil.weights(), pupil.learnt, "builtin")
        print(write_lora(folder / f"night_{pupil.name}_noise.safetensors", result, base.shapes, dtype=torch.bfloat16))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
