"""Clips of an evaluation as one picture: a row for the truth and for every arm, a few moments of a few clips across."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import save_png
from pasdedeux.animate.outputs import check_writable
from pasdedeux.train.evaluate import Answer

Bytes = NDArray[np.uint8]
MOMENTS, CLIPS = [4, 12, 20], 4
HIDDEN = "codec"
"""The codec's own row would look like the truth."""
FONT, LETTERS, MARGIN = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 8


class Strip:
    """Show it every answer; it keeps `MOMENTS` of the first `CLIPS` clips, and no other frames."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, Bytes]] = {"truth": {}}

    def look(self, answer: Answer) -> None:
        """Take in one answer."""
        if answer.clip >= CLIPS or answer.arm == HIDDEN:
            return
        self._rows["truth"][answer.clip] = answer.truth[MOMENTS]
        self._rows.setdefault(answer.arm, {})[answer.clip] = answer.frames[MOMENTS]

    def picture(self) -> Bytes:
        """[H, W, 3] of what was shown: rows in the order of their first answer, each labelled on its left."""
        wide = max(cv2.getTextSize(name, FONT, LETTERS, 1)[0][0] for name in self._rows) + 2 * MARGIN
        rows = (labelled(name, side_by_side(clips), wide) for name, clips in self._rows.items())
        return np.concatenate(list(rows))


def side_by_side(clips: dict[int, Bytes]) -> Bytes:
    """Moments [n, H, W, 3] of clips in a row, the clips parted by a white line."""
    parts: list[Bytes] = []
    for _, moments in sorted(clips.items()):
        parts += [np.concatenate(list(moments), axis=1), np.full((moments.shape[1], 2, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def labelled(name: str, row: Bytes, wide: int) -> Bytes:
    """A row behind a white band `wide` pixels wide that says its name."""
    band = np.full((len(row), wide, 3), 255, np.uint8)
    cv2.putText(band, name, (MARGIN, len(row) // 2 + 5), FONT, LETTERS, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([band, row], axis=1)


def check_strip_name(path: Path) -> None:
    """Raise ValueError where the picture could not be written, before the work is done."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"The strip is to be {path}; its name must end in .png.")
    check_writable(path)


def write_strip(strip: Strip, path: Path) -> None:
    """The picture into a PNG."""
    save_png(path, strip.picture(), {})
