"""What the corpus of bad inputs is made with: a puppet's film whose pictures can be told apart, and the list of cases.

Every picture says its number in bars at its top and shows four colours at its bottom, so that one that is lost,
doubled, turned, mirrored or discoloured is found out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.puppets import Character, Choreography, Light, Place, render

MEDIA = Path(__file__).parents[3].parent / "shared/media"
SIZE, FPS, FRAMES = (160, 120), 12, 12
SEED = 11
COLOURS = np.array([(200, 40, 40), (40, 160, 60), (50, 60, 190), (205, 205, 205)], np.uint8)
BANDS = 6
"""The bars fill the upper 1/6 of the picture, the colours the lower 1/6."""

Pictures = Sequence[np.ndarray]
Made = Path | tuple[Path, tuple[str, ...]]
Kind = Literal["good", "warned", "refused"]


def stamped(picture: np.ndarray, number: int) -> np.ndarray:
    """The picture with its number in bars (1 0, four bits, 1 1) at its top and four colours at its bottom."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    bars = np.array([1, 0, *(number >> bit & 1 for bit in range(4)), 1, 1])
    across = np.arange(width)
    picture[: height // BANDS, :] = (20 + 210 * bars[across * 8 // width])[None, :, None]
    picture[height - height // BANDS :, :] = COLOURS[across * 4 // width]
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number that `stamped` wrote; -1 where it cannot be read, as in a mirrored or turned picture."""
    height = picture.shape[0]
    rows = picture[height // 30 : height // 8].mean(axis=(0, 2))
    bars = [part[len(part) // 4 : -(len(part) // 4) or None].mean() > 127 for part in np.array_split(rows, 8)]
    if [bars[0], bars[1], *bars[6:]] != [True, False, True, True]:
        return -1
    return sum(1 << bit for bit, lit in enumerate(bars[2:6]) if lit)


def discoloured(picture: np.ndarray) -> float:
    """How far the four colours are off at worst, in levels."""
    height, width = picture.shape[:2]
    row = picture[height - height // 9 : height - height // 24]
    places = [int((i + 0.5) * width / 4) for i in range(4)]
    reach = max(width // 16, 1)
    seen = np.array([row[:, x - reach : x + reach].mean(axis=(0, 1)) for x in places])
    return float(np.abs(seen - COLOURS).max())


@dataclass(frozen=True)
class Kit:
    """What cases are made of: a folder for them, the puppet's pictures and points, and the man's pictures."""

    folder: Path

    @cached_property
    def puppet(self) -> tuple[list[np.ndarray], Keypoints]:
        """FRAMES stamped pictures of SIZE, and the puppet's points."""
        poses = Choreography.from_seed(SEED).poses(FRAMES, float(FPS), start=0)
        clip = render(Character.from_seed(SEED), poses, Place.from_seed(SEED), Light.from_seed(SEED), SIZE)
        points = Keypoints(body=clip.body, hands=clip.hands, face=clip.face, size=SIZE)
        return [stamped(frame, i) for i, frame in enumerate(clip.frames)], points

    @property
    def frames(self) -> list[np.ndarray]:
        """The puppet's pictures."""
        return self.puppet[0]

    @cached_property
    def man(self) -> list[np.ndarray]:
        """Eight pictures of a real man at a desk, uint8 [270, 480, 3], six a second."""
        from pasdedeux.animate.video import frames_at

        seen = frames_at(MEDIA / "talk.mp4", 6, size=(480, 270))
        return [next(seen) for _ in range(8)]

    def points(self, numbers: Sequence[int], name: str) -> Path:
        """A file of the puppet's points in the pictures of these numbers."""
        path = self.folder / f"{name}.points.npz"
        save_keypoints(path, self.puppet[1][np.array(numbers)], FPS)
        return path


def film(
    path: Path,
    pictures: Pictures,
    *,
    codec: str = "libx264",
    pix: str = "yuv420p",
    rate: float = FPS,
    ticks: Sequence[int] | None = None,
    clock: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    setup: Callable[[av.VideoStream], None] = lambda stream: None,
    space: Colorspace = Colorspace.ITU709,
    sound: tuple[str, float, float] | None = None,
) -> Path:
    """A video of these pictures, at `rate` or at `ticks` of `clock`; sound: codec, begin and end in seconds."""
    fps = Fraction(rate).limit_denominator(1001)
    clock = clock or 1 / fps
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=fps, options={"crf": "12"} if options is None else options)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pix
        stream.codec_context.time_base = clock
        stream.codec_context.colorspace, stream.codec_context.color_range = space, ColorRange.MPEG
        setup(stream)
        tone = None if sound is None else _tone(file, *sound)
        for count, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            target = {} if pix in ("argb", "rgba", "rgb24", "rgb8") else {"dst_colorspace": space}
            frame = frame.reformat(format=pix, **target)
            frame.pts, frame.time_base = count if ticks is None else ticks[count], clock
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for packet in tone or ():
            file.mux(packet)
    return path


def _tone(file: Any, codec: str, begin: float, end: float) -> Iterator[Any]:
    """A tone of 440 Hz as the file's sound, its packets from `begin` to `end`."""
    stream = file.add_stream(codec, rate=48000, layout="mono")

    def packets() -> Iterator[Any]:
        wave_of = np.sin(np.arange(round((end - begin) * 48000)) * 2 * np.pi * 440 / 48000) * 0.6
        kind, samples = ("s16", (wave_of * 32767).astype(np.int16)) if "pcm" in codec else ("fltp", wave_of)
        frame = av.AudioFrame.from_ndarray(
            samples.astype(samples.dtype if kind == "s16" else np.float32)[None], kind, "mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 48000, round(begin * 48000), Fraction(1, 48000)
        yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


# Cases


@dataclass(frozen=True, kw_only=True)
class Case:
    """A driver or a character: how it is made, and what is to come of it.

    says: a piece of the sentence that is wanted; numbers: the film's pictures that must come out at FPS, None where
    the real man is looked for instead; levels: by how much colours may be off; sound: seconds in which the tone is
    heard in the result; options: more words of the command line; slow: more than a few seconds.
    """

    name: str
    make: Callable[[Kit, Path], Made]
    role: Literal["driver", "character"]
    expect: Kind
    says: str
    numbers: tuple[int, ...] | None
    levels: float = 12
    sound: tuple[float, float] | None = None
    options: tuple[str, ...] = ()
    frames: int | None = None
    real: bool = False
    slow: bool = False
    flaw: str = ""


CASES: dict[str, Case] = {}
Maker = Callable[[Kit, Path], Made]


def case(
    role: Literal["driver", "character"] = "driver",
    expect: Kind = "good",
    says: str = "",
    numbers: Iterable[int] | None = range(FRAMES),
    **more: Any,
) -> Callable[[Maker], Maker]:
    """Put a maker among the cases, under its own name."""

    def keep(make: Maker) -> Maker:
        name = make.__name__.strip("_")
        shown = None if numbers is None or more.get("real") or expect == "refused" else tuple(numbers)
        CASES[name] = Case(name=name, make=make, role=role, expect=expect, says=says, numbers=shown, **more)
        return make

    return keep


def refused(says: str, **more: Any) -> Callable[[Maker], Maker]:
    """A driver that ends in a sentence with these words."""
    return case("driver", "refused", says, **more)


def warned(says: str, numbers: Iterable[int] | None = range(FRAMES), **more: Any) -> Callable[[Maker], Maker]:
    """A driver that ends in a result, and a sentence with these words."""
    return case("driver", "warned", says, numbers, **more)


def good(numbers: Iterable[int] | None = range(FRAMES), **more: Any) -> Callable[[Maker], Maker]:
    """A driver that ends in a result, with nothing to say of the file."""
    return case("driver", "good", "", numbers, **more)


def character(expect: Kind, says: str = "", **more: Any) -> Callable[[Maker], Maker]:
    """A character."""
    return case("character", expect, says, None, **more)
