"""Writing video: H.264 with true BT.709 colours, the performance's sound beside it, and a record of how it
was made.

Every frame handed over comes out, once. Sound is copied as it is where players know it and nothing of it is cut, else
turned into AAC; it is written along with the pictures and ends with them. It keeps its place by its timestamps: 0 is
the first picture of the file it comes from.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import written_whole

METADATA_TAG = "comment"  # survives in every container; custom keys do not
COPIED = {
    ".mp4": ("aac", "mp3", "opus"),
    ".m4v": ("aac", "mp3"),
    ".mov": ("aac", "mp3"),
    ".mkv": ("aac", "mp3", "opus"),
}
Packet: TypeAlias = "av.Packet[av.AudioStream]"
Samples: TypeAlias = NDArray[np.float32]
AnyStream = TypeVar("AnyStream", av.AudioStream, av.VideoStream)
QUALITY = {"crf": "17", "preset": "medium"}
AAC_RATE, AAC_BITS = 48_000, 192_000
RUN_UP = 0.1  # seconds of packets that a codec may need before its first sound, and that players leave away
SLACK = 0.01  # seconds by which rounded timestamps of sound may be off
PATIENCE, PATIENCE_ON_AIR = 600.0, 10.0  # seconds without a picture or sound; clocks of broadcasts do jump
ON_AIR = ("mpegts", "mpeg")
TRIES = 8  # reading goes on behind damage, if it does not fail this often in a row
MOST_REORDERED = 32  # packets by which a picture may come before its turn
TO_YUV = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class VideoWriter:
    """with VideoWriter(path, fps, (width, height), audio_from, start, metadata) as video: video.write(frame)
    ...

    The file appears under `path` when the block ends well; after an exception nothing remains. notes: what is to be
    said about the sound. Raises InputError before any work where the folder, the suffix, the size or the sound cannot
    be used.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        size: tuple[int, int],
        audio_from: Path | None = None,
        audio_start: float = 0.0,
        metadata: dict[str, str] | None = None,
    ) -> None:
        _check(path, fps, size, audio_from)
        self.size, self.rate, self.count = size, Fraction(fps).limit_denominator(100_000), 0
        self._stack = ExitStack()
        with ExitStack() as opening:
            part = opening.enter_context(written_whole(path))
            options = {"movflags": "faststart"} if path.suffix.lower() != ".mkv" else {}
            self._container = opening.enter_context(av.open(str(part), "w", options=options))
            self._container.metadata[METADATA_TAG] = json.dumps(metadata or {})
            self._stream = _video_stream(self._container, self.rate, size)
            copied = COPIED[path.suffix.lower()]
            self._sound, self.notes = _no_sound(), ()
            if audio_from is not None:
                plan = _zero_and_copying(audio_from, copied, audio_start)
                source = opening.enter_context(_opened_audio(audio_from))
                self._sound, self.notes = _sound(source, self._container, *plan)
            self._next_sound = next(self._sound, None)
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def write(self, frame: np.ndarray) -> None:
        """One more frame, uint8 [H, W, 3] RGB of the writer's size."""
        if frame.shape != (self.size[1], self.size[0], 3) or frame.dtype != np.uint8:
            wanted = [self.size[1], self.size[0], 3]
            raise ValueError(f"A frame must be uint8 {wanted}, but is {frame.dtype} {list(frame.shape)}.")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=TO_YUV,
        )
        picture.pts, picture.time_base = self.count, 1 / self.rate
        self._container.mux(self._stream.encode(picture))
        self.count += 1
        self._write_sound(float(self.count / self.rate))

    def _write_sound(self, until: float) -> None:
        while self._next_sound is not None and self._next_sound[0] < until:
            self._container.mux(self._next_sound[1])
            self._next_sound = next(self._sound, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.count == 0:
                raise InputError("No frame was written, so there is no video.")
            self._container.mux(self._stream.encode(None))


def _check(path: Path, fps: float, size: tuple[int, int], audio_from: Path | None) -> None:
    if path.suffix.lower() not in COPIED:
        raise InputError(f"{path} must end in one of {', '.join(COPIED)}.")
    if not 0 < fps < 1000:
        raise InputError(f"Frames per second is {fps}; it must lie between 0 and 1000.")
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise InputError(f"A video's width and height must be even, but are {size[0]}x{size[1]}.")
    if audio_from is not None and not audio_from.is_file():
        raise InputError(f"The sound is to come from {audio_from}, but there is no such file.")


def _video_stream(container: OutputContainer, rate: Fraction, size: tuple[int, int]) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=rate, options=QUALITY)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


