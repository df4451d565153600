"""How a driver and a character are to be looked at: the part of a job that is about preparation."""

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pasdedeux.animate.prepared import Wanted

RETARGETS = ("auto", "wan", "none")
STAGES = ("people", "pose", "mask")
WHOLE: dict[str, dict[str, str]] = {
    "auto": {},
    "mediapipe": dict.fromkeys(STAGES, "mediapipe"),
    "vitpose": {"pose": "vitpose"},
    "rtdetr": {"people": "rtdetr"},
    "sam2": {"mask": "sam2"},
}
MOST_GROWTH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What of the driver is taken, who in it, by which means, and how that is fitted to the character.

    start, end: seconds of the driver. person: the number of somebody in it, or near: "X,Y" in shares of the picture.
    keypoints, mask, skeleton: files that say it already (skeleton: a video of drawn poses). character_keypoints: those
    of the character's picture. backend: "mediapipe", "vitpose", or by stage "people=rtdetr,pose=vitpose,mask=sam2";
    models: the folder of their files. retarget: "auto", "wan" (Wan-Animate's own rule) or "none" (the performer's
    proportions). grow: pixels by which a mask is widened; blocks: "COLUMNSxROWS" that are filled where it touches them,
    "0x0" for its outline. Raises ValueError where a value is of no use.
    """

    start: float = 0.0
    end: float | None = None
    person: int | None = None
    near: str | None = None
    keypoints: str | None = None
    mask: str | None = None
    skeleton: str | None = None
    character_keypoints: str | None = None
    backend: str = "auto"
    models: str | None = None
    retarget: str = "auto"
    grow: int | None = None
    blocks: str = "1x1"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{name} is {value!r}; it must be a number of seconds.")
        if self.retarget not in RETARGETS:
            raise ValueError(f'Retargeting is "{self.retarget}"; it must be {", ".join(RETARGETS)}.')
        if self.grow is not None and not 0 <= self.grow <= MOST_GROWTH:
            raise ValueError(f"The mask is to grow by {self.grow} pixels; it must be 0 to {MOST_GROWTH}.")
        if self.skeleton is not None and (self.keypoints is not None or self.mask is not None):
            raise ValueError("A skeleton video is drawn already; keypoints and a mask do not go with it.")
        self.grid  # noqa: B018 - parsed once, for its faults
        self.wanted(Path("driver"))

    @property
    def grid(self) -> tuple[int, int]:
        """(columns, rows) of the mask's blocks; (0, 0) is its outline. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", self.blocks.strip().lower())
        if found is None or (found[1] == "0") != (found[2] == "0"):
            raise ValueError(f'The mask\'s blocks are "{self.blocks}"; write COLUMNSxROWS, such as 1x1, or 0x0.')
        return int(found[1]), int(found[2])

    @property
    def backends(self) -> dict[str, str]:
        """The backend of each stage: people, pose, mask. Raises ValueError."""
        chosen: dict[str, str] = dict.fromkeys(STAGES, "auto")
        for item in self.backend.split(","):
            stage, equals, name = item.strip().partition("=")
            if not equals:
                chosen |= _stages_of(stage)
            elif stage in STAGES and name:
                chosen[stage] = name
            else:
                raise ValueError(f'The backend is "{self.backend}"; stages are {", ".join(STAGES)}: pose=vitpose.')
        return chosen

    def wanted(
        self, driver: Path, fps: float | None = None, most: int | None = None, beside: Path | None = None
    ) -> Wanted:
        """What is asked of a driver; beside: a model's folder, which may bring files of backends. Raises ValueError."""
        chosen = self.backends
        return Wanted(
            driver=driver,
            fps=fps,
            start=self.start,
            end=self.end,
            most=most,
            person=self.person,
            near=None if self.near is None else _place(self.near),
            finder=chosen["people"],
            pose=chosen["pose"],
            masker=chosen["mask"],
            models=None if self.models is None else Path(self.models),
            beside=beside,
            keypoints=None if self.keypoints is None else Path(self.keypoints),
            mask=None if self.mask is None else Path(self.mask),
        )

    def to_record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: object) -> "Preparation":
        """What `to_record` gave. Raises ValueError for anything else."""
        known = [field.name for field in fields(cls)]
        if not isinstance(record, dict):
            raise ValueError("A job's preparation must be a JSON object, in braces.")
        unknown = sorted(set(record) - set(known))
        if unknown:
            raise ValueError(f"A preparation has no {', '.join(unknown)}; it may have {', '.join(known)}.")
        return cls(**record)


def _stages_of(name: str) -> dict[str, str]:
    """The stages that one name stands for."""
    if name not in WHOLE:
        raise ValueError(f'There is no backend "{name}"; pasdedeux prepare --backends lists them.')
    return WHOLE[name]


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f'The place is "{text}"; write X,Y in shares of the picture, for instance 0.25,0.5.') from None
    return x, y
