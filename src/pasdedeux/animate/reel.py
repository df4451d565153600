"""Any picture of a file by its number, decoded forward from the key frame before."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.opening import (
    USUAL_RATE,
    decoded,
    decoder_of,
    opened,
    picture_stream,
    stated_duration,
    stated_rate,
)
from pasdedeux.animate.packets import demuxed, patience_of
from pasdedeux.animate.pixels import Converter, Looks, looks_of
from pasdedeux.animate.timeline import Key, Timeline, counted, marks_of, pace_of, paced, stamped

Bytes: TypeAlias = NDArray[np.uint8]
Frames: TypeAlias = Iterator[av.VideoFrame]

TOLERANCE = 5e-4  # seconds: timestamps are rounded to milliseconds in some containers
TIMELESS = ("h264", "hevc")  # in AVI, which has no timestamps, the order in which they are shown is a guess
STILLS = ("image2", "gif", "apng", "webp")
WORTH_SEEKING = 48  # frames: fewer are as soon decoded
COMPOSED = ("gif", "apng", "webp")  # their frames build on all before, whatever they say of key frames
STILL_BRANDS = ("avif", "heic", "heix", "mif1", "msf1")


class _DoubtError(Exception):
    """Decoding did not begin early enough for its pixels to be sure."""


class Reel:
    """A file's pictures by number, any of them, uint8 [H, W, 3]; in ascending order each is decoded once.

    Two frames are kept, however long the file. Going back begins at the key frame before, where the file can be
    trusted to know it, else at the start; the pixels are the same either way. A picture that cannot be decoded is the
    one before it. times [N]: when each is shown, seconds from the first one, until `end`; fps: the file's own rate;
    size: (width, height). Raises InputError where nothing can be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int] | None = None,
        convert: Callable[[av.VideoFrame], Bytes] | None = None,
    ) -> None:
        self.path = path
        self._threaded, self._damaged = True, False
        self._broken, self._missing = set[int](), set[int]()
        self._held: tuple[int, av.VideoFrame] | None = None
        self._next: tuple[int, av.VideoFrame] | None = None
        self._shown: tuple[av.VideoFrame, Bytes] | None = None
        self._container = opened(path)
        try:
            self._stream = picture_stream(path, self._container)
            self._tick = self._stream.time_base or Fraction(1, 1000)
            timeline = paced(self._timeline())
            self.times, self.end, self._stamps, self._keys = (
                timeline.times,
                timeline.end,
                timeline.stamps,
                timeline.keys,
            )
            self.fps = pace_of(self._stream, self.times)
            self._looks = self._first_looks()
            self.size = self._looks.size if size is None else size
            self._convert = convert or Converter(self.size, self._looks)
            self.has_audio = bool(self._container.streams.audio)
            cut_off = self._cut_off()
            if cut_off:
                self._lose_trust()
                self._begin(0)
            self._notes = (*self._looks.notes, *timeline.notes, *cut_off)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Reel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.times)

    def close(self) -> None:
        """Lets go of the file."""
        self._container.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed about the pictures, and what could not be read so far."""
        lost = sum(number < len(self.times) for number in self._missing)
        resized = isinstance(self._convert, Converter) and self._convert.resized
        return (
            *self._notes,
            *(("its picture size changes, so that every picture was scaled to the first one's",) if resized else ()),
            *((f"it is damaged: {lost} of its frames could not be decoded and repeat others",) if lost else ()),
        )

    @property
    def pix_fmt(self) -> str:
        """How the file keeps its pixels, as FFmpeg calls it."""
        return self._stream.codec_context.pix_fmt or "unknown"

    @property
    def profile(self) -> str:
        """Which part of its format the file keeps to, as FFmpeg calls it."""
        return self._stream.profile or "unknown"

    def sampled(self, fps: float, start: float, end: float) -> NDArray[np.int64]:
        """The numbers of the last pictures at or before start + k / fps, for every such time before `end`."""
        count = max(int(np.ceil((min(end, self.end) - start - TOLERANCE) * fps)), 0)
        wanted = start + np.arange(count) / fps
        return np.maximum(np.searchsorted(self.times, wanted + TOLERANCE, side="right") - 1, 0)

    def picture(self, number: int) -> Bytes:
        """Picture `number`. It stays the reel's own: copy it before drawing on it."""
        frame = self._frame(number)
        if self._shown is None or self._shown[0] is not frame:
            self._shown = frame, self._convert(frame)
        return self._shown[1]

    def has(self, number: int) -> bool:
        """Whether picture `number`, which was just asked for, could be decoded."""
        return self._held is not None and self._held[0] == number

    def _timeline(self) -> Timeline:
        formats = self._container.format.name.split(",")
        name, patience = self._stream.codec_context.name, patience_of(self._container)
        timeless = formats[0] == "avi" and name in TIMELESS
        marks = marks_of(self._container, self._stream)
        self._count = len(marks)
        timeline = None if timeless else stamped(marks, self._tick, name in COMPOSED, patience)
        if timeline is None:
            self._threaded = False  # counting must find the same frames each time
            self._reopen()
            usual = 1 / (stated_rate(self._stream) or USUAL_RATE)
            timeline = counted(decoded(self._container, self._stream), self._tick, usual, patience, timeless)
        brand = self._container.metadata.get("major_brand", "")
        if len(timeline.times) == 1 and (formats[0] in STILLS or brand in STILL_BRANDS):
            raise InputError(f"{self.path} is a still picture; a video is needed.")
        return timeline

    def _first_looks(self) -> "Looks":
        self._reopen()
        looks = looks_of(self.path, self._stream, decoded(self._container, self._stream))
        self._interlaced = looks.interlaced
        self._begin(0)
        return looks

    def _cut_off(self) -> tuple[str, ...]:
        """Leaves away what cannot be decoded at the end, and says what is missing there."""
        stated, count = stated_duration(self._container, self._stream), self._stream.frames
        if self._keys:
            self._frame(len(self) - 1)
            last = len(self) - 1 if self._held is None else self._held[0]
            lost = len(self) - 1 - last
            if lost:
                self.end = float(self.times[last + 1])
                self.times = self.times[: last + 1]
                after = f"after {last + 1} of {max(count, last + 1 + lost)} frames"
                return (f"it is damaged: reading stopped at {self.end:.2f} s, {after}",)
        if 0 < self._count < count:
            return (f"it is cut off: reading stopped at {self.end:.2f} s, after {self._count} of {count} frames",)
        if stated > 1.1 * self.end + 1 and (self._stream.duration or not self._container.streams.audio):
            return (f"its header says {stated:.0f} s, but its pictures end at {self.end:.2f} s",)
        return ()

    # Decoding forward

    def _frame(self, number: int) -> av.VideoFrame:
        if not self._follows(number):
            self._begin(self._start_for(number))
        while True:
            try:
                return self._forward_to(number)
            except _DoubtError:
                self._begin(self._start_for(number))

    def _follows(self, number: int) -> bool:
        """Whether picture `number` is best reached by going on from here."""
        if self._held is None and self._from > 0 and not self._fresh:
            return False  # what comes before the first frame from here is not known
        here = self._held[0] if self._held is not None else self._keys[self._from].number if self._from else 0
        ahead = self._keys[self._start_for(number)].number - here if self._keys else 0
        return here <= number and ahead <= WORTH_SEEKING

    def _start_for(self, number: int) -> int:
        """Which key frame to begin at: one before the picture, after which nothing broken is met at once."""
        # Joining interlaced lines looks at the frame before as well.
        gop = bisect_right(self._keys, number - self._interlaced, key=lambda key: key.number) - 1
        while gop in self._broken:
            gop -= 1
        return max(gop, 0)

    def _begin(self, gop: int) -> None:
        self._held = self._next = None
        self._from, self._gop, self._fresh = gop, gop, True
        if gop == 0 or not self._threaded:
            self._reopen()
        self._run = self._numbered(gop)

    def _reopen(self) -> None:
        self._container.close()
        self._container = opened(self.path)
        self._stream = picture_stream(self.path, self._container)
        # With a thread to each frame, an error takes sound frames with it.
        self._stream.thread_type = "AUTO" if self._threaded else "SLICE"

    def _forward_to(self, number: int) -> av.VideoFrame:
        """The frame of `number`, or the last before it that can be decoded, or else the first after it."""
        self._fresh = False
        while self._held is None or self._held[0] < number:
            if self._next is None:
                self._next = next(self._run, None)
            if self._next is None or self._next[0] > number:
                break
            self._held, self._next = self._next, None
        if self._held is None and self._from > 0:
            self._broken.add(self._from)
            raise _DoubtError
        shown = self._held or self._next
        if shown is None:
            raise InputError(f"{self.path} holds no picture that can be decoded; the file is damaged or encrypted.")
        if self._damaged and shown[0] != number:
            self._missing.add(number)
        return shown[1]

    def _damage(self, gop: int) -> None:
        """The pictures of key frame `gop` are not whole. Raises _DoubtError where decoding began too late for them."""
        self._damaged = True
        self._lose_trust()
        if self._threaded:
            self._threaded = False
            raise _DoubtError
        self._broken.add(gop)
        if self._from > 0 and (self._from == gop or not self._keys):
            raise _DoubtError

    def _lose_trust(self) -> None:
        if self._container.format.name == "avi":  # its times are guessed from the order of what can be read
            self._keys = ()

    def _numbered(self, gop: int) -> Iterator[tuple[int, av.VideoFrame]]:
        frames = self._sound_frames(gop)
        before = -1
        for frame in _deinterlaced(frames, self._tick) if self._interlaced else frames:
            number = before + 1
            if self._stamps is not None and frame.pts is not None and frame.time_base is not None:
                number = bisect_right(self._stamps, round(frame.pts * frame.time_base / self._tick)) - 1
            if number > before:
                yield number, frame
                before = number

    def _sound_frames(self, gop: int) -> Frames:
        """Frames from key frame `gop` on, without those that damage has touched."""
        decoder, first = decoder_of(self._stream), self._keys[gop].pts if gop else None
        starts = {key.pts: number for number, key in enumerate(self._keys)}
        for packet in self._packets(gop):
            if packet.is_keyframe and packet.pts is not None:
                self._gop = starts.get(packet.pts, self._gop)
            try:
                frames = decoder.decode(packet if packet.size else None)
            except av.FFmpegError:
                self._damage(self._gop)
                continue
            for frame in frames:
                frame.time_base = self._tick
                if first is not None and frame.pts is not None and frame.pts < first:
                    continue  # it is shown before the key frame, and needs what came before that
                if frame.is_corrupt:
                    self._damage(self._gop)
                else:
                    yield frame

    def _packets(self, gop: int) -> Iterator["av.Packet[av.VideoStream]"]:
        """Packets from exactly the one of key frame `gop` on. Raises _DoubtError where seeking did not find it."""
        if gop == 0:
            yield from demuxed(self._container, self._stream)
            return
        key = self._keys[gop]
        packets = self._sought(key)
        for packet in packets:
            if packet.is_keyframe and (packet.pts, packet.pos) == (key.pts, key.place):
                yield packet
                yield from packets
                return
            if not packet.size or (packet.dts is not None and key.dts is not None and packet.dts > key.dts):
                break
        self._keys = ()
        raise _DoubtError

    def _sought(self, key: Key) -> Iterator["av.Packet[av.VideoStream]"]:
        try:
            self._container.seek(key.pts if key.dts is None else min(key.pts, key.dts), stream=self._stream)
        except av.FFmpegError:
            return iter(())
        return demuxed(self._container, self._stream)


def _deinterlaced(frames: Frames, tick: Fraction) -> Frames:
    """The same number of frames, those of two half-pictures made whole."""
    graph, kind = Graph(), None
    for frame in frames:
        if kind != (frame.width, frame.height, frame.format.name):
            yield from _pulled(graph, None) if kind else ()
            kind = (frame.width, frame.height, frame.format.name)
            graph = _deinterlacer(frame, tick)
        yield from _pulled(graph, frame)
    if kind:
        yield from _pulled(graph, None)


def _deinterlacer(frame: av.VideoFrame, tick: Fraction) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
    filters = (graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced"), graph.add("buffersink"))
    for earlier, later in pairwise((source, *filters)):
        earlier.link_to(later)
    graph.configure()
    return graph


def _pulled(graph: Graph, frame: av.VideoFrame | None) -> Frames:
    """What comes out after one more frame, or after the last (None)."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
