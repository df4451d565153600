"""The sound of a video: copied as it is where nothing of it is cut, else turned into AAC, each part at its time."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.packets import demuxed, file_url, is_known, main_stream, patience_of, time_zero

Packet: TypeAlias = "av.Packet[av.AudioStream]"
Samples: TypeAlias = NDArray[np.float32]
AAC_RATE, AAC_BITS = 48_000, 192_000
RUN_UP = 0.1  # seconds of packets that a codec may need before its first sound, and that players leave away
SLACK = 0.01  # seconds by which rounded timestamps of sound may be off


def opened_audio(path: Path) -> InputContainer:
    try:
        return av.open(file_url(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise InputError(f"The sound of {path} cannot be read ({error.strerror}).") from error


def no_sound() -> Iterator[tuple[float, Packet]]:
    return iter(())


def zero_and_copying(path: Path, copied: tuple[str, ...], start: float) -> tuple[float, bool]:
    """When the sound begins by the file's clock, and whether its packets can stay as they are."""
    with opened_audio(path) as source:
        zero = time_zero(source) + start
    with opened_audio(path) as source:
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


def sound_of(
    source: InputContainer, target: OutputContainer, zero: float, copying: bool
) -> tuple[Iterator[tuple[float, Packet]], tuple[str, ...]]:
    """(seconds, packet ready for `target`) from the source's main audio stream, counted from `zero`; and notes."""
    stream = main_stream(source.streams.audio)
    if stream is None:
        return no_sound(), ()
    if not is_known(stream):
        return no_sound(), ("its sound is in a format that cannot be decoded here, so that the video is silent",)
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
