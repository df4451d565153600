"""Reading video: frames by timestamp, upright, in RGB, past damage. (Writing has its own file,
`video_writer`.)

Time 0 is the file's own start, common to picture and sound, so both stay together where a stream begins late.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import check_writable
from pasdedeux.animate.video_writer import METADATA_TAG, VideoWriter

__all__ = ["VideoInfo", "VideoWriter", "check_writable", "frames_at", "probe", "read_metadata", "read_video"]

# Without these flags the scaler is off by one level in brightness.
ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2  # a colour space or transfer the file does not name
HD_HEIGHT = 720  # untagged pictures of this height or more are BT.709 by custom, lower ones BT.601
HDR_TRANSFERS = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
MID_GREY = 128
TOLERANCE = 5e-4  # seconds: timestamps are rounded to milliseconds in some containers


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What a file says of its video: upright pixels, frames and seconds where known, rotation already
    applied.
    """

    width: int
    height: int
    fps: float
    duration: float
    frames: int | None
    has_audio: bool
    rotation: int


def probe(path: Path) -> VideoInfo:
    """What is in the file, decoding one frame only. Raises InputError where no video can be read from it."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        frame = next(_decoded(container), None)
        if frame is None:
            raise InputError(f"{path} holds no picture that can be decoded; the file is damaged.")
        width, height = (frame.width, frame.height) if frame.rotation % 180 == 0 else (frame.height, frame.width)
        return VideoInfo(
            width=width,
            height=height,
            fps=_rate(stream),
            duration=_duration(container),
            frames=stream.frames or None,
            has_audio=bool(container.streams.audio),
            rotation=frame.rotation % 360,
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
    with _opened(path) as container:
        found = False
        timed = _timed(container)
        for count, frame in enumerate(_every(timed, start) if fps is None else _sampled(timed, fps, start)):
            if count == max_frames:
                return
            found = True
            yield _rgb(frame, size)
        if not found:
            raise InputError(f"{path} holds no frame at {start:g} seconds or later; it is shorter, or damaged.")


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


def _opened(path: Path) -> InputContainer:
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if not path.is_file():
        raise InputError(f"{path} is a folder; a video is needed.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); a video is needed.")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise InputError(f"{path} is damaged or not a video ({error.strerror}).") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no picture, only other streams; a video is needed.")
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        container.close()
        raise InputError(f"{path} is a still picture; a video is needed.")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _decoded(container: InputContainer) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, in order; a damaged packet costs itself only."""
    packets = container.demux(container.streams.video[0])
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _timed(container: InputContainer) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """(start, end, frame) in seconds from the file's start; frames without a time follow the one before."""
    zero = (container.start_time or 0) / av.time_base
    usual = 1 / _rate(container.streams.video[0])
    end = 0.0
    for frame in _decoded(container):
        time = end if frame.pts is None else frame.time - zero
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        end = time + lasts
        yield time, end, frame


def _every(timed: Iterator[tuple[float, float, av.VideoFrame]], start: float) -> Iterator[av.VideoFrame]:
    return (frame for time, _, frame in timed if time >= start - TOLERANCE)


def _sampled(timed: Iterator[tuple[float, float, av.VideoFrame]], fps: float, start: float) -> Iterator[av.VideoFrame]:
    """The last frame at or before start + k / fps for k = 0, 1, ..., until the last frame ends."""
    shown, shown_end, count = None, 0.0, 0
    for time, end, frame in timed:
        while shown is not None and start + count / fps < time - TOLERANCE:
            yield shown
            count += 1
        shown, shown_end = frame, end
    while shown is not None and start + count / fps < shown_end - TOLERANCE:
        yield shown
        count += 1


def _rgb(frame: av.VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
    """One frame as uint8 [H, W, 3]: colours by its own tags, HDR brought to BT.709, transparency on mid grey,
    upright.
    """
    turned = frame.rotation % 180 != 0
    width, height = size if size is not None else (None, None)
    clear = any(part.is_alpha for part in frame.format.components)
    hdr = frame.color_trc in HDR_TRANSFERS
    picture = frame.reformat(
        width=height if turned else width,
        height=width if turned else height,
        format="rgba" if clear else "rgb24",
        src_colorspace=_colorspace(frame),
        dst_color_trc=ColorTrc.BT709 if hdr else None,
        dst_color_primaries=ColorPrimaries.BT709 if hdr else None,
        interpolation=ACCURATE,
    ).to_ndarray()
    if clear:
        share = picture[..., 3:].astype(np.float32) / 255
        picture = np.rint(picture[..., :3] * share + MID_GREY * (1 - share)).astype(np.uint8)
    return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))


def _colorspace(frame: av.VideoFrame) -> int | None:
    if frame.colorspace != UNTAGGED or frame.format.is_rgb:
        return None
    return Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601


def _rate(stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def _duration(container: InputContainer) -> float:
    """Seconds of video; 0.0 where the file does not say."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0
