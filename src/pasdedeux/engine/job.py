"""What is asked for and what comes of it: frozen records, the same from Python, the command line and JSON.

In a job None stands for the model's own default. A job is checked when it is made, as far as that is possible
without its model and its files; each fault is one sentence.
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from pasdedeux.animate.perform import Bytes
from pasdedeux.animate.video_writer import VideoWriter
from pasdedeux.denoise import SOLVERS, Handoff
from pasdedeux.engine.preparation import Preparation
from pasdedeux.engine.previews import Preview
from pasdedeux.engine.report import Report

MODES = ("animate", "replace")
GENERATE = "generate"
PUPPET = "puppet:"
LARGEST = 8192
"""Pixels a side; no model of today comes near, and one digit too many would fill the memory."""
MOST = {"steps": 1000, "frames": 100_000}
KINDS: dict[str, tuple[type, ...]] = {
    "steps": (int,),
    "seed": (int,),
    "frames": (int,),
    "fps": (int, float),
    "shift": (int, float),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One clip to make.

    character: a picture, or "puppet:SEED"; driver: a video, or "puppet:SEED"; None is a built-in puppet. mode
    "animate" keeps the character's own place, "replace" puts the character into the driver's, and "generate" makes a
    clip of a prompt and, where the model takes one, of a picture to begin with (image). size is "WxH" in pixels. frames
    is the length of a puppet's or generated clip, and the most that is taken of a video. handoff is "auto", a sigma
    ("0.6") or a signal-to-noise ratio ("snr:0.1"); where a model has several handoffs, with commas. guidance is one
    scale ("3.5") or one per expert, noisiest first ("4,3"); 1 is none. lora are "[high:|low:]FILE[@WEIGHT]"; preset
    is the name of a distilled LoRA's settings. model is "builtin", a folder or a file. preparation is how driver and
    character are looked at. A driver may also be a folder that `pasdedeux prepare` wrote. Raises ValueError where a
    value is of no use.
    """

    character: str | None = None
    driver: str | None = None
    mode: str = "animate"
    steps: int | None = None
    seed: int = 0
    size: str | None = None
    frames: int | None = None
    fps: float | None = None
    handoff: str = "auto"
    solver: str | None = None
    model: str | None = None
    prompt: str | None = None
    negative: str | None = None
    image: str | None = None
    guidance: str | None = None
    shift: float | None = None
    lora: tuple[str, ...] = ()
    preset: str | None = None
    preparation: Preparation = field(default_factory=Preparation)

    def __post_init__(self) -> None:
        for known in fields(self):
            if known.name not in ("lora", "preparation"):
                _check_kind(known.name, getattr(self, known.name), optional=known.default is None)
        for text in self.lora:
            _check_kind("lora", text, optional=False)
        self._check_names()
        self._check_numbers()
        self._check_mode()

    def _check_names(self) -> None:
        if self.mode not in (*MODES, GENERATE):
            raise ValueError(f'The mode is "{self.mode}"; it must be {" or ".join(MODES)}.')
        if self.solver is not None and self.solver not in SOLVERS:
            raise ValueError(f'The solver is "{self.solver}"; it must be one of {", ".join(SOLVERS)}.')
        for source in (self.character, self.driver):
            puppet_seed(source)
        if self.size is not None:
            parse_size(self.size)
        Handoff.parse(self.handoff, Handoff())
        if self.guidance is not None:
            parse_guidance(self.guidance)

    def _check_numbers(self) -> None:
        for name in ("steps", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
            if value is not None and value > MOST[name]:
                raise ValueError(f"{name} is {value}; it must be {MOST[name]} at most.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"The seed is {self.seed}; it must be 0 or more, and below 2^63.")
        if self.fps is not None and not 1 <= self.fps <= 120:
            raise ValueError(f"fps is {self.fps:g}; it must lie between 1 and 120 frames per second.")
        if self.shift is not None and not 0 < self.shift <= 100:
            raise ValueError(f"The flow shift is {self.shift:g}; it must lie above 0 and not exceed 100.")

    def _check_mode(self) -> None:
        if self.mode == GENERATE and (self.character is not None or self.driver is not None):
            raise ValueError("A generated clip takes a prompt and an image; a character and a driver are animated.")
        if self.mode != GENERATE and self.image is not None:
            raise ValueError("An image to begin with is for generated clips; to animate, give it as the character.")

    @classmethod
    def animate(
        cls,
        *,
        character: str | PathLike[str] | None = None,
        driver: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> "Job":
        """A job in animate mode; `settings` are the other fields."""
        return cls(character=_text(character), driver=_text(driver), mode="animate", **settings)

    @classmethod
    def replace(
        cls,
        *,
        character: str | PathLike[str] | None = None,
        driver: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> "Job":
        """A job in replace mode; `settings` are the other fields."""
        return cls(character=_text(character), driver=_text(driver), mode="replace", **settings)

    @classmethod
    def generate(cls, prompt: str, *, image: str | PathLike[str] | None = None, **settings: Any) -> "Job":
        """A clip of a prompt, and of a picture to begin with; `settings` are the other fields."""
        return cls(prompt=prompt, image=_text(image), mode=GENERATE, **settings)

    def to_json(self) -> str:
        """One line that `from_json` reads back as an equal job."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Raises ValueError if the text is not a job, or holds a key that no job has."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The job is not JSON: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError("The job must be a JSON object, in braces.")
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(record) - set(known))
        if unknown:
            raise ValueError(f"The job has no {', '.join(unknown)}; it may have {', '.join(known)}.")
        if isinstance(record.get("lora"), list):
            record["lora"] = tuple(record["lora"])  # JSON has no tuples
        if "preparation" in record:
            record["preparation"] = Preparation.from_record(record["preparation"])
        return cls(**record)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Result:
    """A finished clip: frames uint8 [T, H, W, 3] at `fps`, its report, and the sound that belongs to it."""

    frames: Bytes
    fps: float
    report: Report
    previews: tuple[Preview, ...]
    audio: Path | None
    audio_start: float
    metadata: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write a video with the driver's sound; it takes its name only when whole. Raises InputError."""
        size = (self.frames.shape[2], self.frames.shape[1])
        with VideoWriter(Path(path), self.fps, size, self.audio, self.audio_start, self.metadata) as video:
            for frame in self.frames:
                video.write(frame)


def parse_size(text: str) -> tuple[int, int]:
    """ "128x96" to (width, height). Raises ValueError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip().lower())
    if found is None:
        raise ValueError(f'The size is "{text}"; write it as WIDTHxHEIGHT in pixels, for instance 128x128.')
    width, height = int(found[1]), int(found[2])
    if max(width, height) > LARGEST:
        raise ValueError(f"The size is {width}x{height}; neither side may have more than {LARGEST} pixels.")
    return width, height


def parse_guidance(text: str) -> tuple[float, ...]:
    """ "3.5" or "4,3" to the scales. Raises ValueError for anything but finite numbers that are not negative."""
    try:
        scales = tuple(float(item) for item in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 <= scale < 1000 for scale in scales):
        raise ValueError(f'The guidance is "{text}"; write a number such as 3.5, or one per expert, such as 4,3.')
    return scales


def puppet_seed(source: str | None) -> int | None:
    """The seed in "puppet:SEED", None where `source` is something else. Raises ValueError for a bad seed."""
    if source is None or not source.startswith(PUPPET):
        return None
    seed = source.removeprefix(PUPPET)
    if not (seed.isascii() and seed.isdigit()):
        raise ValueError(f'"{source}" names no puppet; write puppet: and a whole number, for instance puppet:7.')
    return int(seed)


def _check_kind(name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    kinds = KINDS.get(name, (str,))
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = {int: "a whole number", float: "a number", str: "text"}[kinds[-1]]
        raise ValueError(f"{name} is {value!r}; it must be {wanted}.")


def _text(source: str | PathLike[str] | None) -> str | None:
    return None if source is None else str(source)