# Reading, as far as `video` needs it too


def file_url(path: Path) -> str:
    """The path in words that no name can turn into another protocol's."""
    return f"file:{path}"


def demuxed(source: InputContainer, stream: AnyStream) -> Iterator["av.Packet[AnyStream]"]:
    """The stream's packets until its end, or until damage makes further reading impossible; then an empty one."""
    failures, ended = 0, False
    while failures < TRIES and not ended:
        packets = cast("Iterator[av.Packet[AnyStream]]", source.demux(stream))
        try:
            for packet in packets:
                failures, ended = 0, packet.size == 0
                yield packet
            return
        except av.FFmpegError:
            failures += 1
        except IndexError:  # PyAV, at the end, where a damaged file has shown more streams than it had announced
            break
    if not ended:
        yield cast("av.Packet[AnyStream]", av.Packet())


def main_stream(streams: Sequence[AnyStream]) -> AnyStream | None:
    """The one that its file marks as the default, else the first; a cover picture is none. None without any."""
    usable = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    return next((stream for stream in usable if stream.disposition & Disposition.default), next(iter(usable), None))


def is_known(stream: av.AudioStream | av.VideoStream) -> bool:
    """Whether there is a decoder for it."""
    # PyAV's types leave out that there may be no context.
    return getattr(stream, "codec_context", None) is not None


def patience_of(source: InputContainer) -> float:
    """Seconds without anything that are believed; after more, the clock has jumped."""
    return PATIENCE_ON_AIR if source.format.name.split(",")[0] in ON_AIR else PATIENCE


def time_zero(source: InputContainer) -> float:
    """When the first picture is shown by the file's own clock, in seconds; without pictures, when the file begins."""
    stream = main_stream(source.streams.video)
    begins = (source.start_time or 0) / av.time_base
    if stream is None or stream.time_base is None or source.format.name == "avi":
        return begins  # AVI tells when a picture is decoded, so that a first one seems to come late
    shown = (packet.pts for packet in demuxed(source, stream) if packet.pts is not None and not packet.is_discard)
    first = min(islice(shown, MOST_REORDERED), default=None)
    return begins if first is None else float(first * stream.time_base)


# Sound


