"""What an engine tells of a job as it goes."""

from collections.abc import Callable
from dataclasses import dataclass

from pasdedeux.animate.perform import Denoised, Ready
from pasdedeux.engine.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The performer was looked for in `frame` (from 1) of about `frames` of the driver's video."""

    frame: int
    frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """Something large is being read: `what` names it."""

    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything is read, conditions drawn: denoising begins."""

    frames: int
    segments: int
    settings: Settings
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """Something about the job that came up while it ran."""

    note: str


Event = Watched | Loading | Prepared | Noted | Denoised | Ready
OnEvent = Callable[[Event], None]
