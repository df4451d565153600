"""What finds people in pictures: the records that pass between the stages, and the protocols that backends keep.

Stages, in order: a `PersonFinder` says where people are in single pictures; `tracking` makes of that who is who in a
clip, and one of them is chosen; a `PoseDetector` looks at that one, frame by frame; a `Masker` says which pixels are
theirs, where the pose detector does not.

A box is (left, top, right, bottom) in pixels of the picture it lies in; a picture is uint8 [H, W, 3], RGB, upright.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Keypoints

Bytes: TypeAlias = NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]

HELP = "one real person, well lit, facing the camera and at least a quarter as tall as the picture, is found best"
"""What to do where nobody is found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Somebody in a picture: the whole figure's box as far as it is known, and how sure that is, 0..1."""

    box: Box
    score: float


class PersonFinder(Protocol):
    """Whatever finds any number of people in one picture."""

    def find(self, picture: Bytes) -> list[Person]:
        """Everybody who is seen, surest first; nobody is an empty list."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sighting:
    """One person in one picture: points as in `Keypoints`, without its first axis, confidence 0 where nothing is seen.

    body [20, 3], hands [2, 21, 3], face [70, 3], all float32 in pixels of the whole picture. mask uint8 [H, W], 255 on
    the person, or None where the detector makes none.
    """

    body: NDArray[np.float32]
    hands: NDArray[np.float32]
    face: NDArray[np.float32]
    mask: Bytes | None = None


class PoseDetector(Protocol):
    """Whatever finds one person's points in consecutive frames."""

    name: str
    """Who it is, for records and caches: library, model and version."""

    def watch(self, frames: Iterable[tuple[Bytes, Box | None]], fps: float) -> Iterator[Sighting]:
        """One sighting per frame. A frame comes with the box of the person who is meant, None where that is not known.

        All frames have one size; fps tells how far apart in time they are. Nothing is kept of frames that are past.
        """
        ...


class Masker(Protocol):
    """Whatever finds the pixels of a person whose points are known."""

    name: str

    def masks(self, frames: Iterable[Bytes], keypoints: Keypoints) -> Iterator[Bytes]:
        """One uint8 [H, W] per frame, 255 on the person; keypoints are in the frames' pixels."""
        ...
