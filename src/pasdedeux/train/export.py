"""A training run's result as a model folder: what the engine opens, and what the package carries."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from pasdedeux.checkpoints.folder import CODEC_FILE, MANIFEST, ExpertFile, Manifest, save_model
from pasdedeux.denoise import Handoff
from pasdedeux.train.config import PairConfig, names

EXPORT = "model"


def manifest_of(config: PairConfig) -> Manifest:
    """The model folder's manifest that belongs to a training run."""
    experts = tuple(ExpertFile(name=name, file=f"{name}.safetensors") for name in names(Handoff(config.bounds)))
    return Manifest(
        codec=config.codec,
        model=replace(config.model, channels=config.codec.channels),
        experts=experts,
        bounds=config.bounds,
        shift=config.shift,
        steps=config.sampling_steps,
        solver=config.solver,
        length=config.frames,
        size=(config.size, config.size),
    )


def export(folder: Path, config: PairConfig) -> Path:
    """Make `folder` itself a model folder (as trained, dense model beside it), and write one in bfloat16 within it.

    The copy is apart because a run that goes on reads the codec from `folder` again, in full precision.
    Returns the copy's folder. Raises ValueError or OSError where a stage's file is missing.
    """
    manifest = manifest_of(config)
    weights = {expert.name: load_file(folder / expert.file) for expert in manifest.experts}
    save_model(folder / EXPORT, manifest, weights, load_file(folder / CODEC_FILE))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder / EXPORT
