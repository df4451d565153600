"""Clips in files that keep every bit: colour or masks, one at a time in, any of them out.

H.264 without quantisation, in an MP4 that readers built on FFmpeg play: PyAV, OpenCV, imageio, decord. At 1080p a mask
takes about 2 KB a frame, a drawing 20 KB, a photo 1 MB. Colour is kept as RGB, since any other would round it; browsers
and hardware players do not show that kind.
"""

import json
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.outputs import written_whole
from pasdedeux.animate.reel import Reel
from pasdedeux.animate.video_writer import METADATA_TAG

Bytes: TypeAlias = NDArray[np.uint8]
Kind: TypeAlias = Literal["rgb", "grey"]

KEY_EVERY = 30  # frames: what going back may cost
PROFILE = "High 4:4:4 Predictive"  # the only one without losses
# Encoder, what it is given, and its options: arithmetic coding makes masks five times smaller, but photos slow to read.
FORMATS: dict[Kind, tuple[str, str, dict[str, str]]] = {
    "rgb": ("libx264rgb", "rgb24", {}),
    "grey": ("libx264", "gray", {"x264-params": "cabac=1"}),
}
OPTIONS = {"qp": "0", "preset": "ultrafast", "g": str(KEY_EVERY), "bf": "0"}


class LosslessWriter:
    """with LosslessWriter(path, fps, (width, height), "grey") as file: file.write(mask) ...

    "rgb" takes uint8 [H, W, 3], "grey" uint8 [H, W]. The file appears under `path` when the block ends well; after an
    exception nothing remains. Raises InputError where it cannot be written.
    """

    def __init__(
        self, path: Path, fps: float, size: tuple[int, int], kind: Kind, metadata: dict[str, str] | None = None
    ) -> None:
        if path.suffix.lower() != ".mp4":
            raise InputError(f"{path} must end in .mp4.")
        if not 0 < fps < 1000:
            raise InputError(f"Frames per second is {fps}; it must lie between 0 and 1000.")
        if min(size) < 2:
            raise InputError(f"A clip needs pictures of at least 2x2 pixels, but these are {size[0]}x{size[1]}.")
        encoder, self._given, options = FORMATS[kind]
        self.kind, self.size, self.count = kind, size, 0
        self._tick = 1 / Fraction(fps).limit_denominator(100_000)
        with ExitStack() as opening:
            part = opening.enter_context(written_whole(path))
            self._container = opening.enter_context(av.open(str(part), "w", options={"movflags": "faststart"}))
            self._container.metadata[METADATA_TAG] = json.dumps(metadata or {})
            stream = self._container.add_stream(encoder, rate=1 / self._tick, options={**OPTIONS, **options})
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            self._stream.width, self._stream.height, self._stream.pix_fmt = *size, self._given
            self._stream.codec_context.time_base = self._tick
            self._stream.codec_context.color_range = ColorRange.JPEG
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def write(self, picture: Bytes) -> None:
        """One more picture of the writer's size and kind."""
        wanted = (self.size[1], self.size[0], *((3,) if self.kind == "rgb" else ()))
        if picture.shape != wanted or picture.dtype != np.uint8:
            raise ValueError(f"A picture must be uint8 {list(wanted)}, but is {picture.dtype} {list(picture.shape)}.")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=self._given)
        frame.color_range = ColorRange.JPEG
        frame.pts, frame.time_base = self.count, self._tick
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self.count == 0:
                raise InputError("No picture was written, so there is no clip.")
            self._container.mux(self._stream.encode(None))


class LosslessClip:
    """A LosslessWriter's file as a clip: uint8 [n, H, W, 3] or, of masks, [n, H, W]. Close it, or use it with `with`.

    Raises InputError where the file is no such clip.
    """

    def __init__(self, path: Path) -> None:
        self._reel = Reel(path, convert=_exact)
        self.kind: Kind = "rgb" if self._reel.pix_fmt == "gbrp" else "grey"
        if self._reel.profile != PROFILE:
            self._reel.close()
            raise InputError(f"{path} is not a lossless clip; its pixels were compressed.")
        self.size, self.fps = self._reel.size, self._reel.fps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._reel)

    def __getitem__(self, index: list[int], /) -> Bytes:
        return np.stack([self._reel.picture(range(len(self))[i]) for i in index])

    def close(self) -> None:
        """Lets go of the file."""
        self._reel.close()


def _exact(frame: av.VideoFrame) -> Bytes:
    """The frame's own values, which no scaler touches. Decoders give greys a colour of none, which is left away."""
    if frame.format.name == "gbrp":
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    plane = frame.planes[0]
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]
