"""What there is to say of a prepared driver, and to show: doubts in words, and the picture by which to judge it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.prepared import PreparedDriver
from pasdedeux.animate.preprocess.detector import Box
from pasdedeux.animate.preprocess.face_crops import ENOUGH, LANDMARKS, face_crops
from pasdedeux.animate.preprocess.overlay import Look

SEEN = 0.5
SMALL_FACE = 64  # pixels across, in the driver: fewer show little of an expression


def doubts(keypoints: Keypoints) -> Iterator[str]:
    """What is to be said of points that are good and may be too few."""
    total = len(keypoints)
    faces = (keypoints.face[:, :LANDMARKS, 2] >= SEEN).sum(axis=1) >= ENOUGH
    if not faces.any():
        yield "No face is seen, so no expression is taken over."
        return
    if (~faces).any():
        yield f"No whole face is seen in {int((~faces).sum())} of {total} frames."
    across = np.where(keypoints.face[..., 2] >= SEEN, keypoints.face[..., 0], np.nan)[faces, :LANDMARKS]
    width = float(np.median(np.nanmax(across, axis=1) - np.nanmin(across, axis=1)))
    if width < SMALL_FACE:
        yield f"The face is {width:.0f} pixels wide; below {SMALL_FACE} little of its expression shows."


def look_of(prepared: PreparedDriver, title: str) -> Look:
    """What the picture to judge by shows of a prepared driver."""
    performance = prepared.performance()
    crops = face_crops(performance)

    def box(i: int) -> Box | None:
        return box_of(crops.boxes[i]) if crops.source[i] == i else None

    return Look(
        title=title,
        keypoints=prepared.keypoints,
        fps=prepared.fps,
        picture=lambda i: prepared.source[[i]][0],
        mask=lambda i: prepared.mask[[i]][0],
        face=lambda i: crops[[i]][0],
        box=box,
        warnings=prepared.warnings,
        notes=prepared.notes,
    )


def title_of(driver: Path, prepared: PreparedDriver) -> str:
    """The driver in one line."""
    width, height = prepared.source.size
    count, people = len(prepared), prepared.record.get("people", 1)
    frames = f"{count} frame{'' if count == 1 else 's'}, {count / prepared.fps:.1f} s at {prepared.fps:g} fps"
    who = "one person" if people == 1 else f"person {prepared.record.get('person', 1)} of {people}"
    return f"{driver.name}: {frames}, {width}x{height}, {who}"


def box_of(box: NDArray[Any]) -> Box:
    """Four numbers as a box."""
    left, top, right, bottom = (float(side) for side in box)
    return left, top, right, bottom
