"""Masks of a person over time: steady, without islands, never empty where somebody is seen, and with room around.

Everything streams: a mask comes in, and a few frames later the steady one goes out. Nothing lags: each is judged by the
frames before it and after it, as they would lie if the person stood as they do now.

A mask is uint8 [H, W], 255 on the person.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.silhouette import around_limbs, followed, own_parts, window

Bytes = NDArray[np.uint8]
Origin = Literal["seen", "moved", "limbs", "nobody"]
Blocks = tuple[int, int]

GROW = 9
"""Pixels: Wan-Animate dilates three times by a square of 7."""
BLOCKS: Blocks = (1, 1)
"""Wan-Animate fills the whole box."""
REACH = 2  # frames before and after that have a say
SHARES = (3.0, 2.0, 1.0)  # of the frame itself, the next ones, those behind them
MARGIN = 16  # pixels around masks within which they are compared
HELD = 0.3  # seconds over which a lost mask is the one of a frame nearby
INSTEAD: tuple[tuple[Origin, str], ...] = (
    ("moved", "taken from a frame nearby"),
    ("limbs", "drawn round the limbs, which is rougher"),
)
LOST = 0.2  # of the limbs: a mask that covers less of them is not this person's


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """One frame's mask, and where it comes from: seen, moved from a frame nearby, drawn round the limbs, or nobody."""

    mask: Bytes
    origin: Origin


def widened(mask: Bytes, grow: int = GROW, blocks: Blocks | None = BLOCKS) -> Bytes:
    """A person's mask [H, W] with room around it: 255 where another figure may stand.

    Grown by `grow` pixels; then its bounding box is cut into blocks (columns, rows), and every block that the mask
    touches is filled. One block is the whole box, so that the outline of the performer does not show in the
    character's; None or (0, 0) keeps the outline. A block is the box's extent over their number, cut to whole pixels,
    as in Wan-Animate, so that there may be one more. (Wan-Animate leaves the box's last row and column as they are, and
    fails on an empty mask and on more blocks than pixels; here the box is full, and the others have an answer.)
    Raises ValueError for a negative number.
    """
    if grow < 0 or (blocks is not None and min(blocks) < 0):
        raise ValueError(f"Pixels to grow by and blocks must be 0 or more, not {grow} and {blocks}.")
    wide = (mask > 127).astype(np.uint8) * 255
    if grow:
        wide = cv2.dilate(wide, np.ones((2 * grow + 1, 2 * grow + 1), np.uint8)).astype(np.uint8)
    if blocks is None or min(blocks) == 0 or not wide.any():
        return wide
    across, down = (_edges(np.flatnonzero(wide.any(axis=k)), blocks[k]) for k in (0, 1))
    for top, bottom in pairwise(down):
        for left, right in pairwise(across):
            part = wide[top:bottom, left:right]
            if part.any():
                part[:] = 255
    return wide


