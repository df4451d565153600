"""Light: where it comes from, its colours on the lit and the far side, and the shadow it throws."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

TINTS: Final = (
    (1.0, 1.0, 1.0), (1.0, 0.96, 0.86), (1.0, 0.86, 0.66), (1.0, 0.78, 0.7), (0.84, 0.92, 1.0),
    (0.7, 0.8, 1.0), (0.92, 0.82, 1.0), (0.84, 1.0, 0.9), (1.0, 0.84, 0.92),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """colour, ambient: RGB factors on the lit and on the far side. angle: bearing of the lamp on the
    picture in radians, 0 to the right, pi/2 from above. behind: -1 (in front of the character) to 1
    (behind it). shadow: darkness, 0..1.
    """

    colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    angle: float
    behind: float
    shadow: float

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """The light of this seed. Raises ValueError for a negative seed."""
        if seed < 0:
            raise ValueError(f"a light's seed must be 0 or more, not {seed}")
        rng = np.random.default_rng([seed, 3])
        weights = np.array([3, 3, 2, 1, 2, 1, 1, 0.7, 1])
        tint = np.array(TINTS[rng.choice(len(TINTS), p=weights / weights.sum())])
        strength = rng.uniform(0.12, 0.48)
        lit = tint * (1.0 + 0.24 * strength) * rng.uniform(0.93, 1.05)
        far = (0.6 * tint + 0.4 * np.array([0.82, 0.86, 1.0])) * (1 - 0.75 * strength)
        return cls(
            colour=(float(lit[0]), float(lit[1]), float(lit[2])),
            ambient=(float(far[0]), float(far[1]), float(far[2])),
            angle=float(rng.uniform(0.12, 0.88) * np.pi),
            behind=float(rng.uniform(-1, 1)),
            shadow=float(rng.uniform(0.25, 0.6)),
        )

    def on(self, place: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A place [H, W, 3] in this light, so that the colour of the light can be told from where it falls."""
        wash = (np.array(self.colour) + np.array(self.ambient)) / 2
        return np.clip(np.rint(place * wash), 0, 255).astype(np.uint8)
