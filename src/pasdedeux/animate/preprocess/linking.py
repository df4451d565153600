"""Sightings of people linked into tracks, and tracks into identities: integers, boxes and colours, no pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

TOUCHING = 0.3  # overlap of two boxes (intersection over union) from which on their colours mix
REACH = 1.0  # box heights that somebody moves from one look to the next, at most
SPEED = 2.5  # box heights in a second
GROWTH = 2.0  # how much larger or smaller somebody gets from one look to the next
LIMIT, LIMIT_ALONE = 0.55, 0.7  # the most two tracks of one person differ; where nobody else can be meant
AWAY, GROWN = 0.4, 0.2  # weights beside looks: distance in parts of what can be walked, change of size
CUT = 0.05  # what a cut between them adds
NEAR = 0.6  # from one look to the next, how much more place says than looks


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """One person in one frame: box float64 [4], the finder's score, and colours float32 [K] that add up to 1."""

    frame: int
    box: NDArray[np.float64]
    score: float
    look: NDArray[np.float32]

    @property
    def height(self) -> float:
        return float(max(self.box[3] - self.box[1], 1.0))

    @property
    def middle(self) -> NDArray[np.float64]:
        """Of the box's upper edge: heads are seen where legs are not."""
        return np.array([(self.box[0] + self.box[2]) / 2, self.box[1]])


@dataclass(eq=False)
class Piece:
    """A track without a doubt in it: sightings in order, all of one shot, all touching somebody or all not.

    look is taken once, when the track is complete.
    """

    sightings: list[Seen]
    shot: int
    touching: bool

    @property
    def first(self) -> Seen:
        return self.sightings[0]

    @property
    def last(self) -> Seen:
        return self.sightings[-1]

    @cached_property
    def look(self) -> NDArray[np.float32]:
        return np.mean([seen.look for seen in self.sightings], axis=0)

    def speed(self, *, at_end: bool) -> NDArray[np.float64]:
        """Pixels per frame over the last or first few sightings; 0 where there is one."""
        part = self.sightings[-3:] if at_end else self.sightings[:3]
        span = part[-1].frame - part[0].frame
        return (part[-1].middle - part[0].middle) / span if span else np.zeros(2)


def pieces(looks: Sequence[Sequence[Seen]], cuts: Sequence[int]) -> list[Piece]:
    """The tracks in looks (what was seen in each frame looked at); cuts are frames that begin a shot."""
    done: list[Piece] = []
    live: list[Piece] = []
    shot = 0
    for look in looks:
        now = int(np.searchsorted(cuts, look[0].frame, side="right")) if look else shot
        if now != shot:
            live, shot = [], now
        touching = [_touches(seen, look) for seen in look]
        pairs = dict(_matched(live, look))
        after: list[Piece] = []
        for index, seen in enumerate(look):
            piece = pairs.get(index)
            if piece is None or piece.touching != touching[index]:
                piece = Piece([], shot, touching[index])
                done.append(piece)
            piece.sightings.append(seen)
            after.append(piece)
        live = after
    return done


def _touches(seen: Seen, others: Sequence[Seen]) -> bool:
    return any(other is not seen and overlap(seen.box, other.box) > TOUCHING for other in others)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    inner = float(np.prod(np.maximum(high - low, 0)))
    return inner / max(float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - inner, 1e-6)


def _matched(live: list[Piece], look: Sequence[Seen]) -> Iterator[tuple[int, Piece]]:
    """(index in look, piece it goes on) by the least difference first."""
    costs = sorted(
        (
            (cost, i, j)
            for i, piece in enumerate(live)
            for j, seen in enumerate(look)
            if (cost := _step(piece, seen)) < 1
        ),
        key=lambda entry: entry[0],
    )
    used: set[int] = set()
    taken: set[int] = set()
    for _, i, j in costs:
        if i not in used and j not in taken:
            used.add(i)
            taken.add(j)
            yield j, live[i]


