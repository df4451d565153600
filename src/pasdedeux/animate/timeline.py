"""When each picture of a file is shown, and where decoding may begin: by packets or, where these lie, by decoding."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from pasdedeux.animate.opening import USUAL_RATE, stated_rate
from pasdedeux.animate.packets import demuxed

Frames: TypeAlias = Iterator[av.VideoFrame]
Floats: TypeAlias = NDArray[np.float64]

LONGEST_LAST = 10.0  # seconds that a last frame may be shown; what claims more is a slip of the header
POSSIBLE_RATE = 480.0  # frames a second


@dataclass(frozen=True, slots=True)
class Mark:
    """What a packet says of its picture, in ticks of the stream; place: where in the file it lies, in bytes."""

    pts: int | None
    dts: int | None
    place: int | None
    lasts: int
    key: bool
    shown: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A picture that decoding may begin at: its number, and its packet's timestamps and place."""

    number: int
    pts: int
    dts: int | None
    place: int | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Timeline:
    """When each picture of a file is shown: times [N], seconds from the first one, ascending, until `end`.

    stamps: the same in ticks of the stream; None where these cannot be trusted, so that pictures must be counted.
    keys: where decoding may begin, in order; none where only the file's beginning will do.
    """

    times: Floats
    end: float
    stamps: tuple[int, ...] | None = None
    keys: tuple[Key, ...] = ()
    notes: tuple[str, ...] = ()


def marks_of(container: InputContainer, stream: av.VideoStream) -> list[Mark]:
    return [
        Mark(packet.pts, packet.dts, packet.pos, packet.duration or 0, packet.is_keyframe, not packet.is_discard)
        for packet in demuxed(container, stream)
        if packet.size
    ]


def stamped(marks: list[Mark], tick: Fraction, composed: bool, patience: float) -> Timeline | None:
    """The timeline by timestamps alone, without decoding; None where they are missing or contradict each other."""
    shown = [mark for mark in marks if mark.shown]
    if not shown or any(mark.pts is None for mark in shown):
        return None
    by_time = sorted((mark.pts, mark.lasts) for mark in shown if mark.pts is not None)
    stamps = tuple(pts for pts, _ in by_time)
    read = [mark.dts for mark in marks if mark.dts is not None]
    if len(set(stamps)) < len(stamps) or any(later < earlier for earlier, later in pairwise(read)):
        return None
    times = np.array([float((pts - stamps[0]) * tick) for pts in stamps])
    if len(times) > 1 and np.diff(times).max() > patience:
        return None
    keys = tuple(
        Key(bisect_right(stamps, mark.pts - 1), mark.pts, mark.dts, mark.place)
        for mark in marks
        if mark.key and mark.pts is not None
    )
    ascending = all(earlier.number < later.number for earlier, later in pairwise(keys))
    end = times[-1] + _last_length(times, float(by_time[-1][1] * tick))
    return Timeline(times=times, end=end, stamps=stamps, keys=keys if ascending and not composed else ())


def counted(frames: Frames, tick: Fraction, usual: float, patience: float, timeless: bool) -> Timeline:
    """The timeline by decoding. A frame without a time, or whose clock jumps, follows the one before at once.

    timeless: the file has no times at all, but frames of one length.
    """
    times: list[float] = []
    shift, end, lasts = 0.0, 0.0, usual
    for frame in frames:
        stamp = end - shift if frame.pts is None or timeless else float(frame.pts * tick)
        if not times or not times[-1] - 1 < stamp + shift < end + patience:
            shift = end - stamp
        lasts = usual if timeless or not 0 < frame.duration * tick < LONGEST_LAST else float(frame.duration * tick)
        times.append(stamp + shift if not times or stamp + shift > times[-1] else end)
        end = times[-1] + lasts
    notes = () if timeless else ("its timestamps are missing or jump, so that its frames were put one after the other",)
    array = np.array(times)
    return Timeline(times=array, end=array[-1] + _last_length(array, lasts) if times else 0.0, notes=notes)


def _last_length(times: Floats, stated: float) -> float:
    """Seconds that the last frame is shown."""
    if 0 < stated <= LONGEST_LAST:
        return stated
    return float(np.median(np.diff(times))) if len(times) > 1 else 1 / USUAL_RATE


def paced(timeline: Timeline) -> Timeline:
    """The timeline, or a likely one where its own shows more frames a second than there can be."""
    count = len(timeline.times)
    own = 1 / float(np.median(np.diff(timeline.times))) if count > 1 else USUAL_RATE
    if own <= POSSIBLE_RATE:
        return timeline
    note = f"its timestamps say {own:.0f} frames a second, which cannot be, so that {USUAL_RATE:g} were taken"
    return Timeline(
        times=np.arange(count) / USUAL_RATE,
        end=count / USUAL_RATE,
        stamps=timeline.stamps,
        keys=timeline.keys,
        notes=(*timeline.notes, note),
    )


def pace_of(stream: av.VideoStream, times: Floats) -> float:
    """Frames per second: the header's, unless the pictures' own times say something else altogether."""
    own = 1 / float(np.median(np.diff(times))) if len(times) > 1 else None
    stated = stated_rate(stream)
    if stated is None or (own is not None and stated > 2.1 * own):
        return own or USUAL_RATE
    return stated
