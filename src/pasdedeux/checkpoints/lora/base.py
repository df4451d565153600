"""Which weights a LoRA was trained beside: told by a hash that takes a moment, however large they are."""

import hashlib
import json
from collections.abc import Mapping

import torch

from pasdedeux.checkpoints.tensors import Weights

BASE = "pasdedeux.base"
"""The hash's key in a LoRA's metadata."""
PROBED, PROBE = 8, 64
"""Tensors that are looked into, and values of each."""


def base_hash(weights: Weights) -> str:
    """Of names and shapes of a model's weights, and of the first values of a few, as they are stored."""
    shapes = sorted((name, list(tensor.shape)) for name, tensor in weights.items())
    whole = hashlib.sha256(json.dumps(shapes).encode())
    names = [name for name, shape in shapes if len(shape) >= 2]
    for name in names[:: max(len(names) // PROBED, 1)][:PROBED]:
        few = weights[name].read().reshape(-1)[:PROBE].clone()
        whole.update(few.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def other_base(metadata: Mapping[str, str], weights: Weights) -> str | None:
    """What is to be said where a LoRA was trained beside other weights than these; it may fit all the same."""
    said = metadata.get(BASE)
    if said is None or said == base_hash(weights):
        return None
    return "was trained beside other weights than these: another model, or this one stored in another type"
