"""Everybody in a picture, offline: MediaPipe's pose detector on the picture and its parts, each find looked at again.

The detector sees 224x224 pixels, so small people are searched for in square parts of the picture that overlap. What it
takes for somebody is believed where the models that look closer find a face there, or a large figure seen from behind
twice over; their points also say how far the figure reaches.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pasdedeux.animate.preprocess.detector import Box, Bytes, Person
from pasdedeux.animate.preprocess.graphs import FinderGraph, Found, LookerGraph, Place

LEAST = 0.5  # the detector's score
OVERLAP = 0.3
ALWAYS = 1  # parts of the picture's shorter side that are searched whoever was found
LONGISH = 1.4  # sides of a picture from which on its squares show more than it does as a whole
TALL = 0.4  # of the picture's height: where somebody is as tall as this, nobody smaller is searched for
DARK, LIGHT = 50.0, 0.4  # mean brightness of 0..255 below which a picture is dark; the share of 255 it is brought to

NOSE, EARS, SHOULDERS, BELOW = 0, (7, 8), (11, 12), slice(11, 33)
SEEN, REACHES = 0.5, 0.3
SAME_NEAR, SAME_RATIO = 0.15, 1.4
SURE, FACELESS = 0.75, 1  # the score and the finest search with which a figure without a face is believed
SAME_HEAD = 0.5  # of the distance from nose to shoulders


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Figure:
    """Somebody who was looked at: 33 points [33, 3], where they are, and what the detector gave."""

    pose: np.ndarray
    place: Place
    score: float

    @property
    def neck(self) -> float:
        """From the nose to the middle between the shoulders, in pixels."""
        return float(np.linalg.norm(self.pose[NOSE, :2] - self.pose[list(SHOULDERS), :2].mean(axis=0)))


class BlazeFinder:
    """A `PersonFinder` with the models in mediapipe's wheel. `deepest`: parts of the shorter side at the finest."""

    def __init__(self, *, deepest: int = 3) -> None:
        self._finder, self._looker = FinderGraph(LEAST), LookerGraph(whole=False)
        self._deepest = deepest

    def find(self, picture: Bytes) -> list[Person]:
        """Everybody in uint8 [H, W, 3], surest first. A dark picture in which nobody is found is brightened."""
        figures = self._figures(picture)
        if not figures and is_dark(picture):
            figures = self._figures(brightened(picture))
        size = (picture.shape[1], picture.shape[0])
        people = [Person(box=figure_box(figure.pose, size), score=figure.score) for figure in figures]
        return sorted(people, key=lambda person: -person.score)

    def close(self) -> None:
        """Let go of the models."""
        self._finder.close()
        self._looker.close()

    def _figures(self, picture: Bytes) -> list[_Figure]:
        figures: list[_Figure] = []
        for parts in range(self._deepest + 1):
            if parts > ALWAYS and _tallest(figures, picture) >= TALL:
                break
            if parts == 1 and max(picture.shape[:2]) < LONGISH * min(picture.shape[:2]):
                continue
            for found in self._searched(picture, parts):
                if not any(_same_place(found.place, figure.place) for figure in figures):
                    figures = _with(figures, self._looked_at(picture, found, parts))
        return figures

    def _searched(self, picture: Bytes, parts: int) -> list[Found]:
        """What the detector sees in the parts of a picture, surest first, in the picture's pixels."""
        size = (picture.shape[1], picture.shape[0])
        found = [
            Found(score=person.score, place=person.place.moved(left, top))
            for left, top, side in squares(size, parts)
            for person in self._finder.find(picture[top : top + side, left : left + side])
        ]
        return sorted(found, key=lambda person: -person.score)

    def _looked_at(self, picture: Bytes, found: Found, parts: int) -> _Figure | None:
        """Whom the detector took for somebody, if they are."""
        look = self._looker.look(picture, found.place)
        if look.pose is None or look.place is None or not is_somebody(look.pose):
            return None
        if look.face is None and (parts > FACELESS or found.score < SURE):
            return None
        if look.face is None or parts > FACELESS:
            again = self._looker.look(picture, look.place)
            if again.place is None or not _same_place(again.place, look.place):
                return None
        return _Figure(pose=look.pose, place=look.place, score=found.score)


