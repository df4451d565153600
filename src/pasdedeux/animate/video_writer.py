"""Writing video: H.264 with true BT.709 colours, the performance's sound beside it, and a record of how it
was made.

Every frame handed over comes out, once. Sound is copied as it is where players know it and nothing of it is cut, else
turned into AAC; it is written along with the pictures and ends with them. It keeps its place by its timestamps: 0 is
the first picture of the file it comes from.
"""

import json
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.sound import no_sound, opened_audio, sound_of, zero_and_copying

METADATA_TAG = "comment"  # survives in every container; custom keys do not
COPIED = {
    ".mp4": ("aac", "mp3", "opus"),
    ".m4v": ("aac", "mp3"),
    ".mov": ("aac", "mp3"),
    ".mkv": ("aac", "mp3", "opus"),
}
QUALITY = {"crf": "17", "preset": "medium"}
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
            self._sound, self.notes = no_sound(), ()
            if audio_from is not None:
                plan = zero_and_copying(audio_from, copied, audio_start)
                source = opening.enter_context(opened_audio(audio_from))
                self._sound, self.notes = sound_of(source, self._container, *plan)
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
