"""A cast set up for the model: the performance in the character's proportions, in the mode's place."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.condition.duet import (
    DuetStage,
    Scene,
    draw_planes,
    driver_scene,
    stature,
    still_scene,
)
from pasdedeux.animate.inputs import InputError, Keypoints, Performance
from pasdedeux.animate.perform import Bytes, SegmentCondition
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.engine.model import Model, prompt_on
from pasdedeux.engine.sources import Cast

NOSE, NECK, HIPS, ANKLES = 0, 1, (8, 11), (10, 13)
SEEN = 0.3
"""Confidence from which a joint counts as seen."""


class DeviceStage:
    """A stage whose conditions are moved to the experts' device, once per segment; pictures stay."""

    def __init__(self, stage: DuetStage, device: str) -> None:
        self._stage, self._device = stage, device

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return self._stage.frames

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """As the inner stage, on the device."""
        what = self._stage.condition(index, handed)
        return SegmentCondition(shape=what.shape, cond=prompt_on(what.cond, self._device))

    def decode(self, latent: Tensor) -> Iterator[Bytes]:
        """As the inner stage."""
        return self._stage.decode(latent)


def set_up(cast: Cast, mode: str, model: Model) -> DeviceStage:
    """The stage of a job. Raises InputError where replace mode lacks the performer's pictures."""
    points = retarget(cast.performance.keypoints, cast.character.keypoints)
    if mode == "replace":
        points = in_place(points, cast.performance.keypoints)
    planes = draw_planes(cast.character, points, scene_of(cast, mode))
    stage = DuetStage(planes=planes, codec=model.codec, dtype=model.manifest.compute)
    return DeviceStage(stage, model.device)


def scene_of(cast: Cast, mode: str) -> Scene:
    """The character's place (animate) or the performer's (replace), emptied."""
    if mode == "animate":
        return still_scene(cast.character)
    performance: Performance = cast.performance
    if performance.frames is None or performance.mask is None:
        raise InputError(
            "Replace mode needs the driver's pictures and mask, but only its keypoints are known."
        )
    return driver_scene(performance.frames, performance.mask)


def in_place(points: Keypoints, performer: Keypoints) -> Keypoints:
    """Retargeted points as tall as the performer and standing, in every frame, where the performer stands.

    Feet and hips lead where both are seen throughout, else the neck.
    """
    scale = tallness(performer) / tallness(points)
    shift = anchors(performer) - scale * anchors(points, like=performer)
    factor = np.array([scale, scale, 1.0], np.float32)
    move = np.concatenate([shift, np.zeros((len(shift), 1))], axis=1).astype(np.float32)
    return Keypoints(
        body=points.body * factor + move[:, None],
        hands=points.hands * factor + move[:, None, None],
        face=points.face * factor + move[:, None],
        size=performer.size,
    )


def tallness(points: Keypoints) -> float:
    """Pixels from the lower ankle to the nose where the figure stands tallest; else the torso's length."""
    body = points.body
    seen = (body[:, (NOSE, *ANKLES), 2] >= SEEN).all(axis=1)
    if not seen.any():
        return stature(points)
    heights = body[seen][:, ANKLES, 1].max(axis=1) - body[seen][:, NOSE, 1]
    return max(float(np.percentile(heights, 90)), 1.0)


def anchors(points: Keypoints, like: Keypoints | None = None) -> NDArray[np.float32]:
    """Where a figure stands, [T, 2]: between the hips at the lower ankle's height, or the neck.

    `like` decides which of the two where two figures are compared.
    """
    led = like or points
    body = points.body
    if not (led.body[:, (*HIPS, *ANKLES), 2] >= SEEN).all():
        return body[:, NECK, :2]
    return np.stack([body[:, HIPS, 0].mean(axis=1), body[:, ANKLES, 1].max(axis=1)], axis=-1)
