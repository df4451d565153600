"""The same LoRA in every form: how much the clips that the engine makes with each differ.

PYTHONPATH=src python experiments/2026-11-25-style-lora/exports.py HIGH.safetensors LOW.safetensors FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from pasdedeux import Engine, Job
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.train.lora.files import FORMS, Layer, Trained, write_lora

BUILTIN = Path("src/pasdedeux/builtin")
PREFIX = "diffusion_model."


def read(path: Path) -> Trained:
    """A file in ComfyUI's form as what was trained."""
    file = open_safetensors(path)
    values = {name.removeprefix(PREFIX): tensor.read().float() for name, tensor in file.items()}
    stems = [name.removesuffix(".alpha") for name in values if name.endswith(".alpha")]
    layers = {
        stem: Layer(
            down=values[f"{stem}.lora_A.weight"],
            up=values[f"{stem}.lora_B.weight"],
            alpha=float(values[f"{stem}.alpha"]),
        )
        for stem in stems
    }
    full = {name.removesuffix(".diff"): value for name, value in values.items() if name.endswith(".diff")}
    return Trained(expert=file.metadata["wan.expert"], layers=layers, differences=full, metadata=file.metadata)


def main(files: list[Path], folder: Path) -> None:
    """A clip of 25 frames by each form, in grey levels from that of ComfyUI's."""
    clips = {}
    with Engine.open("builtin", device="cpu") as engine:
        clips["none"] = engine.run(Job.animate(frames=25)).frames
        for form in FORMS:
            made = []
            for file in files:
                result = read(file)
                shapes = open_safetensors(BUILTIN / f"{result.expert}.safetensors").shapes
                made.append(
                    str(write_lora(folder / f"{form}_{result.expert}.safetensors", result, shapes, form, torch.float32))
                )
            clips[form] = engine.run(Job.animate(frames=25, lora=tuple(made))).frames
    gaps = {name: np.abs(clip.astype(int) - clips["comfyui"]) for name, clip in clips.items()}
    print(json.dumps({name: {"mean": float(gap.mean()), "most": int(gap.max())} for name, gap in gaps.items()}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:3]], Path(sys.argv[3]))
