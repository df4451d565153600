"""How a clip of any length is cut into stretches a model can generate at once: integers only.

A segment holds `length` frames (1 + 4k, as the video VAE wants). From the second on, its first `overlap`
frames are the last ones of the segment before, given as known, so only the rest is fresh. The last segment is
filled up by playing the clip back and forth.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Frames [start, stop) of the clip, the first `overlap` already known, then `pad` reflected frames."""

    index: int
    start: int
    stop: int
    overlap: int
    pad: int

    @property
    def length(self) -> int:
        """Frames the model sees, padding included."""
        return self.stop - self.start + self.pad

    @property
    def fresh(self) -> range:
        """The clip's frames this segment is the first to make."""
        return range(self.start + self.overlap, self.stop)

    def source_indices(self, n_frames: int) -> list[int]:
        """For each of the `length` frames, which of the clip's `n_frames` it reads; past the end, back and
        forth.
        """
        return [reflect(frame, n_frames) for frame in range(self.start, self.start + self.length)]


def reflect(index: int, n_frames: int) -> int:
    """index >= 0 folded into [0, n_frames): 0 1 2 1 0 1 2 ... for three frames; the ends are not repeated."""
    if n_frames == 1:
        return 0
    period = 2 * (n_frames - 1)
    folded = index % period
    return min(folded, period - folded)


def plan(frames: int, length: int, overlap: int) -> tuple[Segment, ...]:
    """Segments of `length` that together make each of [0, frames) exactly once.

    Raises ValueError unless frames >= 1, length = 1 + 4k, and overlap is 0 or 1 + 4j below length.
    """
    _check(frames, length, overlap)
    segments = [_segment(0, 0, frames, length, 0)]
    while segments[-1].stop < frames:
        last = segments[-1]
        segments.append(_segment(last.index + 1, last.stop - overlap, frames, length, overlap))
    return tuple(segments)


def length_for(frames: int) -> int:
    """The shortest length of a segment, 1 + 4k, that holds `frames` (1 or more)."""
    return 1 + 4 * -(-(frames - 1) // 4)


def _segment(index: int, start: int, frames: int, length: int, overlap: int) -> Segment:
    stop = min(start + length, frames)
    return Segment(index=index, start=start, stop=stop, overlap=overlap, pad=length - (stop - start))


def _check(frames: int, length: int, overlap: int) -> None:
    if frames < 1:
        raise ValueError(f"A clip needs at least one frame, but has {frames}.")
    if length < 1 or length % 4 != 1:
        raise ValueError(f"A segment's length must be 1, 5, 9, ... frames, but is {length}.")
    if overlap != 0 and (overlap < 0 or overlap % 4 != 1 or overlap >= length):
        raise ValueError(f"The overlap must be 0, or 1, 5, 9, ... below the length {length}, but is {overlap}.")
