"""A model by name: the built-in pair, a folder like it, or a Wan model in whatever files it came."""

from pathlib import Path

from pasdedeux.checkpoints.folder import MANIFEST
from pasdedeux.engine.duet import open_duet
from pasdedeux.engine.memory import Memory
from pasdedeux.engine.model import BUILTIN, Model
from pasdedeux.engine.parts import Parts
from pasdedeux.engine.wan import open_wan


def open_model(
    name: str | None = BUILTIN, device: str | None = None, parts: Parts | None = None, memory: Memory | None = None
) -> Model:
    """Open "builtin", a folder or a file; `parts` are further files, or all of them where `name` is None.

    `device` None takes CUDA where it is; `memory` is what a Wan model's jobs may use, None what is free. Raises
    ValueError if nothing fits.
    """
    parts = parts or Parts()
    if name is not None and not name.strip():
        raise ValueError(f'The model is "{name}"; give "{BUILTIN}", a folder of weights, or a checkpoint.')
    if name == BUILTIN or (name is not None and (Path(name) / MANIFEST).is_file()):
        parts.refuse(name)
        return open_duet(name, device)
    return open_wan(name, device, parts, memory or Memory())
