"""A job with every question answered: what the user left open is filled in from the model."""

from dataclasses import dataclass

from pasdedeux.animate import perform
from pasdedeux.checkpoints.folder import Manifest
from pasdedeux.denoise import Handoff, schedule
from pasdedeux.engine.job import Job, parse_size

PUPPET_FRAMES = 49
"""Length of a built-in performance that was not given one: about four seconds at 12 frames per second."""
SMALLEST = 64
"""Pixels a side below which a figure has no face left to animate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that decides a clip beside character and driver; `size` is (width, height), `handoff` in sigma.

    frames is None where a video's own length decides.
    """

    mode: str
    steps: int
    seed: int
    size: tuple[int, int]
    frames: int | None
    fps: float
    handoff: Handoff
    solver: str
    shift: float
    length: int
    overlap: int

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, from 1 to 0."""
        return schedule(self.steps, self.shift)

    def sampling(self) -> perform.Settings:
        """What the performing loop needs of them."""
        return perform.Settings(
            sigmas=self.sigmas, seed=self.seed, length=self.length, overlap=self.overlap, solver=self.solver
        )


def settle(job: Job, manifest: Manifest) -> Settings:
    """The job's settings, or the manifest's where the job has none. Raises ValueError if they do not fit."""
    size = parse_size(job.size) if job.size else manifest.size
    return Settings(
        mode=job.mode,
        steps=job.steps or manifest.steps,
        seed=job.seed,
        size=on_grid(size, manifest.grid),
        frames=job.frames,
        fps=job.fps or manifest.fps,
        handoff=_handoff(job.handoff, manifest),
        solver=job.solver or manifest.solver,
        shift=manifest.shift,
        length=manifest.length,
        overlap=manifest.overlap,
    )


def on_grid(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """The same size. Raises ValueError with the nearest that fits if it is too small or off the grid."""
    nearest = tuple(max(step * round(side / step), SMALLEST) for side, step in zip(size, grid, strict=True))
    if size != nearest:
        raise ValueError(
            f"The size is {size[0]}x{size[1]}; its width must be a multiple of {grid[0]}, its height of {grid[1]}, "
            f"both {SMALLEST} or more, so the nearest that fits is {nearest[0]}x{nearest[1]}."
        )
    return size


def _handoff(text: str, manifest: Manifest) -> Handoff:
    handoff = Handoff.parse(text, Handoff(manifest.bounds))
    if handoff.experts != len(manifest.experts):
        wanted = len(manifest.experts) - 1
        raise ValueError(f'The handoff "{text}" has {len(handoff.bounds)} levels, but this model takes {wanted}.')
    return handoff
