"""Reading video: pictures by number or by time, upright, in RGB, past damage. (Writing has its own file,
`video_writer`.)

Time 0 is a file's first picture, for its sound as well, so both stay together where one begins before the other.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import check_writable
from pasdedeux.animate.video_writer import (
    METADATA_TAG,
    VideoWriter,
    demuxed,
    file_url,
    is_known,
    main_stream,
    patience_of,
)

__all__ = ["Reel", "VideoInfo", "VideoWriter", "check_writable", "frames_at", "probe", "read_metadata", "read_video"]

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]
Frames: TypeAlias = Iterator[av.VideoFrame]

MOST_SIDE = 8192  # pixels: above it one picture alone is 200 MB
THREADS = 4  # each decoding thread keeps a picture of its own, 12 MB of them at 4K
LOOKED_AT = 5  # first frames that tell what the others are like
TOLERANCE = 5e-4  # seconds: timestamps are rounded to milliseconds in some containers
USUAL_RATE, LIKELY_RATE, POSSIBLE_RATE = 25.0, 240.0, 480.0
LONGEST_LAST = 10.0  # seconds that a last frame may be shown; what claims more is a slip of the header
LISTS = ("hls", "concat", "dash", "imf", "sdp")
TIMELESS = ("h264", "hevc")  # in AVI, which has no timestamps, the order in which they are shown is a guess
STILLS = ("image2", "gif", "apng", "webp")
WORTH_SEEKING = 48  # frames: fewer are as soon decoded
COMPOSED = ("gif", "apng", "webp")  # their frames build on all before, whatever they say of key frames
STILL_BRANDS = ("avif", "heic", "heix", "mif1", "msf1")
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # the others leave transparency away

# Without these flags the scaler is off by one level in brightness.
ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2  # a colour space, transfer or primaries the file does not name
HD_HEIGHT = 720  # untagged pictures of this height or more are BT.709 by custom, lower ones BT.601
MID_GREY = 128
HDR_NAMES: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
# Linear light of wide primaries in those of BT.709, all with the white of D65.
TO_BT709: dict[int, tuple[tuple[float, float, float], ...]] = {
    ColorPrimaries.BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    ColorPrimaries.SMPTE432: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0196, -0.0786, 1.0979)),
}
LUMA_2020 = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
WHITE_NITS, PEAK_NITS = 203.0, 1000.0  # BT.2408's reference white, and the peak that highlights are fitted into
KNEE = 0.75  # of white: what is darker keeps its brightness
DISPLAY_GAMMA = 2.4
BAND = 64  # rows at once, so that 4K pictures need no more memory than others


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a file says of its video: upright square pixels, frames and seconds where known, rotation already applied.

    notes: what reading changes about its pictures.
    """

    width: int
    height: int
    fps: float
    duration: float
    frames: int | None
    has_audio: bool
    rotation: int
    notes: tuple[str, ...] = ()


def probe(path: Path) -> VideoInfo:
    """What is in the file, decoding a few frames only. Raises InputError where no video can be read from it."""
    with _opened(path) as container:
        stream = _picture_stream(path, container)
        looks = _looks(path, stream, _decoded(container, stream))
        return VideoInfo(
            width=looks.size[0],
            height=looks.size[1],
            fps=_stated_rate(stream) or USUAL_RATE,
            duration=_stated_duration(container, stream),
            frames=stream.frames or None,
            has_audio=bool(container.streams.audio),
            rotation=looks.rotation % 360,
            notes=looks.notes,
        )


