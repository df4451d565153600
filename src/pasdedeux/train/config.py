"""All that decides a run of the built-in pair, and what each expert is trained on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pasdedeux.denoise import Handoff
from pasdedeux.models.codec import CodecConfig
from pasdedeux.models.duet import DuetConfig
from pasdedeux.train.bands import Levels, bands, equal_bounds, shared_out, shares
from pasdedeux.train.codec import PainterConfig
from pasdedeux.train.loop import TrainConfig

Report = Callable[[str], None]
SAVE_EVERY = 120.0
"""Seconds between checkpoints."""


class Paused(Exception):  # noqa: N818  (not an error: somebody asked)
    """Training was stopped before its end, by request, and goes on from its checkpoint when it is called again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    """All of a training run. Steps of the branches are for each expert on average; the dense model gets their sum.

    `share` says how the experts' steps are shared out: "equal", or by the "density" of their bands. With `patience`,
    an expert ends early when its held-out loss, measured on `judged` clips every `judge_every` steps, has not fallen
    so many times in a row.
    """

    seed: int = 0
    clips: int = 2400
    frames: int = 25
    size: int = 128
    shift: float = 12.0
    bounds: tuple[float, ...] = (0.9,)
    sampling_steps: int = 4
    solver: str = "euler"
    codec: CodecConfig = field(default_factory=CodecConfig)
    model: DuetConfig = field(default_factory=DuetConfig)
    painter: PainterConfig = field(default_factory=PainterConfig)
    trunk: TrainConfig = field(default_factory=TrainConfig)
    branch: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1500, cooldown=1500, warmup=20))
    share: str = "equal"
    patience: int = 0
    judge_every: int = 100
    judged: int = 16


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Where and how a configuration is carried out: `folder` holds clips, checkpoints and results.

    Experts take turns of `block` steps on the branch's device, or, with several `devices`, train at the same time.
    `preview_every` seconds a picture is sampled, if at all. None of this changes what is learnt.
    """

    folder: Path
    config: PairConfig
    report: Report
    processes: int = 2
    stop: Callable[[], bool] = _never
    devices: tuple[str, ...] = ()
    block: int = 50
    save_every: float = SAVE_EVERY
    preview_every: float | None = None


def names(handoff: Handoff) -> tuple[str, ...]:
    """What the experts are called: high and low for a pair, else by number from the noisiest."""
    return ("high", "low") if handoff.experts == 2 else tuple(f"expert{k}" for k in range(handoff.experts))


def bounds_for(handoff: str | None, experts: int | None, default: PairConfig) -> tuple[float, ...]:
    """Where experts hand over: as written, or so that each of so many owns as much of the density; else by default.

    Raises ValueError for a handoff that is none.
    """
    if handoff is not None:
        return Handoff.parse(handoff, Handoff(default.bounds)).bounds
    if experts is not None and experts != len(default.bounds) + 1:
        return equal_bounds(experts, default.shift)
    return default.bounds


def branches(config: PairConfig) -> dict[str, tuple[Levels, TrainConfig]]:
    """Every expert's noise levels and run, noisiest first."""
    handoff = Handoff(config.bounds)
    own = bands(handoff, config.shift)
    steps = shared_out(handoff.experts * config.branch.steps, shares(own, config.share))
    return {
        name: (levels, _run(config, k + 1, count))
        for k, (name, levels, count) in enumerate(zip(names(handoff), own, steps, strict=True))
    }


def dense_run(config: PairConfig) -> TrainConfig:
    """The run of the dense baseline: the steps of all experts."""
    return _run(config, 0, Handoff(config.bounds).experts * config.branch.steps)


def _run(config: PairConfig, number: int, steps: int) -> TrainConfig:
    """The branch's run with another length, cooling down over the same share of it; each branch draws its own data."""
    cooldown = round(config.branch.cooldown * steps / config.branch.steps)
    return replace(config.branch, steps=steps, cooldown=cooldown, seed=config.branch.seed + 1 + number)
