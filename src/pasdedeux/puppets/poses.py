"""What a performance is, independent of who performs it: joint angles, root movement and face parameters
per frame.
"""

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

LAYOUT: Final[dict[str, tuple[int, ...]]] = {
    "root": (3,),
    "pelvis": (3,),
    "spine": (3,),
    "head": (3,),
    "arms": (2, 4),
    "legs": (2, 4),
    "feet": (2,),
    "hands": (2, 4),
    "eyes": (4,),
    "brows": (3,),
    "mouth": (3,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Poses:
    """T frames of a performance. Angles in radians; pairs are (right, left) of the subject.

    root [T, 3]: sideways, height of the lowest foot above the floor, towards the viewer, in leg lengths.
    pelvis, spine, head [T, 3]: pitch (forward), yaw (to the subject's left), roll, each relative to its
    parent. arms [T, 2, 4]: flex (forward), abduct (sideways), twist (inward), elbow. legs [T, 2, 4]: the
    same, with knee. feet [T, 2]: toe up. hands [T, 2, 4]: wrist bend, finger curl 0..1, spread 0..1,
    roll. eyes [T, 4]: right and left closure 0..1, gaze x and y -1..1. brows [T, 3]: right and left
    raise, frown, -1..1. mouth [T, 3]: open 0..1, width -1..1, smile -1..1.
    """

    root: NDArray[np.float32]
    pelvis: NDArray[np.float32]
    spine: NDArray[np.float32]
    head: NDArray[np.float32]
    arms: NDArray[np.float32]
    legs: NDArray[np.float32]
    feet: NDArray[np.float32]
    hands: NDArray[np.float32]
    eyes: NDArray[np.float32]
    brows: NDArray[np.float32]
    mouth: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.root)

    def __getitem__(self, frames: slice) -> Self:
        """A part of the performance; only slices, so that every field keeps its time axis."""
        return type(self)(**{f.name: getattr(self, f.name)[frames] for f in fields(self)})

    @classmethod
    def still(cls, frames: int = 1) -> Self:
        """Standing at ease, facing us, arms slightly away from the body."""
        values = {name: np.zeros((frames, *shape), np.float32) for name, shape in LAYOUT.items()}
        values["arms"][:] = (0.06, 0.32, 0.1, 0.22)
        values["legs"][:] = (0.0, 0.07, 0.0, 0.02)
        values["hands"][:] = (0.0, 0.22, 0.25, 0.9)
        values["mouth"][:, 2] = 0.35
        values["brows"][:, :2] = 0.15
        return cls(**values)

    @classmethod
    def reference(cls, seed: int) -> Self:
        """One frame near `still`, with small variations by seed: for pictures of a character."""
        rng = np.random.default_rng([seed, 77])
        base = cls.still()
        values = {f.name: getattr(base, f.name).copy() for f in fields(base)}
        small = {
            "pelvis": 0.05,
            "spine": 0.03,
            "head": 0.07,
            "arms": 0.1,
            "legs": 0.03,
            "hands": 0.08,
            "brows": 0.2,
        }
        for name, amount in small.items():
            values[name] += rng.uniform(-amount, amount, values[name].shape).astype(np.float32)
        values["arms"][..., 3] = np.abs(values["arms"][..., 3])
        values["pelvis"][:, 1] += np.float32(rng.uniform(-0.15, 0.15))
        values["eyes"][:, 2:] = rng.uniform(-0.25, 0.25, (1, 2))
        values["mouth"][:] = (rng.choice([0.0, 0.0, 0.3]), rng.uniform(-0.1, 0.4), rng.uniform(0.35, 0.95))
        return cls(**values)
