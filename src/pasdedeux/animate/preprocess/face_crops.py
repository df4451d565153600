"""Pictures of the performer's face, as Wan-Animate's motion encoder was trained on: one square a frame.

The box is Wan-Animate's: the extent of the 68 face points with its area times 1.3, three quarters of the added height
above, cut at the edge of the frame, its shape stretched to a square. It is measured and cut in the driver's own pixels
where those are known, which show a small face best. What is added is what a real clip needs: points of low confidence
do not count, the box does not tremble, and a face that is not there is held for a moment and then black, which is what
the model was taught to read as no expression given.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Clip, Performance
from pasdedeux.animate.preprocess.smooth import gaussian

Bytes = NDArray[np.uint8]
SIDE = 512
"""Pixels along the side of a crop of the released model."""

LANDMARKS = 68  # the two pupils behind them are not counted
SEEN = 0.5
ENOUGH = LANDMARKS // 2
"""Points that must be seen for a face to be there."""
AREA = 1.3
SMOOTHING = 0.05  # seconds: the Gaussian's standard deviation
HELD = 0.3  # seconds
SMALLEST = 4  # pixels along a side
VISIBLE = 0.25
"""Share of the box that must lie within the frame."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceCrops:
    """A clip of crops, cut when they are asked for: `crops[[0, 1]]` is uint8 [2, side, side, 3].

    boxes [T, 4]: left, top, right, bottom in whole pixels of the frames, pictures [H, W, 3] that are read one at a
    time; source [T]: the frame shown, -1 where none is. frames may be None where no source says one.
    """

    frames: Clip | None
    boxes: NDArray[np.int64]
    source: NDArray[np.int64]
    side: int = SIDE

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: list[int], /) -> Bytes:
        return np.stack([self._crop(int(self.source[i])) for i in index])

    @property
    def missing(self) -> int:
        """Frames that show nothing."""
        return int((self.source < 0).sum())

    def _crop(self, frame: int) -> Bytes:
        if frame < 0 or self.frames is None:
            return np.zeros((self.side, self.side, 3), np.uint8)
        left, top, right, bottom = self.boxes[frame]
        (picture,) = self.frames[[frame]]
        return cv2.resize(picture[top:bottom, left:right], (self.side, self.side)).astype(np.uint8)


def face_crops(performance: Performance, side: int = SIDE) -> FaceCrops:
    """The crops of a performance: all black where its pictures are not known."""
    frames, points, size = _pictured(performance)
    wanted, seen = face_boxes(points)
    steady = steadied(wanted, seen, SMOOTHING * performance.fps)
    boxes, inside = cut(steady, size)
    there = seen & inside & (frames is not None)
    source = held(there, round(HELD * performance.fps))
    return FaceCrops(frames=frames, boxes=boxes, source=source, side=side)


def no_faces(frames: int, side: int = SIDE) -> FaceCrops:
    """Crops of a clip in which no face is known."""
    nowhere = np.zeros((frames, 4), np.int64)
    return FaceCrops(frames=None, boxes=nowhere, source=np.full(frames, -1, np.int64), side=side)


def _pictured(performance: Performance) -> tuple[Clip | None, NDArray[np.float64], tuple[int, int]]:
    """The pictures that show the face best, the face [T, 70, 3] in their pixels, and their (width, height)."""
    face, placed = performance.keypoints.face.astype(np.float64), performance.placed
    if performance.source is None or placed is None:
        return performance.frames, face, performance.keypoints.size
    face[..., :2] = (face[..., :2] - (placed.left, placed.top)) / placed.scale
    return performance.source, face, placed.source


def face_boxes(face: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of face points [T, 70, 3]: boxes [T, 4] (left, top, right, bottom), and in which frames [T] there is one."""
    points = face[:, :LANDMARKS].astype(np.float64)
    counted = points[..., 2] >= SEEN
    low = np.where(counted[..., None], points[..., :2], np.inf).min(axis=1)
    high = np.where(counted[..., None], points[..., :2], -np.inf).max(axis=1)
    seen = (counted.sum(axis=1) >= ENOUGH) & (high - low >= 1).all(axis=1)
    low, high = (np.where(seen[:, None], side, 0.0) for side in (low, high))
    grown = (high - low) * (AREA**0.5 - 1) / 2
    above_below = grown[:, 1] * np.array([[1.5], [0.5]])
    left, right = low[:, 0] - grown[:, 0], high[:, 0] + grown[:, 0]
    top, bottom = low[:, 1] - above_below[0], high[:, 1] + above_below[1]
    return np.stack([left, top, right, bottom], axis=-1), seen


def steadied(boxes: NDArray[np.float64], seen: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """Boxes [T, 4] averaged over time by a Gaussian of `sigma` frames.

    A frame counts only together with the one as far away on the other side, so that a face in steady motion stays in
    its box at gaps and at the clip's ends, and only where its box lies near, so that a cut stays a cut.
    """
    kernel = gaussian(sigma)
    reach, count = len(kernel) // 2, len(boxes)
    total, weight = boxes * kernel[reach], np.full((count, 1), kernel[reach])
    frames = np.arange(count)
    for away in range(1, reach + 1):
        before, after = np.maximum(frames - away, 0), np.minimum(frames + away, count - 1)
        both = (frames >= away) & (frames < count - away) & seen & seen[before] & seen[after]
        both &= _near(boxes, boxes[before]) & _near(boxes, boxes[after])
        share = kernel[reach + away] * both[:, None]
        total, weight = total + share * (boxes[before] + boxes[after]), weight + 2 * share
    return total / weight


def _near(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the middles [T] are closer to one another than half a box."""
    moved = np.abs((others[:, :2] + others[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) / 2
    near = moved <= (boxes[:, 2:] - boxes[:, :2]) / 2
    return near[:, 0] & near[:, 1]


def cut(boxes: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Boxes cut at the edges of a frame of (width, height), in whole pixels; and where enough of them is left."""
    limit = np.array([*size, *size], np.float64)
    whole = np.clip(boxes, 0, limit).astype(np.int64)
    sides, before = whole[:, 2:] - whole[:, :2], boxes[:, 2:] - boxes[:, :2]
    return whole, (sides >= SMALLEST).all(axis=1) & (sides.prod(axis=1) >= VISIBLE * before.prod(axis=1))


def held(there: NDArray[np.bool_], longest: int) -> NDArray[np.int64]:
    """For each frame the one whose face is shown: its own, else the last one for up to `longest` frames, else -1."""
    frames = np.arange(len(there))
    last = np.maximum.accumulate(np.where(there, frames, -1))
    return np.where((last >= 0) & (frames - last <= longest), last, -1)
