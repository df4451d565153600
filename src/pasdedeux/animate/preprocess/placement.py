"""Where a performance stands: a retargeted one in the performer's own pictures, and one that cannot be retargeted.

Retargeting lays the performance on the character's place in the character's picture. For replace mode it goes back to
the performer's: as tall as the performer, and standing, in every frame, on the performer's ground. Where nobody knows
the character's points there is nothing to fit to, and the performance is taken as it is.
"""

import numpy as np

from pasdedeux.animate.images import fit_points, letterbox_of
from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess import proportions as body_plan
from pasdedeux.animate.preprocess.proportions import L_HIP, NECK, NOSE, R_HIP, SEEN

HIPS, ANKLES = [R_HIP, L_HIP], [10, 13]


def in_place(points: Keypoints, performer: Keypoints) -> Keypoints:
    """Retargeted points as tall as the performer and, in every frame, where the performer stands.

    Feet and hips lead where the performer shows both throughout, else the neck. Both have the same T frames. Where
    the views of both pictures are known, they say how tall and where.
    """
    if points.view and performer.view:
        scale = performer.view.unit / points.view.unit
        shift = (performer.view.x - scale * points.view.x, performer.view.y - scale * points.view.y)
        return points.moved((scale, scale), shift, performer.size)
    scale, feet = taller(points.body, performer.body), on_feet(performer.body)
    shift = anchors(performer.body, feet) - scale * anchors(points.body, feet)
    factor = np.array([scale, scale, 1.0], np.float32)
    move = np.concatenate([shift, np.zeros((len(shift), 1))], axis=1).astype(np.float32)
    return Keypoints(
        body=points.body * factor + move[:, None],
        hands=points.hands * factor + move[:, None, None],
        face=points.face * factor + move[:, None],
        size=performer.size,
    )


def taller(points: np.ndarray, performer: np.ndarray) -> float:
    """The performer's size over the points' (bodies [T, 20, 3]): whole figures where both show them, else parts."""
    ours, theirs = tallness(points), tallness(performer)
    if ours is not None and theirs is not None:
        return theirs / ours
    return body_plan.scale(body_plan.with_hips(points), body_plan.with_hips(performer)) or 1.0


def tallness(body: np.ndarray) -> float | None:
    """Pixels from the lower ankle to the nose where body [T, 20, 3] stands tallest; None if it is never seen whole."""
    seen = (body[:, [NOSE, *ANKLES], 2] >= SEEN).all(axis=1)
    if not seen.any():
        return None
    heights = body[seen][:, ANKLES, 1].max(axis=1) - body[seen, NOSE, 1]
    return max(float(np.percentile(heights, 90)), 1.0)


def on_feet(body: np.ndarray) -> bool:
    """Whether hips and ankles are seen in every frame of body [T, 20, 3]."""
    return bool((body[:, [*HIPS, *ANKLES], 2] >= SEEN).all())


def anchors(body: np.ndarray, feet: bool) -> np.ndarray:
    """Where a figure stands, [T, 2]: between the hips at the lower ankle's height (`feet`), or its neck."""
    if not feet:
        return body[:, NECK, :2]
    return np.stack([body[:, HIPS, 0].mean(axis=1), body[:, ANKLES, 1].max(axis=1)], axis=-1)


def known(character: Keypoints) -> bool:
    """Whether anything of the character's body is known, so that a performance can be fitted to it."""
    return bool((character.body[..., 2] >= SEEN).any())


def unfitted(performance: Keypoints, size: tuple[int, int]) -> tuple[Keypoints, str]:
    """The performance as it is, as large as fits into an output of `size` (width, height); and what is to be said."""
    note = (
        "the character's pose is not known, so the performance keeps the performer's proportions and place; "
        "a character's own keypoints would fit it to the character"
    )
    return fit_points(performance, letterbox_of(performance.size, size)), note
