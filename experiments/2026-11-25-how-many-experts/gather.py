"""The study's result files as numbers: losses of arms by bin, scores of samples, differences with their intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plan import SHIFT, SIZES, Arm, Part, Sample, Size

from pasdedeux.train.heldout import HeldOut
from pasdedeux.train.study import Figure, spread

Losses = NDArray[np.float64]


@cache
def read(path: Path) -> Any:
    """A result."""
    return json.loads(path.read_text())


@dataclass(frozen=True, kw_only=True)
class Study:
    """What there is in a folder of results."""

    folder: Path
    size: Size

    @property
    def seeds(self) -> list[int]:
        """The seeds any run of which is finished."""
        found = {int(path.name.split("-")[0][1:]) for path in self.folder.glob("s*-run-*.json")}
        return sorted(found)

    def run(self, seed: int, name: str) -> Any | None:
        """A finished run."""
        path = self.folder / f"s{seed}-run-{name}.json"
        return read(path) if path.exists() else None

    def losses(self, seed: int, part: Part, what: str = "loss") -> Losses | None:
        """[clips, bins] of an expert at a mark, cleanest bin first; None where its run is not finished."""
        run = self.run(seed, part.run)
        return None if run is None else np.array(run["experts"][part.expert]["marks"][str(part.mark)][what])

    @property
    def edges(self) -> tuple[float, ...]:
        """The bins' edges in sigma."""
        return tuple(read(next(self.folder.glob("s*-run-*.json")))["edges"])

    def arm(self, seed: int, arm: Arm, what: str = "loss") -> Losses | None:
        """[clips, bins] of a set, each value that of the owner of its level; None where a run is missing."""
        of = [self.losses(seed, part, what) for part in arm.parts]
        if any(part is None for part in of):
            return None
        every = np.stack(of)  # type: ignore[arg-type]
        return np.take_along_axis(every, self.owners(arm.bounds, every.shape[1])[None], axis=0)[0]

    def owners(self, bounds: Sequence[float], clips: int) -> NDArray[np.int64]:
        """[clips, bins] who of a set owns the level that a clip was measured at in a bin, noisiest first."""
        levels = self.levels(clips)
        return (levels[..., None] < np.array(bounds)).sum(-1)

    def levels(self, clips: int) -> Losses:
        """[clips, bins] the held-out levels."""
        held = HeldOut(data=(), shift=SHIFT, bins=len(self.edges) - 1)
        return np.stack([held.levels(clip).double().numpy() for clip in range(clips)])

    def scores(self, seed: int, sample: Sample, figure: str) -> Losses | None:
        """[clips] a figure of a sampled set; None where it is missing."""
        path = self.folder / f"s{seed}-samples-{sample.key}.json"
        return np.array([clip[figure] for clip in read(path)["clips"]]) if path.exists() else None

    def parameters(self, arm: Arm) -> tuple[float, float]:
        """Millions of parameters: of one expert, of all."""
        run = next(r for s in self.seeds if (r := self.run(s, arm.parts[0].run)) is not None)
        each = run["parameters"] / 1e6
        return each, each * len({part.key for part in arm.parts})


def open_study(folder: Path) -> Study:
    """The study in `folder`. Raises SystemExit where no run is finished."""
    place = folder / "results"
    found = sorted(place.glob("s*-run-*.json"))
    if not found:
        raise SystemExit(f"{place} holds no finished run yet")
    return Study(folder=place, size=SIZES[read(found[0])["size"]["name"]])


def difference(ours: Sequence[Losses], theirs: Sequence[Losses]) -> Figure:
    """Ours minus theirs: over seeds, each seed's mean being one value; with one seed over its clips."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    values = np.array([np.nanmean(gap) for gap in gaps]) if len(gaps) > 1 else gaps[0][np.isfinite(gaps[0])]
    return spread(values)


def mean(values: Sequence[Losses]) -> Figure:
    """A figure over seeds; with one seed over its clips."""
    zeros = [np.zeros_like(v) for v in values]
    return difference(values, zeros)
