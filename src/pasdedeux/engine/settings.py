"""A job with every question answered: what the user left open is filled in from the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pasdedeux.animate import perform
from pasdedeux.denoise import Handoff, schedule, shift_sigma
from pasdedeux.engine.job import Job, parse_guidance, parse_size

PUPPET_FRAMES = 49
"""Length of a built-in performance that was not given one: about four seconds at 12 frames per second."""
SMALLEST = 64
"""Pixels a side below which a figure has no face left to animate."""

Size = tuple[int, int]
ShapeRule = Literal["cut", "nearest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a model does where a job says nothing.

    experts: names, noisiest first; bounds: sigmas between them; guidance: of each; starts: the schedule's first sigma
    before the shift, for solvers that do not start at 1; least: where the last step starts, before both shifts of
    diffusers' Euler, or None for levels that are evenly spaced to 0; length and overlap: frames of a segment; size:
    (width, height), of which only the area holds where `shape` is a rule by which a picture's shape is taken; grid:
    width and height are multiples of these.
    """

    experts: tuple[str, ...]
    bounds: tuple[float, ...]
    guidance: tuple[float, ...]
    steps: int
    shift: float
    solver: str
    length: int
    overlap: int
    fps: float
    size: Size
    grid: Size
    starts: Mapping[str, float] = field(default_factory=dict)
    least: float | None = None
    shape: ShapeRule | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that decides a clip beside character, driver and prompt; `size` is (width, height), `handoff` in sigma.

    frames is None where a video's own length decides. guidance is each expert's, noisiest first.
    """

    mode: str
    steps: int
    seed: int
    size: Size
    frames: int | None
    fps: float
    handoff: Handoff
    guidance: tuple[float, ...]
    solver: str
    shift: float
    length: int
    overlap: int
    start: float = 1.0
    end: float | None = None

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, from the first to 0."""
        return schedule(self.steps, self.shift, start=self.start, end=self.end)

    def sampling(self) -> perform.Settings:
        """What the performing loop needs of them."""
        return perform.Settings(
            sigmas=self.sigmas, seed=self.seed, length=self.length, overlap=self.overlap, solver=self.solver
        )


def settle(job: Job, defaults: Defaults, picture: Size | None = None) -> Settings:
    """The job's settings, or the model's where the job has none. Raises ValueError if they do not fit.

    picture is the (width, height) of what the clip is to look like, where that is known.
    """
    shift = job.shift or defaults.shift
    return Settings(
        mode=job.mode,
        steps=job.steps or defaults.steps,
        seed=job.seed,
        size=_size(job, defaults, picture),
        frames=job.frames,
        fps=job.fps or defaults.fps,
        handoff=_handoff(job.handoff, defaults),
        guidance=_guidance(job.guidance, defaults),
        solver=job.solver or defaults.solver,
        shift=shift,
        length=defaults.length,
        overlap=defaults.overlap,
        start=defaults.starts.get(job.solver or defaults.solver, 1.0),
        end=None if defaults.least is None or job.solver is not None else shift_sigma(defaults.least, shift),
    )


def on_grid(size: Size, grid: Size) -> Size:
    """The same size. Raises ValueError with the nearest that fits if it is too small or off the grid."""
    nearest = tuple(max(step * round(side / step), SMALLEST) for side, step in zip(size, grid, strict=True))
    if size != nearest:
        raise ValueError(
            f"The size is {size[0]}x{size[1]}; its width must be a multiple of {grid[0]}, its height of {grid[1]}, "
            f"both {SMALLEST} or more, so the nearest that fits is {nearest[0]}x{nearest[1]}."
        )
    return size


def shaped_as(picture: Size, area: int, grid: Size, rule: ShapeRule = "cut") -> Size:
    """The size on the grid, of about `area` pixels and not more, that has the picture's shape.

    "cut", the rule of Wan's 14B models: height is the root of area / ratio, width is area / height, both cut down to
    the grid. "nearest", that of the 5B model: one side is cut down, the other is as long as the area then allows, and
    of both ways the one whose shape is nearer to the picture's is taken.
    """
    ratio = picture[0] / picture[1]
    width, height = (area * ratio) ** 0.5, (area / ratio) ** 0.5
    wide, high = _cut(width, grid[0]), _cut(height, grid[1])
    if rule == "cut":
        return wide, high
    ways = ((_cut(area / high, grid[0]), high), (wide, _cut(area / wide, grid[1])))
    return min(ways, key=lambda size: max(ratio * size[1] / size[0], size[0] / size[1] / ratio))


def _cut(length: float, step: int) -> int:
    return max(int(length) // step * step, SMALLEST)


def _size(job: Job, defaults: Defaults, picture: Size | None) -> Size:
    if job.size:
        return on_grid(parse_size(job.size), defaults.grid)
    if defaults.shape is not None and picture is not None:
        return shaped_as(picture, defaults.size[0] * defaults.size[1], defaults.grid, defaults.shape)
    return on_grid(defaults.size, defaults.grid)


def _handoff(text: str, defaults: Defaults) -> Handoff:
    handoff = Handoff.parse(text, Handoff(defaults.bounds))
    if handoff.experts != len(defaults.experts):
        wanted = len(defaults.experts) - 1
        if not wanted:
            raise ValueError(f'The handoff is "{text}", but this model is one expert, with none to hand over to.')
        raise ValueError(f'The handoff "{text}" has {len(handoff.bounds)} levels, but this model takes {wanted}.')
    return handoff


def _guidance(text: str | None, defaults: Defaults) -> tuple[float, ...]:
    if text is None:
        return defaults.guidance
    scales, experts = parse_guidance(text), len(defaults.experts)
    if len(scales) not in (1, experts):
        held = "is one expert" if experts == 1 else f"has {experts} experts"
        raise ValueError(f'The guidance "{text}" has {len(scales)} scales, but this model {held}.')
    return scales * experts if len(scales) == 1 else scales
