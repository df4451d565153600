"""Retargeting by Wan-Animate's own rule, for those who want exactly what the model's own program would draw.

It differs from `retarget` in what it measures, not in the idea (angles kept, lengths the character's, rebuilt from the
neck): limbs are compared in one frame of the performance, its first, where ours are measured over the whole clip; the
neck moves as the performer's does, over the scale of the whole, where ours lets the lower foot stay on the ground; all
limbs start at the neck, so that the trunk is two lines from neck to hips, each with a ratio of its own. The first
frame must therefore show the performer standing, from the front, limbs stretched. `experiments/2026-11-25-retargeting`
compares the two.

What no drawing shows is left out: coordinates of hands cut to whole pixels, the character's picture scaled to whole
pixels. Low confidence counts as missing here, as the rule means it, where the released program lets such points in.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Keypoints

Float = NDArray[np.float64]
Anchor = Literal["ground", "neck"]

# Limbs (from, to) in the order in which a body is rebuilt: shoulders, arms, legs, head, feet.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (13, 18), (10, 19)),
)
SHOULDER_LIMBS = (0, 1)
LARGER_OF = ((0, 1), (2, 4), (3, 5), (6, 9), (7, 10), (8, 11), (17, 18))
MEAN_OF = ((13, 15), (14, 16))
FEET = ((17, 11), (18, 8))  # a foot, and the calf it hangs on
FOOT_OF_CALF = 0.5
TALL, SEEN = 0.5, 0.4  # confidence of points that tell the scale, and of any others
NOSE, NECK, HIPS, ANKLES, TOES = 0, 1, [8, 11], [10, 13], [19, 18]
WRISTS = (7, 4)  # of the left and the right hand
MISSING = -1.0


def retarget_wan(performance: Keypoints, character: Keypoints, *, base: int = 0) -> Keypoints:
    """The performance's points as Wan-Animate's program lays them into the character's picture, which has one frame.

    base is the frame of the performance whose limbs are compared and which is laid on the character. The face goes with
    the nose, as much larger as the eyes are farther from it, for drawings that need one; Wan-Animate draws none.
    Confidence stays, and so do sides: which hand is which is known here.
    """
    theirs, own = performance.body.astype(np.float64), character.body[0].astype(np.float64)
    scale = overall_scale(theirs[base], own, performance.size, character.size)
    ratios = limb_ratios(theirs[base], own * (scale, scale, 1))
    body = rebuilt(theirs, ratios)
    place = _place(rebuilt(theirs[[base]], ratios, longest_foot=None)[0], own * (scale, scale, 1), theirs[base])
    body[..., :2] = (body[..., :2] - place) / scale
    hands = performance.hands.astype(np.float64)
    hand = max(ratios[k] for k in SHOULDER_LIMBS) / scale
    for side, wrist in enumerate(WRISTS):
        points = hands[:, side, :, :2]
        hands[:, side, :, :2] = body[:, [wrist], :2] + hand * (points - points[:, :1])
    face = performance.face.astype(np.float64)
    face[..., :2] = body[:, [NOSE], :2] + (face[..., :2] - theirs[:, [NOSE], :2]) * ratios[13] / scale
    arrays = {"body": body, "hands": hands, "face": face}
    points = {name: part.astype(np.float32) for name, part in arrays.items()}
    return replace(character, **points)


def overall_scale(theirs: Float, own: Float, size: tuple[int, int], own_size: tuple[int, int]) -> float:
    """How much larger the performer is than the character, bodies [20, 3], in pixels of their pictures' sizes.

    By the height from the ankles to the nose, else from the hips; else by the pictures' areas.
    """
    for low in (ANKLES, HIPS):
        seen = min(body[[NOSE, *low], 2].min() for body in (theirs, own)) > TALL
        heights = [abs(body[low, 1].mean() - body[NOSE, 1]) for body in (theirs, own)]
        if seen and min(heights) > 0:
            return float(heights[0] / heights[1])
    return float(np.sqrt(size[0] * size[1] / (own_size[0] * own_size[1])))


def limb_ratios(theirs: Float, own: Float) -> list[float]:
    """The character's length over the performer's by limb (as in `LIMBS`), of bodies [20, 3] of about one size.

    Where a limb is not seen in both, the mean of the shoulders'; of left and right the larger, of eyes and of ears
    the mean.
    """
    ratios = [_ratio(theirs[[a, b]], own[[a, b]]) for a, b in LIMBS]
    shoulders = [ratios[k] for k in SHOULDER_LIMBS]
    instead = sum(shoulders) / 2 if min(shoulders) != MISSING else 1.0
    ratios = [instead if ratio == MISSING else ratio for ratio in ratios]
    for a, b in LARGER_OF:
        ratios[a] = ratios[b] = max(ratios[a], ratios[b])
    for a, b in MEAN_OF:
        ratios[a] = ratios[b] = (ratios[a] + ratios[b]) / 2
    return ratios


def _ratio(theirs: Float, own: Float) -> float:
    if min(theirs[:, 2].min(), own[:, 2].min()) < SEEN:
        return MISSING
    lengths = [float(np.linalg.norm(ends[0, :2] - ends[1, :2])) for ends in (theirs, own)]
    return lengths[1] / lengths[0] if lengths[0] > 0 else MISSING


def rebuilt(body: Float, ratios: list[float], longest_foot: float | None = FOOT_OF_CALF) -> Float:
    """body [T, 20, 3] with every limb times its ratio, at its angle, outward from the neck, which stays.

    longest_foot: a foot's greatest length, of the calf it hangs on; None lets it be.
    """
    limbs = [ratio * (body[:, b, :2] - body[:, a, :2]) for (a, b), ratio in zip(LIMBS, ratios, strict=True)]
    if longest_foot is not None:
        for foot, calf in FEET:
            length, most = (np.linalg.norm(limbs[k], axis=1, keepdims=True) for k in (foot, calf))
            limbs[foot] = limbs[foot] * np.minimum(1, longest_foot * most / np.maximum(length, 1e-9))
    result = body.copy()
    for (a, b), limb in zip(LIMBS, limbs, strict=True):
        result[:, b, :2] = result[:, a, :2] + limb
    return result


def _place(first: Float, own: Float, theirs: Float) -> Float:
    """How far [2] the rebuilt base frame `first` lies from the character `own`, as large as the performer.

    By the hips' middle and the ground where both show hips and ankles, else by the neck. The character's ground lies
    midway between ankle and toe, the performer's at the ankle, as in the released program.
    """
    if min(body[[*HIPS, *ANKLES], 2].min() for body in (theirs, own)) < SEEN:
        return first[NECK, :2] - own[NECK, :2]
    soles = (own[ANKLES] + own[TOES]) / 2 if own[TOES, 2].min() >= SEEN else own[ANKLES]
    floor = soles[:, 1].max()
    return np.array([first[HIPS, 0].mean() - own[HIPS, 0].mean(), first[ANKLES, 1].max() - floor])
