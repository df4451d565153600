"""A job with every question answered: what the user left open is filled in from the model."""

from dataclasses import dataclass

from pasdedeux.animate import perform
from pasdedeux.denoise import Handoff, schedule
from pasdedeux.engine.job import Job, parse_guidance, parse_size

PUPPET_FRAMES = 49
"""Length of a built-in performance that was not given one: about four seconds at 12 frames per second."""
SMALLEST = 64
"""Pixels a side below which a figure has no face left to animate."""

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a model does where a job says nothing.

    experts: names, noisiest first; bounds: sigmas between them; guidance: of each; start: the schedule's first sigma
    before the shift; length and overlap: frames of a segment; size: (width, height), of which only the area holds
    where `shaped`, the shape being the picture's; grid: width and height are multiples of these.
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
    start: float = 1.0
    shaped: bool = False


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

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels, from the first to 0."""
        return schedule(self.steps, self.shift, start=self.start)

    def sampling(self) -> perform.Settings:
        """What the performing loop needs of them."""
        return perform.Settings(
            sigmas=self.sigmas, seed=self.seed, length=self.length, overlap=self.overlap, solver=self.solver
        )


def settle(job: Job, defaults: Defaults, picture: Size | None = None) -> Settings:
    """The job's settings, or the model's where the job has none. Raises ValueError if they do not fit.

    picture is the (width, height) of what the clip is to look like, where that is known.
    """
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
        shift=job.shift or defaults.shift,
        length=defaults.length,
        overlap=defaults.overlap,
        # Wan's own unipc starts a thousandth below pure noise, its other solvers at it.
        start=defaults.start if job.solver in (None, defaults.solver) else 1.0,
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


def shaped_as(picture: Size, area: int, grid: Size) -> Size:
    """The size on the grid, of about `area` pixels and not more, that is nearest to the picture's shape.

    As in the reference: height is the root of area / ratio, width is area / height, both cut down to the grid.
    """
    ratio = picture[0] / picture[1]
    height = (area / ratio) ** 0.5
    width = area / height
    return max(int(width) // grid[0] * grid[0], SMALLEST), max(int(height) // grid[1] * grid[1], SMALLEST)


def _size(job: Job, defaults: Defaults, picture: Size | None) -> Size:
    if job.size:
        return on_grid(parse_size(job.size), defaults.grid)
    if defaults.shaped and picture is not None:
        return shaped_as(picture, defaults.size[0] * defaults.size[1], defaults.grid)
    return on_grid(defaults.size, defaults.grid)


def _handoff(text: str, defaults: Defaults) -> Handoff:
    handoff = Handoff.parse(text, Handoff(defaults.bounds))
    if handoff.experts != len(defaults.experts):
        wanted = len(defaults.experts) - 1
        raise ValueError(f'The handoff "{text}" has {len(handoff.bounds)} levels, but this model takes {wanted}.')
    return handoff


def _guidance(text: str | None, defaults: Defaults) -> tuple[float, ...]:
    if text is None:
        return defaults.guidance
    scales, experts = parse_guidance(text), len(defaults.experts)
    if len(scales) not in (1, experts):
        raise ValueError(f'The guidance "{text}" has {len(scales)} scales, but this model has {experts} experts.')
    return scales * experts if len(scales) == 1 else scales
