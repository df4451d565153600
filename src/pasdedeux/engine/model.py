"""A model that is loaded and ready: experts on their device, the codec with the pictures, the manifest."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pasdedeux.animate.condition.duet import denoiser
from pasdedeux.checkpoints.folder import ExpertFile, Manifest, load_codec, load_expert, read_manifest
from pasdedeux.denoise import Expert, ExpertSet, Handoff, schedule
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer

BUILTIN = "builtin"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """An opened model folder. `experts` are in the manifest's order, noisiest first."""

    name: str
    manifest: Manifest
    experts: tuple[DuetTransformer, ...]
    codec: PatchCodec
    device: str

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The manifest's own noise levels, from 1 to 0."""
        return schedule(self.manifest.steps, self.manifest.shift)

    def expert_set(self, handoff: Handoff | None = None) -> ExpertSet:
        """The experts with the noise bands that `handoff` gives them; None: the manifest's."""
        pairs = zip(self.manifest.experts, self.experts, strict=True)
        experts = tuple(self._expert(file, net) for file, net in pairs)
        return ExpertSet(experts, handoff or Handoff(self.manifest.bounds))

    def guest(self, file: ExpertFile) -> Expert | None:
        """An expert of the same make that is no part of the set; None where the folder has no such file."""
        folder = model_folder(self.name)
        if not (folder / file.file).is_file():
            return None
        return self._expert(file, load_expert(folder, self.manifest, file, self.device))

    def _expert(self, file: ExpertFile, net: DuetTransformer) -> Expert:
        return Expert(denoiser(net), file.name, file.guidance)

    @property
    def total_parameters(self) -> int:
        """Parameters of all experts together."""
        return sum(map(count, self.experts))

    @property
    def active_parameters(self) -> int:
        """Parameters that run in one step: those of the largest expert."""
        return max(map(count, self.experts))


def open_model(name: str = BUILTIN, device: str | None = None) -> Model:
    """Load "builtin" or a folder; `device` None takes CUDA where it is. Raises ValueError if unfit."""
    folder, device = model_folder(name), checked_device(device or default_device())
    manifest = read_manifest(folder)
    experts = tuple(load_expert(folder, manifest, expert, device) for expert in manifest.experts)
    return Model(name=name, manifest=manifest, experts=experts, codec=load_codec(folder, manifest), device=device)


def model_folder(name: str) -> Path:
    """Where a model's files are. Raises ValueError if `name` is neither "builtin" nor a folder."""
    if name == BUILTIN:
        return Path(__file__).parents[1] / BUILTIN
    if not Path(name).is_dir():
        raise ValueError(f'There is no model "{name}"; give "{BUILTIN}" or a folder that holds one.')
    return Path(name)


def default_device() -> str:
    """ "cuda" where torch finds one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> str:
    """The same name. Raises ValueError if this machine has no such device."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if name not in there:
        raise ValueError(f'The device is "{name}"; on this machine it must be {" or ".join(there)}.')
    return name


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())