def read_video(
    path: Path,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3], RGB and upright, one at a time from `start` seconds on.

    With `fps`, frame k is the last one at or before start + k / fps, whatever the file's own timing; without,
    every frame comes once. `size` (width, height) stretches. Damaged stretches repeat the frame before.
    Raises InputError where no frame can be read.
    """
    if fps is not None and fps <= 0:
        raise InputError(f"Frames per second is {fps}; it must be above 0.")
    with Reel(path, size=size) as reel:
        numbers = np.flatnonzero(reel.times >= start - TOLERANCE) if fps is None else reel.sampled(fps, start, reel.end)
        if not len(numbers):
            raise InputError(f"{path} holds no frame at {start:g} seconds or later; it is shorter, or damaged.")
        for number in numbers[:max_frames].tolist():
            picture = reel.picture(number)
            if fps is not None or reel.has(number):
                yield picture.copy()


def frames_at(path: Path, fps: float, *, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """`read_video` at `fps` from the start."""
    return read_video(path, fps=fps, size=size)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata a VideoWriter was given; for other files, the container's own. Raises InputError."""
    with _opened(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    try:
        record = json.loads(tags.get(METADATA_TAG, ""))
    except json.JSONDecodeError:
        return tags
    return {str(key): str(value) for key, value in record.items()} if isinstance(record, dict) else tags


# Opening a file


def _opened(path: Path) -> InputContainer:
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no file'}; a video is needed.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); a video is needed.")
    try:
        return av.open(file_url(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise InputError(f"{path} is damaged or not a video ({error.strerror}).") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def _picture_stream(path: Path, container: InputContainer) -> av.VideoStream:
    """The stream that is the video, ready to be decoded. Raises InputError where there is none."""
    stream = main_stream(container.streams.video)
    if stream is None:
        raise InputError(f"{path} holds no picture, only other streams; a video is needed.")
    if container.format.name in LISTS:
        raise InputError(f"{path} is a list of other files; a video is needed.")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise InputError(f"{path} is {_still_kind(path)}; a video is needed.")
    if not is_known(stream):
        raise InputError(f"{path} holds video in a format that cannot be decoded here; convert it to H.264.")
    _check_side(path, (stream.codec_context.width, stream.codec_context.height))
    stream.codec_context.thread_count = min(THREADS, os.cpu_count() or 1)
    return stream


def _still_kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(21)
    moving = start[8:16] == b"WEBPVP8X" and start[20] & 2
    return "an animated WebP picture, which cannot be read here" if moving else "a still picture"


def _check_side(path: Path, size: tuple[int, int]) -> None:
    if max(size) > MOST_SIDE:
        raise InputError(f"{path} is {size[0]}x{size[1]} pixels; at most {MOST_SIDE} a side can be used.")


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or name is None:
        return stream.codec_context
    context = av.VideoCodecContext.create(name, "r")
    assert isinstance(context, av.VideoCodecContext)
    return context


def _decoded(container: InputContainer, stream: av.VideoStream) -> Frames:
    """Every sound frame in order; a damaged packet costs itself only."""
    decoder = _decoder(stream)
    for packet in demuxed(container, stream):
        try:
            frames = decoder.decode(packet if packet.size else None)
        except av.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _stated_rate(stream: av.VideoStream) -> float | None:
    """Frames per second by the file's header, where that is likely."""
    rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate)
    return next((rate for rate in rates if 0 < rate <= LIKELY_RATE), None)


def _stated_duration(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds of video by the file's header; 0.0 where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


# When pictures are shown


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


def _marks(container: InputContainer, stream: av.VideoStream) -> list[Mark]:
    return [
        Mark(packet.pts, packet.dts, packet.pos, packet.duration or 0, packet.is_keyframe, not packet.is_discard)
        for packet in demuxed(container, stream)
        if packet.size
    ]


def _stamped(marks: list[Mark], tick: Fraction, composed: bool, patience: float) -> Timeline | None:
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


def _counted(frames: Frames, tick: Fraction, usual: float, patience: float, timeless: bool) -> Timeline:
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


def _paced(timeline: Timeline) -> Timeline:
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


def _pace(stream: av.VideoStream, times: Floats) -> float:
    """Frames per second: the header's, unless the pictures' own times say something else altogether."""
    own = 1 / float(np.median(np.diff(times))) if len(times) > 1 else None
    stated = _stated_rate(stream)
    if stated is None or (own is not None and stated > 2.1 * own):
        return own or USUAL_RATE
    return stated


# Any picture of a file


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
        self._container = _opened(path)
        try:
            self._stream = _picture_stream(path, self._container)
            self._tick = self._stream.time_base or Fraction(1, 1000)
            timeline = _paced(self._timeline())
            self.times, self.end, self._stamps, self._keys = (
                timeline.times,
                timeline.end,
                timeline.stamps,
                timeline.keys,
            )
            self.fps = _pace(self._stream, self.times)
            self._looks = self._first_looks()
            self.size = self._looks.size if size is None else size
            self._convert = convert or _Converter(self.size, self._looks)
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
        resized = isinstance(self._convert, _Converter) and self._convert.resized
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
        marks = _marks(self._container, self._stream)
        self._count = len(marks)
        timeline = None if timeless else _stamped(marks, self._tick, name in COMPOSED, patience)
        if timeline is None:
            self._threaded = False  # counting must find the same frames each time
            self._reopen()
            usual = 1 / (_stated_rate(self._stream) or USUAL_RATE)
            timeline = _counted(_decoded(self._container, self._stream), self._tick, usual, patience, timeless)
        brand = self._container.metadata.get("major_brand", "")
        if len(timeline.times) == 1 and (formats[0] in STILLS or brand in STILL_BRANDS):
            raise InputError(f"{self.path} is a still picture; a video is needed.")
        return timeline

    def _first_looks(self) -> "_Looks":
        self._reopen()
        looks = _looks(self.path, self._stream, _decoded(self._container, self._stream))
        self._interlaced = looks.interlaced
        self._begin(0)
        return looks

    def _cut_off(self) -> tuple[str, ...]:
        """Leaves away what cannot be decoded at the end, and says what is missing there."""
        stated, count = _stated_duration(self._container, self._stream), self._stream.frames
        if self._keys:
            self._frame(len(self) - 1)
            last = len(self) - 1 if self._held is None else self._held[0]
            lost = len(self) - 1 - last
            if lost:
                self.end = float(self.times[last + 1])
                self.times = self.times[: last + 1]
                return (f"it is damaged: reading stopped at {self.end:.2f} s, {lost} frames before its end",)
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
        self._container = _opened(self.path)
        self._stream = _picture_stream(self.path, self._container)
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
        decoder, first = _decoder(self._stream), self._keys[gop].pts if gop else None
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


# One picture: frame to pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looks:
    """What a file's first frames are like: size is upright, with square pixels."""

    size: tuple[int, int]
    rotation: int
    orientation: tuple[bool, int, int]
    interlaced: bool
    notes: tuple[str, ...]


def _looks(path: Path, stream: av.VideoStream, frames: Frames) -> _Looks:
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path} holds no picture that can be decoded; the file is damaged or encrypted.")
    _check_side(path, (first.width, first.height))
    interlaced = any(frame.interlaced_frame for frame in chain((first,), islice(frames, LOOKED_AT - 1)))
    square = _square(first, stream)
    orientation = _orientation(first)
    notes = [*_colour_notes(first)]
    if interlaced:
        notes.append("its pictures are interlaced, so that their half-pictures were joined")
    if square != (first.width, first.height):
        notes.append(f"its pixels are not square, so that its pictures were stretched to {square[0]}x{square[1]}")
    return _Looks(
        size=_swapped(square) if orientation[0] else square,
        rotation=first.rotation,
        orientation=orientation,
        interlaced=interlaced,
        notes=tuple(notes),
    )


def _colour_notes(frame: av.VideoFrame) -> Iterator[str]:
    bits = max(part.bits for part in frame.format.components)
    if frame.color_trc in HDR_NAMES:
        yield f"its HDR pictures ({HDR_NAMES[frame.color_trc]}) were tone-mapped to BT.709"
    elif frame.color_primaries in TO_BT709:
        yield "its wide colours were brought to BT.709"
    elif bits > 8:
        yield f"its {bits}-bit pictures were brought to 8 bits"
    if _is_clear(frame) and frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255:
        yield "its transparent parts were laid on mid grey"


def _square(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """(width, height) with square pixels: the side that is too short grows, so that nothing is lost."""
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
    width, height = frame.width, frame.height
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return size if max(size) <= MOST_SIDE and abs(aspect - 1) > 0.01 else (width, height)


def _orientation(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """(rows and columns change places, then step down the rows, then along the columns) that make it upright."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, -1 if d < 0 else 1, -1 if a < 0 else 1
    return True, -1 if b < 0 else 1, -1 if c < 0 else 1


def _swapped(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


def _is_clear(frame: av.VideoFrame) -> bool:
    return any(part.is_alpha for part in frame.format.components)


class _Converter:
    """Frames to uint8 [H, W, 3] of one size: colours by their own tags, brought to BT.709 and 8 bits, transparency on
    mid grey, upright.
    """

    def __init__(self, size: tuple[int, int], looks: _Looks) -> None:
        self.size, self.resized = size, False
        self._scaler = VideoReformatter()
        self._source: tuple[int, int] | None = None
        self._rotation, self._orientation = looks.rotation, looks.orientation

    def __call__(self, frame: av.VideoFrame) -> Bytes:
        source = (frame.width, frame.height)
        self.resized |= self._source not in (None, source)
        self._source = source
        if frame.rotation != self._rotation:  # asking a frame for its matrix keeps it alive for long
            self._rotation, self._orientation = frame.rotation, _orientation(frame)
        turned, down, along = self._orientation
        size = _swapped(self.size) if turned else self.size
        picture = self._flat(frame, size)
        picture = picture.swapaxes(0, 1) if turned else picture
        return np.ascontiguousarray(picture[::down, ::along])

    def _flat(self, frame: av.VideoFrame, size: tuple[int, int]) -> Bytes:
        if frame.color_trc in HDR_NAMES or frame.color_primaries in TO_BT709:
            return to_bt709(self._scaled(frame, size, "rgb48le"), frame.color_trc, frame.color_primaries)
        if not _is_clear(frame):
            return self._scaled(frame, size, "rgb24")
        picture = self._scaled(frame, size, "rgba")
        share = picture[..., 3:].astype(np.float32) / 255
        return np.rint(picture[..., :3] * share + MID_GREY * (1 - share)).astype(np.uint8)

    def _scaled(self, frame: av.VideoFrame, size: tuple[int, int], kind: str) -> np.ndarray:
        return self._scaler.reformat(
            frame,
            width=size[0],
            height=size[1],
            format=kind,
            src_colorspace=_colorspace(frame),
            interpolation=ACCURATE,
        ).to_ndarray()


def _colorspace(frame: av.VideoFrame) -> int | None:
    if frame.colorspace != UNTAGGED or frame.format.is_rgb:
        return None
    if frame.color_trc in HDR_NAMES:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601


def to_bt709(deep: NDArray[np.uint16], transfer: int, primaries: int) -> Bytes:
    """deep uint16 [H, W, 3], full range, to uint8 as a BT.709 display shows it. HDR of unknown primaries is BT.2020.

    The scaler could do it, but makes everything from HDR's reference white on plain white. Here brightness is kept up
    to 3/4 of that, and rolled off above, so that 1000 nits are white.
    """
    curve = _light(transfer)
    wide = np.array(TO_BT709.get(primaries, TO_BT709[ColorPrimaries.BT2020]), np.float32)
    matrix = np.eye(3, dtype=np.float32) if primaries == ColorPrimaries.BT709 else wide
    out = np.empty(deep.shape, np.uint8)
    for top in range(0, len(deep), BAND):
        light = curve[deep[top : top + BAND]]
        if transfer == ColorTrc.ARIB_STD_B67:
            light *= cv2.pow(cv2.transform(light, LUMA_2020), 0.2)[..., None] * np.float32(PEAK_NITS / WHITE_NITS)
        light = np.maximum(cv2.transform(light, matrix), 0)
        if transfer in HDR_NAMES:
            light = _rolled_off(light)
        out[top : top + BAND] = np.rint(cv2.pow(np.minimum(light, 1), 1 / DISPLAY_GAMMA) * 255)
    return out


def _rolled_off(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light, 1 at reference white, into 0..1. All three colours shrink alike, so that hue stays."""
    red, green, blue = light[..., 0], light[..., 1], light[..., 2]
    peak = np.maximum(np.maximum(red, green), np.maximum(blue, 1e-6))[..., None]  # ten times as fast as max(axis=-1)
    over = np.maximum(peak - KNEE, 0) / (1 - KNEE)
    most = (PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE)
    fitted = KNEE + (1 - KNEE) * over * (1 + over / most**2) / (1 + over)  # Reinhard's curve, white at `most`
    return light * np.where(peak > KNEE, fitted / peak, 1).astype(np.float32)


def _light(transfer: int) -> NDArray[np.float32]:
    """Linear light of each of 65536 levels: of PQ 1 at reference white, of HLG the scene's, 1 at the top."""
    level = np.arange(65536) / 65535
    if transfer == ColorTrc.SMPTE2084:
        root = level ** (1 / 78.84375)
        nits = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return (nits / WHITE_NITS).astype(np.float32)
    if transfer == ColorTrc.ARIB_STD_B67:
        upper = (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(level <= 0.5, level**2 / 3, upper).astype(np.float32)
    return (level**DISPLAY_GAMMA).astype(np.float32)
