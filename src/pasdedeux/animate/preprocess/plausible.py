"""Points that cannot be are not believed: limbs too long, leaps there and back, left for right, one hand found twice.

A detector names a place for everything it is asked for. Here the whole clip judges it: lengths by the clip's own, after
the figure's size in each frame, and motion by what a body can do. What is wrong gets confidence 0 and nothing takes
its place, except that left and right are exchanged back where they were mistaken for one another for a moment.
Foreshortened limbs, profiles and people who sit are no errors, so nothing is ever too short or too narrow by itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.leaps import LEAP_FPS, leaps, swaps
from pasdedeux.animate.preprocess.smooth import shots

Flags = NDArray[np.bool_]
SEEN = 0.5
STEADY = 0.5  # seconds over which the figure's size is the median

PARTS = {
    "head": (0, 14, 15, 16, 17),
    "body": (1, 2, 5, 8, 11),
    "left arm": (6, 7),
    "right arm": (3, 4),
    "left leg": (12, 13, 18),
    "right leg": (9, 10, 19),
}
SIDES = ("left hand", "right hand")
WRISTS, ELBOWS = (7, 4), (6, 3)
# Bones (parent, child) from the trunk outward, and what hangs on each child.
BONES = (
    (1, 2),
    (2, 3),
    (3, 4),
    (1, 5),
    (5, 6),
    (6, 7),
    (8, 9),
    (9, 10),
    (10, 19),
    (11, 12),
    (12, 13),
    (13, 18),
    (1, 0),
)
BELOW = {
    2: (3, 4),
    5: (6, 7),
    3: (4,),
    6: (7,),
    8: (9, 10, 19),
    9: (10, 19),
    11: (12, 13, 18),
    12: (13, 18),
    10: (19,),
    13: (18,),
}
TWINS = {(1, 2): (1, 5), (2, 3): (5, 6), (3, 4): (6, 7), (8, 9): (11, 12), (9, 10): (12, 13), (10, 19): (13, 18)}
TWIN = TWINS | {b: a for a, b in TWINS.items()}
TOO_LONG = 1.6  # times what is usual
TORSO, FACE = 0.65, 2.5  # widths of the shoulders in lengths of neck to hips, and of chin to eyes
# How far a point leaps in one frame of 1/30 s and back again, at most, in widths of the shoulders.
LEAP = {
    **dict.fromkeys(range(20), 0.3),
    **dict.fromkeys((3, 6, 9, 12), 0.4),
    **dict.fromkeys((4, 7, 10, 13, 18, 19), 0.5),
}
HAND_LEAP, FACE_LEAP = 0.5, 0.25
COLLAPSED = 0.35  # of what is usual: shoulders and all limbs at once
SAME_HAND = 0.25  # mean distance of the points of two hands, in lengths of a palm
KNUCKLES = (5, 9, 17)
FACE_GROWS = 1.35
LIMBS = (((5, 2), (6, 3), (7, 4)), ((11, 8), (12, 9), (13, 10), (18, 19)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plausible:
    """Keypoints without what could not be, and by part the frames bool [T] in which something of it was not believed.

    exchanged bool [T] marks the frames in which left and right were put back.
    """

    keypoints: Keypoints
    rejected: dict[str, Flags]
    exchanged: Flags

    def notes(self) -> Iterator[str]:
        """One sentence for each part that could not be believed somewhere."""
        for part, frames in self.rejected.items():
            count = int(frames.sum())
            if count:
                yield f"The {part} could not be believed in {count} {'frame' if count == 1 else 'frames'}."
        count = int(self.exchanged.sum())
        if count:
            yield f"Left and right were put back in {count} {'frame' if count == 1 else 'frames'}."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Clip:
    """Copies that are worked on: body [T, 20, 3], hands [T, 2, 21, 3], face [T, 70, 3] float64; scale [T] pixels."""

    body: np.ndarray
    hands: np.ndarray
    face: np.ndarray
    scale: np.ndarray
    fps: float

    def __getitem__(self, shot: slice) -> "_Clip":
        """Views of the same arrays."""
        return replace(self, body=self.body[shot], hands=self.hands[shot], face=self.face[shot], scale=self.scale[shot])


def believe(keypoints: Keypoints, fps: float, cuts: Iterable[int] = ()) -> Plausible:
    """Keypoints of T frames at fps, judged; cuts are the frames that begin a new shot."""
    body, hands, face = (part.astype(np.float64) for part in (keypoints.body, keypoints.hands, keypoints.face))
    parts = shots(len(keypoints), cuts)
    clip = _Clip(body=body, hands=hands, face=face, scale=figure_scale(body, face, fps, parts), fps=fps)
    exchanged = np.concatenate([_put_back(clip[shot]) for shot in parts])
    before = [part[..., 2] > 0 for part in (body, hands, face)]
    for shot in parts:
        _drop_twin_hands(clip[shot])
    _drop_collapsed(clip)
    _drop_long_bones(clip)
    _drop_large_hands(clip)
    _drop_strange_faces(clip)
    for shot in parts:
        _drop_leaps(clip[shot])
    after = [part[..., 2] > 0 for part in (body, hands, face)]
    points = [part.astype(np.float32) for part in (body, hands, face)]
    return Plausible(
        keypoints=replace(keypoints, body=points[0], hands=points[1], face=points[2]),
        rejected=_rejected([old & ~new for old, new in zip(before, after, strict=True)]),
        exchanged=exchanged,
    )


def _rejected(gone: list[Flags]) -> dict[str, Flags]:
    body, hands, face = gone
    parts = {part: body[:, list(joints)] for part, joints in PARTS.items()}
    parts |= {name: hands[:, side] for side, name in enumerate(SIDES)} | {"face": face}
    return {part: np.asarray(gone.any(axis=1)) for part, gone in parts.items()}


def figure_scale(body: np.ndarray, face: np.ndarray, fps: float, parts: list[slice]) -> np.ndarray:
    """The width of the shoulders as it is from the front, in each frame: float64 [T] in pixels; 1 where nothing tells.

    Shoulders, torso and face each say how wide they would be. The largest is believed, for all of them look short from
    somewhere; that of each frame is the median over half a second, and each counts beside its own usual size.
    """
    hips = body[:, [8, 11]].mean(axis=1)
    hips[:, 2] = body[:, [8, 11], 2].min(axis=1)
    pairs = ((body[:, 2], body[:, 5], 1.0), (body[:, 1], hips, TORSO), (face[:, 8], face[:, 27], FACE))
    spans = [times * span for a, b, times in pairs if np.isfinite(span := _span(a, b)).any()]
    if not spans:
        return np.ones(len(body))
    usual = [float(np.nanpercentile(span, 90)) for span in spans]
    steady = np.stack(
        [_running_median(span / max(most, 1e-6), fps, parts) for span, most in zip(spans, usual, strict=True)]
    )
    known = np.isfinite(steady).any(axis=0)
    largest = np.where(known, np.where(np.isfinite(steady), steady, 0).max(axis=0), 1.0)
    return np.maximum(largest * max(usual), 1.0)


def _span(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance [T] of two tracks [T, 3] in pixels, NaN where one is not seen."""
    both = (a[:, 2] >= SEEN) & (b[:, 2] >= SEEN)
    return np.where(both, np.linalg.norm((a - b)[:, :2], axis=-1), np.nan)


