"""What a detector of people is: the record it returns and the Protocol it keeps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pasdedeux.animate.inputs import Keypoints


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detected:
    """Keypoints of T frames (confidence 0 where nothing was seen) and mask uint8 [T, H, W], 255 on the
    person.
    """

    keypoints: Keypoints
    mask: np.ndarray


class Detector(Protocol):
    """Whatever finds one person in consecutive frames."""

    def detect(self, frames: Iterable[np.ndarray], fps: float) -> Detected:
        """frames: at least one, uint8 [H, W, 3] RGB, all of one size; fps tells how far apart in time they
        are.
        """
        ...