def squares(size: tuple[int, int], parts: int) -> Iterator[tuple[int, int, int]]:
    """Square parts of a picture of (width, height) as left, top, side in pixels; 0 parts is the picture as a whole.

    They overlap by 30 % or more and cover everything, with `parts` of them along the shorter side.
    """
    if parts == 0:
        yield 0, 0, max(size)
        return
    side = math.ceil(min(size) / (parts - (parts - 1) * OVERLAP))
    for top, left in itertools.product(_starts(size[1], side), _starts(size[0], side)):
        yield left, top, side


def _starts(length: int, side: int) -> list[int]:
    count = max(math.ceil((length / side - OVERLAP) / (1 - OVERLAP) - 1e-3), 1)
    return [round(start) for start in np.linspace(0, max(length - side, 0), count)]


def is_somebody(pose: np.ndarray) -> bool:
    """Whether BlazePose's points [33, 3] show a head and shoulders that belong together."""
    head, shoulders = pose[NOSE], pose[list(SHOULDERS)]
    if min(head[2], shoulders[:, 2].max()) < SEEN:
        return False
    ears = np.linalg.norm(pose[EARS[0], :2] - pose[EARS[1], :2])
    neck = np.linalg.norm(head[:2] - shoulders[:, :2].mean(axis=0))
    return bool(neck > 0.25 * max(ears, np.linalg.norm(shoulders[0, :2] - shoulders[1, :2]) / 2))


def figure_box(pose: np.ndarray, size: tuple[int, int]) -> Box:
    """The box about BlazePose's points [33, 3] that are seen, with room for hair and fingers, cut at the picture."""
    width, height = size
    inside = ((pose[:, :2] >= 0) & (pose[:, :2] < size)).all(axis=1)
    shown = pose[(inside & (pose[:, 2] >= REACHES)) | (np.arange(len(pose)) <= max(SHOULDERS)), :2]
    neck = float(np.linalg.norm(pose[NOSE, :2] - pose[list(SHOULDERS), :2].mean(axis=0)))
    (left, top), (right, bottom) = shown.min(axis=0) - [0.4 * neck, 0.6 * neck], shown.max(axis=0) + 0.4 * neck
    left, right = np.clip([left, right], 0, width)
    top, bottom = np.clip([top, bottom], 0, height)
    return float(left), float(top), float(right), float(bottom)


def _same_place(one: Place, other: Place) -> bool:
    away, ratio, _ = one.apart(other)
    return away < SAME_NEAR and ratio < SAME_RATIO


def _with(figures: list[_Figure], new: _Figure | None) -> list[_Figure]:
    """One more, if they are none of those known: whoever has the same head is the same person."""
    if new is None or any(_same_head(new, figure) for figure in figures):
        return figures
    return [*figures, new]


def _same_head(one: _Figure, other: _Figure) -> bool:
    apart = float(np.linalg.norm(one.pose[NOSE, :2] - other.pose[NOSE, :2]))
    return apart < SAME_HEAD * max(one.neck, other.neck)


def _tallest(figures: list[_Figure], picture: Bytes) -> float:
    """Of the figures' boxes, as a share of the picture's height; 0 without figures."""
    size = (picture.shape[1], picture.shape[0])
    boxes = [figure_box(figure.pose, size) for figure in figures]
    return max((box[3] - box[1] for box in boxes), default=0.0) / size[1]


def is_dark(picture: Bytes) -> bool:
    """Whether uint8 [H, W, 3] is too dark for the models, which then are shown `brightened`."""
    return float(picture[::4, ::4].mean()) < DARK


def brightened(picture: Bytes) -> Bytes:
    """A dark picture made light: a gamma that brings its mean to 0.4 of white, then local contrast (CLAHE)."""
    mean = min(max(float(picture[::4, ::4].mean()), 1.0), 200.0) / 255
    table = (255 * (np.arange(256) / 255) ** (math.log(LIGHT) / math.log(mean))).round().astype(np.uint8)
    lab = cv2.cvtColor(cv2.LUT(picture, table), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8)
