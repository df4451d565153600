"""A file with a video in it, opened and ready to be decoded, or one sentence that says why it cannot be."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.packets import demuxed, file_url, is_known, main_stream

Frames: TypeAlias = Iterator[av.VideoFrame]

MOST_SIDE = 8192  # pixels: above it one picture alone is 200 MB
THREADS = 4  # each decoding thread keeps a picture of its own, 12 MB of them at 4K
LISTS = ("hls", "concat", "dash", "imf", "sdp")
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # the others leave transparency away
USUAL_RATE, LIKELY_RATE = 25.0, 240.0  # frames a second


def opened(path: Path) -> InputContainer:
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


def picture_stream(path: Path, container: InputContainer) -> av.VideoStream:
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
    check_side(path, (stream.codec_context.width, stream.codec_context.height))
    stream.codec_context.thread_count = min(THREADS, os.cpu_count() or 1)
    return stream


def _still_kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(21)
    moving = start[8:16] == b"WEBPVP8X" and start[20] & 2
    return "an animated WebP picture, which cannot be read here" if moving else "a still picture"


def check_side(path: Path, size: tuple[int, int]) -> None:
    if max(size) > MOST_SIDE:
        raise InputError(f"{path} is {size[0]}x{size[1]} pixels; at most {MOST_SIDE} a side can be used.")


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or name is None:
        return stream.codec_context
    context = av.VideoCodecContext.create(name, "r")
    assert isinstance(context, av.VideoCodecContext)
    return context


def decoded(container: InputContainer, stream: av.VideoStream) -> Frames:
    """Every sound frame in order; a damaged packet costs itself only."""
    decoder = decoder_of(stream)
    for packet in demuxed(container, stream):
        try:
            frames = decoder.decode(packet if packet.size else None)
        except av.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def stated_rate(stream: av.VideoStream) -> float | None:
    """Frames per second by the file's header, where that is likely."""
    rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate)
    return next((rate for rate in rates if 0 < rate <= LIKELY_RATE), None)


def stated_duration(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds of video by the file's header; 0.0 where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0
