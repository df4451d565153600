"""Where it happens: painted backdrops with a floor, a horizon and things, one per seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from .easel import Easel, Rng
from .indoors import room, stage, studio
from .outdoors import beach, night, park, snow, street

SCENES: Final[dict[str, Callable[[Easel, Rng], None]]] = {
    "room": room,
    "street": street,
    "park": park,
    "beach": beach,
    "stage": stage,
    "night": night,
    "snow": snow,
    "studio": studio,
}
KINDS: Final = tuple(SCENES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """kind: one of KINDS. seed: everything else about it."""

    kind: str
    seed: int

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """The place of this seed. Raises ValueError for a negative seed."""
        if seed < 0:
            raise ValueError(f"a place's seed must be 0 or more, not {seed}")
        rng = np.random.default_rng([seed, 2])
        return cls(kind=str(rng.choice(KINDS)), seed=seed)

    def draw(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The empty place as RGB [H, W, 3] for a size of (width, height)."""
        easel = Easel(size)
        SCENES[self.kind](easel, np.random.default_rng([self.seed, 22]))
        return easel.picture()
