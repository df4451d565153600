"""Film clips of puppets whose truth is seen by night and neon, while reference and scene stay as they are.

PYTHONPATH=src python experiments/2026-11-25-style-lora/film.py FOLDER COUNT [FIRST]
"""

import sys
from dataclasses import replace
from pathlib import Path

from style import night

from pasdedeux.train.clips import ClipSpec, Take, film, store


def styled(take: Take) -> Take:
    """The take with its truth, and the empty place behind it, in the style."""
    truth = take.truth
    return replace(take, truth=replace(truth, frames=night(truth.frames), background=night(truth.background)))


def main(folder: Path, count: int, first: int) -> None:
    """Film what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        path = folder / f"{seed:07d}.npy"
        if not path.exists():
            store(path, styled(film(ClipSpec.from_seed(seed))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
