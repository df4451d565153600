"""Latents, conditions and embedded captions kept on disk by what they were made of.

An entry is one safetensors file, found by the digest of its makings (the clip's bytes, sizes, the encoders' files), and
carries a digest of its own bytes: one that does not match is made anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pasdedeux.checkpoints.formats.fingerprint import fingerprints
from pasdedeux.train.saving import whole_file

FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries."""

    folder: Path

    def path(self, *makings: object) -> Path:
        """Where the entry of these makings is, or would be."""
        key = hashlib.sha256(json.dumps([FORMAT, *makings]).encode()).hexdigest()
        return self.folder / f"{key}.safetensors"

    def read(self, path: Path) -> dict[str, Tensor] | None:
        """The entry's tensors; None if there is none, or none that is whole."""
        try:
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get("digest")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        return tensors if said == digest(tensors) else None

    def write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. Raises SaveError where the disk is full; no half entry stays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with whole_file(path) as file:
            file.write(save(kept, {"digest": digest(kept)}))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        whole.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def fingerprint(path: Path | None) -> str:
    """What tells a model's file, or a folder's, from another; nothing for none."""
    return "" if path is None else hashlib.sha256(json.dumps(list(fingerprints(path))).encode()).hexdigest()
