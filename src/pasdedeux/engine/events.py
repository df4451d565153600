"""What an engine tells of a job as it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pasdedeux.animate.perform import Denoised, Ready
from pasdedeux.engine.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The driver is looked through: `what` is being done, and was done for `frame` (from 1) of `frames`."""

    what: str
    frame: int
    frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What was found in the driver can be looked at in `picture`; warnings are sentences on it."""

    picture: Path
    warnings: tuple[str, ...]


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


Event = Watched | Found | Loading | Prepared | Noted | Denoised | Ready
OnEvent = Callable[[Event], None]