def _edges(places: NDArray[np.int64], parts: int) -> list[int]:
    """From the first to past the last of ascending places, in steps of their extent over `parts`."""
    first, last = int(places[0]), int(places[-1])
    step = max((last - first) // parts, 1)
    return [*(range(first, last, step) or [first]), last + 1]


def steady(
    masks: Iterable[Bytes], keypoints: Keypoints | None = None, fps: float = 30.0, cuts: Collection[int] = ()
) -> Iterator[Steady]:
    """One mask per mask that comes in, in the same order.

    keypoints are the person's in the masks' pixels, one frame per mask; without them an empty mask stays empty, and
    masks are followed by their own motion. cuts are the frames at which a new shot begins: nothing crosses them. No
    more masks are kept in memory than 0.3 seconds and two frames hold.
    """
    shots = np.sort(np.asarray(list(cuts), int))
    people = _People(keypoints, shots)
    return _voted(_bridged(_found(masks, people), people, round(HELD * fps)), people)


def mask_notes(origins: Iterable[Origin]) -> tuple[str, ...]:
    """What is to be said of the frames in which the person's mask was not seen."""
    counts = Counter(origins)
    total = counts.total()
    lost = [f"the mask was lost in {counts[k]} of {total} frames and is {how}" for k, how in INSTEAD if counts[k]]
    return (*lost, *([f"nobody is masked in {counts['nobody']} of {total} frames"] if counts["nobody"] else []))


@dataclass(frozen=True, slots=True, eq=False)
class _People:
    """What is known of the person in each frame, and in which shot it lies."""

    keypoints: Keypoints | None
    cuts: NDArray[np.int64]

    def points(self, frame: int) -> NDArray[np.float32]:
        """Body and hands, [62, 3]; none without keypoints."""
        if self.keypoints is None:
            return np.zeros((0, 3), np.float32)
        return np.concatenate([self.keypoints.body[frame], *self.keypoints.hands[frame]])

    def limbs(self, frame: int, mask: Bytes) -> Bytes:
        """What they cover at least, in a picture of the mask's size."""
        if self.keypoints is None:
            return np.zeros_like(mask)
        return around_limbs(self.keypoints.body[frame], self.keypoints.hands[frame], (mask.shape[1], mask.shape[0]))

    def together(self, a: int, b: int) -> bool:
        """Whether no cut lies between two frames."""
        return bool(np.searchsorted(self.cuts, a, "right") == np.searchsorted(self.cuts, b, "right"))

    def moved(
        self, mask: Bytes, then: int, now: int, target: Bytes | None = None, corner: NDArray[np.float32] | float = 0.0
    ) -> Bytes:
        """The mask of frame `then` as it would lie in frame `now`, 0..255; without points, where `target` lies.

        corner: where in the picture masks begin, (x, y, 0).
        """
        if self.keypoints is not None:
            return followed(mask, self.points(then) - corner, self.points(now) - corner)
        return mask if target is None else _shifted(mask, target)


def _found(masks: Iterable[Bytes], people: _People) -> Iterator[Steady]:
    """Each mask by itself: whose is what, and whether it is the person's at all."""
    for frame, mask in enumerate(masks):
        own, limbs = own_parts(mask, people.points(frame)), people.limbs(frame, mask) > 0
        there = own.any() if not limbs.any() else (own[limbs] > 0).mean() >= LOST
        lost: Origin = "limbs" if limbs.any() else "nobody"
        yield Steady(own, "seen") if there else Steady(limbs.astype(np.uint8) * 255, lost)


def _bridged(found: Iterator[Steady], people: _People, longest: int) -> Iterator[Steady]:
    """Masks that are lost for a moment are those of the nearest frame that has one, moved."""
    ahead: deque[Steady] = deque(islice(found, longest + 1))
    last: tuple[int, Bytes] | None = None
    frame = 0
    while ahead:
        now = ahead[0]
        if now.origin == "seen":
            last = (frame, now.mask)
        elif now.origin == "limbs":
            now = _nearest(now, frame, last, ahead, people, longest)
        yield now
        ahead.popleft()
        ahead.extend(islice(found, 1))
        frame += 1


def _nearest(
    now: Steady, frame: int, last: tuple[int, Bytes] | None, ahead: Iterable[Steady], people: _People, longest: int
) -> Steady:
    near = [] if last is None else [last]
    near += [(frame + k, one.mask) for k, one in enumerate(ahead) if one.origin == "seen"][:1]
    near = [one for one in near if abs(one[0] - frame) <= longest and people.together(one[0], frame)]
    if not near:
        return now
    then, mask = min(near, key=lambda one: abs(one[0] - frame))
    return Steady((people.moved(mask, then, frame) > 127).astype(np.uint8) * 255, "moved")


def _voted(found: Iterator[Steady], people: _People) -> Iterator[Steady]:
    """Every mask as most of the frames around it have it; empty ones stay empty."""
    around: deque[Steady] = deque(islice(found, REACH))
    frame = here = 0
    while True:
        around.extend(islice(found, 1))
        if here == len(around):
            return
        now = around[here]
        if now.mask.any():
            others = {frame + k - here: one.mask for k, one in enumerate(around) if k != here and one.mask.any()}
            now = Steady(_vote(now.mask, frame, others, people), now.origin)
        yield now
        frame, here = frame + 1, here + 1
        if here > REACH:
            around.popleft()
            here -= 1


def _vote(own: Bytes, frame: int, others: dict[int, Bytes], people: _People) -> Bytes:
    """What the limbs seen now cover is not voted on: a hand may be too quick to be followed. Nor does a vote count that
    takes more than half away: the others show something else.
    """
    others = {then: mask for then, mask in others.items() if people.together(then, frame)}
    part, corner = window([own, *others.values()], MARGIN)
    mine, weight = own[part], SHARES[0]
    total = mine.astype(np.float32) * weight
    for then, mask in others.items():
        share = SHARES[abs(then - frame)]
        total += share * people.moved(mask[part], then, frame, mine, corner)
        weight += share
    certain = (mine > 0) & (people.limbs(frame, own)[part] > 0)
    voted = (total > 127.5 * weight) | certain
    if 2 * voted[mine > 0].sum() <= (mine > 0).sum():
        return own
    result = np.zeros_like(own)
    result[part] = voted.astype(np.uint8) * 255
    return result


def _shifted(mask: Bytes, target: Bytes) -> Bytes:
    """The mask where it best lies on another, found at a quarter of their size or smaller."""
    scale = min(256 / max(mask.shape), 1)
    small = [
        cv2.resize(m, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32) for m in (mask, target)
    ]
    (x, y), _ = cv2.phaseCorrelate(*small)
    move = np.array([[1, 0, x / scale], [0, 1, y / scale]], np.float32)
    return cv2.warpAffine(mask, move, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)