def _step(piece: Piece, seen: Seen) -> float:
    """How unlike the continuation of a piece a sighting in the next look is; 1 and more where it cannot be."""
    last, ahead = piece.last, piece.speed(at_end=True) * (seen.frame - piece.last.frame)
    away = float(np.linalg.norm(last.middle + ahead - seen.middle)) / max(last.height, seen.height)
    grown = max(last.height, seen.height) / min(last.height, seen.height)
    if away > REACH or grown > GROWTH:
        return 1.0
    return NEAR * away / REACH + (1 - NEAR) * unlike(last.look, seen.look)


def unlike(one: np.ndarray, other: np.ndarray) -> float:
    """Hellinger's distance of two shares of colours, 0 the same to 1 nothing in common."""
    return float(np.sqrt(max(1 - np.sqrt(one * other).sum(), 0)))


def identities(found: list[Piece], fps: float) -> list[list[Piece]]:
    """Pieces joined into people, each in order of time. Untouched pieces join first: their colours are their own."""
    groups = [[piece] for piece in found]
    clear = [piece for piece in found if not piece.touching]
    for few in (clear, found):
        groups = _joined(groups, few, fps)
    return groups


def _joined(groups: list[list[Piece]], allowed: list[Piece], fps: float) -> list[list[Piece]]:
    """Groups merged in the order of least cost, as long as nobody is in two places at once."""
    among = {id(piece) for piece in allowed}
    costs = sorted(
        (
            (cost, a, b)
            for a in allowed
            for b in allowed
            if a.last.frame < b.first.frame and (cost := difference(a, b, fps)) < LIMIT_ALONE
        ),
        key=lambda entry: entry[0],
    )
    home = {id(piece): group for group in groups for piece in group}
    for cost, a, b in costs:
        one, other = home[id(a)], home[id(b)]
        if one is other or (cost >= LIMIT and not _alone(a, b, found=allowed)) or not _fit(one, other, fps, among):
            continue
        merged = sorted([*one, *other], key=lambda piece: piece.first.frame)
        home |= {id(piece): merged for piece in merged}
    unique = {id(group): group for group in home.values()}
    return list(unique.values())


def _fit(one: list[Piece], other: list[Piece], fps: float, among: set[int]) -> bool:
    """Whether two groups can be one person: never at once, and no neighbours that could not follow one another."""
    order = sorted([*one, *other], key=lambda piece: piece.first.frame)
    return all(
        a.last.frame < b.first.frame and difference(a, b, fps) < (LIMIT_ALONE if id(a) in among else 1.0)
        for a, b in pairwise(order)
    )


def _alone(a: Piece, b: Piece, found: list[Piece]) -> bool:
    """Whether nobody else begins after `a` and no later than `b`, or ends before `b` and no sooner than `a`."""
    others = [piece for piece in found if piece is not a and piece is not b]
    begins = any(a.last.frame < piece.first.frame <= b.first.frame for piece in others)
    return not begins and not any(a.last.frame <= piece.last.frame < b.first.frame for piece in others)


def difference(a: Piece, b: Piece, fps: float) -> float:
    """How unlike one person's the end of `a` and the beginning of `b` are; 1 and more where it cannot be."""
    looks = unlike(a.look, b.look)
    if a.shot != b.shot:
        return looks + CUT
    frames = b.first.frame - a.last.frame
    scale = max(a.last.height, b.first.height)
    away = np.linalg.norm(_meeting(a, b, frames, fps)) / scale
    could = REACH / 2 + SPEED * frames / fps
    if away > could:
        return 1.0
    grown = abs(np.log(a.last.height / b.first.height))
    return looks + AWAY * float(away) / could + GROWN * min(float(grown), 1.0)


def _meeting(a: Piece, b: Piece, frames: int, fps: float) -> NDArray[np.float64]:
    """Pixels by which the end of `a`, going on, misses `b`'s beginning; after a second they may have stopped."""
    still = a.last.middle - b.first.middle
    forward = still + a.speed(at_end=True) * min(frames, 0.5 * fps)
    return still if frames > fps and np.linalg.norm(still) < np.linalg.norm(forward) else forward