def _opened_audio(path: Path) -> InputContainer:
    try:
        return av.open(file_url(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise InputError(f"The sound of {path} cannot be read ({error.strerror}).") from error


def _no_sound() -> Iterator[tuple[float, Packet]]:
    return iter(())


def _zero_and_copying(path: Path, copied: tuple[str, ...], start: float) -> tuple[float, bool]:
    """When the sound begins by the file's clock, and whether its packets can stay as they are."""
    with _opened_audio(path) as source:
        zero = time_zero(source) + start
    with _opened_audio(path) as source:
        stream = main_stream(source.streams.audio)
        if stream is None or not is_known(stream):
            return zero, False
        kind = stream.codec_context.codec.canonical_name
        # AAC out of a broadcast stream has no header of its own.
        headed = kind in copied and (kind == "mp3" or bool(stream.codec_context.extradata))
        return zero, headed and _is_even(demuxed(source, stream), stream.time_base or Fraction(1, AAC_RATE), zero)


def _is_even(packets: Iterator[Packet], tick: Fraction, zero: float) -> bool:
    """Whether packets follow each other without gaps, and none but a codec's run-up lies before `zero`.

    A cut inside a packet would move the sound by up to 21 ms or need players that mind edit lists.
    """
    end: float | None = None
    for packet in packets:
        if not packet.size:
            continue
        if packet.pts is None or packet.is_corrupt:
            return False
        time = float(packet.pts * tick)
        if time < zero - RUN_UP or (end is not None and abs(time - end) > SLACK):
            return False
        end = time + float((packet.duration or 0) * tick)
    return end is not None


def _sound(
    source: InputContainer, target: OutputContainer, zero: float, copying: bool
) -> tuple[Iterator[tuple[float, Packet]], tuple[str, ...]]:
    """(seconds, packet ready for `target`) from the source's main audio stream, counted from `zero`; and notes."""
    stream = main_stream(source.streams.audio)
    if stream is None:
        return _no_sound(), ()
    if not is_known(stream):
        return _no_sound(), ("its sound is in a format that cannot be decoded here, so that the video is silent",)
    if copying:
        return _copied(source, stream, target.add_stream_from_template(stream), zero), ()
    out = target.add_stream("aac", rate=AAC_RATE, layout="stereo")
    out.bit_rate = AAC_BITS
    return _transcoded(source, stream, out, zero), ()


def _copied(
    source: InputContainer, stream: av.AudioStream, out: av.AudioStream, zero: float
) -> Iterator[tuple[float, Packet]]:
    """Packets as they are, a codec's run-up before 0 among them."""
    tick = stream.time_base or Fraction(1, AAC_RATE)
    shift = round(zero / tick)
    for packet in demuxed(source, stream):
        if packet.pts is None:
            continue
        packet.pts -= shift
        packet.dts = packet.pts
        packet.stream = out
        yield float(packet.pts * tick), packet


def _transcoded(
    source: InputContainer, stream: av.AudioStream, out: av.AudioStream, zero: float
) -> Iterator[tuple[float, Packet]]:
    position = 0
    for samples in _placed(_resampled(_audio_frames(source, stream)), zero, patience_of(source)):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = AAC_RATE, position, Fraction(1, AAC_RATE)
        position += samples.shape[1]
        yield from _stamped(out.encode(frame))
    yield from _stamped(out.encode(None))


def _placed(parts: Iterator[tuple[float | None, Samples]], zero: float, patience: float) -> Iterator[Samples]:
    """Samples [2, n] from `zero` on without a break: silence where there are none, each at its time to the sample.

    What is off by less than a rounded timestamp follows at once, since moving it would be heard; so does what comes
    after the clock has jumped, by more than a second back or `patience` ahead.
    """
    position, shift = 0, 0
    for time, samples in parts:
        at = position if time is None else round((time - zero) * AAC_RATE) + shift
        if position and not -AAC_RATE < at - position < patience * AAC_RATE:
            shift += position - at
            at = position
        at = position if position and abs(at - position) <= SLACK * AAC_RATE else at
        for length in _chunks(at - position):
            yield np.zeros((2, length), np.float32)
        fresh = samples[:, max(position - at, 0) :]
        position = max(position, at) + fresh.shape[1]
        if fresh.shape[1]:
            yield fresh


def _chunks(length: int) -> Iterator[int]:
    """`length` in parts of a second."""
    return (min(AAC_RATE, length - begun) for begun in range(0, length, AAC_RATE))


def _resampled(frames: Iterator[av.AudioFrame]) -> Iterator[tuple[float | None, Samples]]:
    """(seconds by the source's clock, float32 [2, n] at AAC_RATE)."""
    resampler, kind = None, None
    for frame in chain(frames, (None,)):
        found = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != kind:
            yield from _timed(resampler.resample(None) if resampler is not None else [])
            resampler, kind = av.AudioResampler(format="fltp", layout="stereo", rate=AAC_RATE), found
        if frame is not None and resampler is not None:
            yield from _timed(resampler.resample(frame))


def _timed(frames: Sequence[av.AudioFrame | None]) -> Iterator[tuple[float | None, Samples]]:
    return ((frame.time, np.asarray(frame.to_ndarray(), np.float32)) for frame in frames if frame is not None)


def _stamped(packets: list[Packet]) -> Iterator[tuple[float, Packet]]:
    return ((float((packet.pts or 0) * packet.time_base), packet) for packet in packets)


def _audio_frames(source: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    for packet in demuxed(source, stream):
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except av.FFmpegError:
            continue
        yield from frames
