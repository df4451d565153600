"""Where a new shot begins, told from frame to frame while they pass; a fade is none, for nothing begins in it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.preprocess.detector import Bytes

# A cut: colours of the picture's parts differ by more (0..1), pixels do (0..255), and what is light and dark where is
# no longer alike (correlation), which it stays through flashes.
CUT_COLORS, CUT_PIXELS, CUT_ALIKE = 0.25, 22.0, 0.6
CUT_JUMP, BUSY = 2.0, 15.0  # times the change of pixels that is usual around it, which is at most this


class Cutter:
    """Tells where a new shot begins, from one frame to the next."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None
        self._usual = 0.0

    def cuts(self, picture: Bytes) -> bool:
        """Whether this frame is not the continuation of the last one given."""
        now = cv2.resize(picture, (64, 36), interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._before = self._before, now
        if before is None:
            return False
        change = float(np.abs(now - before).mean())
        if change > max(CUT_PIXELS, CUT_JUMP * self._usual) and _is_other(before, now):
            return True
        self._usual += 0.2 * (min(change, BUSY) - self._usual)
        return False


def _is_other(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether two small pictures [36, 64, 3] show different things: by colours part for part, and by light and dark."""
    light = [picture.mean(axis=-1).ravel() - picture.mean() for picture in (before, now)]
    alike = float(light[0] @ light[1]) / max(float(np.linalg.norm(light[0]) * np.linalg.norm(light[1])), 1e-6)
    return alike < CUT_ALIKE and float(np.abs(_colors(before) - _colors(now)).sum(axis=1).mean()) / 2 > CUT_COLORS


def _colors(small: np.ndarray) -> NDArray[np.float64]:
    """The share of 64 colours in each of 4 x 4 parts of a small picture [36, 64, 3]: [16, 64]."""
    index = (small // 64).astype(int) @ np.array([16, 4, 1])
    parts = index.reshape(4, 9, 4, 16).swapaxes(1, 2).reshape(16, -1)
    return np.stack([np.bincount(part, minlength=64) for part in parts]) / parts.shape[1]