def _running_median(values: np.ndarray, fps: float, parts: list[slice]) -> np.ndarray:
    """Of values [T] with NaN, over half a second within each shot; NaN where none is known."""
    reach, result = max(round(STEADY * fps / 2), 1), np.full(len(values), np.nan)
    for shot in parts:
        around = np.pad(values[shot], reach, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(around, 2 * reach + 1)
        known = np.isfinite(windows).any(axis=1)
        result[shot][known] = np.nanmedian(windows[known], axis=1)
    return result


def _drop(body: np.ndarray, frames: Flags, joints: Iterable[int]) -> None:
    for joint in joints:
        body[frames, joint, 2] = 0


def _drop_hand(clip: _Clip, side: int, frames: Flags) -> None:
    """A hand, and the wrist that it had placed."""
    wrist = WRISTS[side]
    placed = np.linalg.norm(clip.hands[:, side, 0, :2] - clip.body[:, wrist, :2], axis=-1) < 0.5
    clip.body[frames & placed & (clip.hands[:, side, 0, 2] > 0), wrist, 2] = 0
    clip.hands[frames, side, :, 2] = 0


def _relative(clip: _Clip, bone: tuple[int, int]) -> np.ndarray:
    return _span(clip.body[:, bone[0]], clip.body[:, bone[1]]) / clip.scale


def _usual(lengths: np.ndarray, other: np.ndarray | None) -> float:
    """A length not foreshortened: its own, or a fifth more than the other side's if less; inf if unknown."""
    own = [
        float(np.nanpercentile(side, 90)) for side in (lengths, other) if side is not None and np.isfinite(side).any()
    ]
    return min(own[0], 1.2 * own[-1]) if own else np.inf


def _drop_long_bones(clip: _Clip) -> None:
    """The outer end of a bone much longer than usual, and all that hangs on it unless the next bone is as wrong."""
    lengths = {bone: _relative(clip, bone) for bone in BONES}
    usual = {bone: _usual(lengths[bone], lengths.get(TWIN.get(bone, bone))) for bone in BONES}
    long = {bone: np.nan_to_num(lengths[bone]) > TOO_LONG * usual[bone] for bone in BONES}
    for bone, frames in long.items():
        joint = bone[1]
        _drop(clip.body, frames, [joint])
        following = [long[other] for other in BONES if other[0] == joint]
        alone = frames & ~following[0] if following else frames
        _drop(clip.body, alone, BELOW.get(joint, ()))
    for side, wrist in enumerate(WRISTS):
        _drop_hand(clip, side, (clip.body[:, wrist, 2] == 0) & (clip.hands[:, side, 0, 2] > 0))


def _drop_collapsed(clip: _Clip) -> None:
    """A body all of whose parts that are seen are tiny beside the face."""
    bones = [(2, 5), (2, 3), (3, 4), (5, 6), (6, 7)]
    ratios = []
    for bone in bones:
        lengths = _relative(clip, bone)
        ratios.append(lengths / _usual(lengths, None))
    stacked = np.stack(ratios)
    known = np.isfinite(stacked)
    tiny = (np.where(known, stacked, 0).max(axis=0) < COLLAPSED) & (known.sum(axis=0) >= 3)
    _drop(clip.body, tiny, [*range(1, 14), 18, 19])
    for side in (0, 1):
        clip.hands[tiny, side, :, 2] = 0


def palms(hands: np.ndarray) -> np.ndarray:
    """From the wrist to the farthest knuckle of hands [T, 2, 21, 3]: [T, 2] in pixels, NaN where not seen."""
    lengths = np.linalg.norm(hands[:, :, list(KNUCKLES), :2] - hands[:, :, :1, :2], axis=-1).max(axis=-1)
    return np.where(hands[..., [0, *KNUCKLES], 2].min(axis=-1) >= SEEN, lengths, np.nan)


def _drop_large_hands(clip: _Clip) -> None:
    sizes = palms(clip.hands) / clip.scale[:, None]
    for side in (0, 1):
        usual = _usual(sizes[:, side], sizes[:, 1 - side])
        _drop_hand(clip, side, np.nan_to_num(sizes[:, side]) > TOO_LONG * usual)


def _drop_face(clip: _Clip, frames: Flags) -> None:
    clip.face[frames, :, 2] = 0
    _drop(clip.body, frames, (0, 14, 15))


def _drop_strange_faces(clip: _Clip) -> None:
    """Faces that are not between the ears, or suddenly larger than the figure."""
    ears = clip.body[:, [16, 17]]
    middle = clip.face[:, 27]
    height = _span(clip.face[:, 8], clip.face[:, 27])
    away = np.linalg.norm(ears[..., :2].mean(axis=1) - middle[:, :2], axis=-1)
    lost = (ears[..., 2].min(axis=1) >= SEEN) & (away > 1.2 * np.nan_to_num(height, nan=np.inf))
    relative = height / clip.scale
    large = np.nan_to_num(relative) > TOO_LONG * _usual(relative, None)
    _drop_face(clip, lost | large)


def _drop_leaps(shot: _Clip) -> None:
    for joint, limit in LEAP.items():
        _drop(shot.body, leaps(shot.body[:, joint], limit * shot.scale, shot.fps), [joint])
    for side, wrist in enumerate(WRISTS):
        frames = leaps(_middle(shot.hands[:, side]), HAND_LEAP * shot.scale, shot.fps)
        _drop_hand(shot, side, frames | ((shot.body[:, wrist, 2] == 0) & (shot.hands[:, side, 0, 2] > 0)))
    size = _span(shot.face[:, 8], shot.face[:, 27])
    _drop_face(shot, leaps(_middle(shot.face), FACE_LEAP * shot.scale, shot.fps) | _size_leaps(size, shot.fps))


def _middle(points: np.ndarray) -> np.ndarray:
    """The middle [T, 3] of points [T, N, 3], as sure as the most of them."""
    return np.concatenate([points[..., :2].mean(axis=1), np.median(points[..., 2:], axis=1)], axis=-1)


def _size_leaps(size: np.ndarray, fps: float) -> Flags:
    """Frames in which a size [T] (NaN where unknown) is that of no frame around."""
    track = np.stack([np.log(np.nan_to_num(size, nan=1.0) + 1e-6), np.zeros(len(size)), np.isfinite(size)], axis=-1)
    return leaps(track, np.full(len(size), np.log(FACE_GROWS)), max(fps, LEAP_FPS))


def _drop_twin_hands(shot: _Clip) -> None:
    """Both hands at one place with the same shape are one hand. It belongs to the side it goes on from."""
    sizes = np.nan_to_num(palms(shot.hands)).max(axis=1)
    apart = np.linalg.norm(shot.hands[:, 0, :, :2] - shot.hands[:, 1, :, :2], axis=-1).mean(axis=-1)
    both = (shot.hands[..., 0, 2] >= SEEN).all(axis=1)
    for run in _runs(np.asarray(both & (apart < SAME_HAND * sizes))):
        strayed = [_strayed(shot, side, run) for side in (0, 1)]
        frames = np.zeros(len(sizes), bool)
        frames[run] = True
        _drop_hand(shot, strayed.index(max(strayed)), frames)


def _runs(flags: Flags) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _strayed(shot: _Clip, side: int, run: slice) -> tuple[float, float]:
    """How far a hand leaps at the ends of a run (1e9 px where it is not seen beyond), and is from its elbow."""
    root = shot.hands[:, side, 0]
    leap = 0.0
    for inner, outer in ((run.start, run.start - 1), (run.stop - 1, run.stop)):
        known = 0 <= outer < len(root) and root[outer, 2] >= SEEN
        leap += float(np.linalg.norm(root[inner, :2] - root[outer, :2])) if known else 1e9
    elbow = shot.body[run, ELBOWS[side], :2]
    return leap, float(np.linalg.norm(root[run, :2] - elbow, axis=-1).mean())


def _put_back(shot: _Clip) -> Flags:
    """Exchanges left and right where they were mistaken for a moment, arms with hands and legs each for themselves."""
    exchanged = np.zeros(len(shot.body), bool)
    for index, pairs in enumerate(LIMBS):
        left, right = [a for a, _ in pairs], [b for _, b in pairs]
        frames = swaps(shot.body[:, left], shot.body[:, right], shot.scale, shot.fps)
        at = np.flatnonzero(frames)[:, None]
        shot.body[at, [*left, *right]] = shot.body[at, [*right, *left]]
        if index == 0:
            shot.hands[frames] = shot.hands[frames][:, ::-1]
        exchanged |= frames
    return exchanged
