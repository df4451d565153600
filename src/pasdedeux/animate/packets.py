"""Media files at their lowest level: their streams, their packets, and when their first picture is shown."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

import av
from av.container import InputContainer
from av.stream import Disposition

PATIENCE, PATIENCE_ON_AIR = 600.0, 10.0  # seconds without a picture or sound; clocks of broadcasts do jump
ON_AIR = ("mpegts", "mpeg")
TRIES = 8  # reading goes on behind damage, if it does not fail this often in a row
MOST_REORDERED = 32  # packets by which a picture may come before its turn
AnyStream = TypeVar("AnyStream", av.AudioStream, av.VideoStream)


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
