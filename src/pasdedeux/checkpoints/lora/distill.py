"""LoRAs that distil a model to a few steps, and what a job with them is set to.

A distilled model is right at the noise levels it was trained on and without guidance; with other settings it runs,
and is wrong. The settings are the makers' where they published them: lightx2v's Wan2.2 pairs are run at the timesteps
1000, 750, 500 and 250 shifted by 5, the first two by the high-noise expert, each step as Euler's method takes it. For
the older LoRAs of Wan2.1 they are those that Wan2GP's guide has.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pasdedeux.checkpoints.lora.choice import parse_lora


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Settings of a job with such a LoRA.

    files: how the published files are called, with their folder; experts: 2 for a pair; steps: None where the LoRA
    saves guidance only; guidance: of every expert, 1 meaning none; weight: of the LoRA; note: what differs from the
    makers' own way.
    """

    name: str
    title: str
    files: str
    experts: int = 1
    steps: int | None = 4
    guidance: tuple[float, ...] = (1.0,)
    solver: str = "euler"
    shift: float = 5.0
    weight: float = 1.0
    note: str = ""

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timesteps of the steps, 1000 being noise: s·u / (1 + (s-1)·u) for u in equal steps down from 1."""
        steps = self.steps or 0
        levels = [1 - i / steps for i in range(steps)]
        return tuple(1000 * self.shift * u / (1 + (self.shift - 1) * u) for u in levels)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="lightning",
            title="Wan2.2-Lightning and lightx2v's distilled pairs, 4 steps",
            files=(
                r"wan2[._]?2.*(lightning|4[-_ ]?steps?[-_ ]lora|lightx2v|dyno|seko)"
                r"|(lightning|lightx2v|seko).*wan2[._]?2|a14b.*(4[-_ ]?steps?|lightning|lightx2v)"
            ),
            experts=2,
        ),
        Preset(
            name="lightx2v",
            title="lightx2v's step and guidance distillation of Wan2.1, 4 steps",
            files=r"lightx2v|cfg[-_]step[-_]distill|self[-_]?forcing",
            note="its makers add new noise between steps; Euler's method does not",
        ),
        Preset(
            name="causvid",
            title="CausVid for Wan2.1, 12 steps",
            files=r"causvid",
            steps=12,
            solver="unipc",
            shift=7.0,
            weight=0.3,
        ),
        Preset(
            name="fusionx",
            title="FusionX for Wan2.1, 8 steps",
            files=r"fusioni?x",
            steps=8,
            solver="unipc",
            shift=2.0,
        ),
        Preset(
            name="accvid",
            title="AccVideo for Wan2.1: as many steps as without, no guidance",
            files=r"acc[-_]?vid",
            steps=None,
            solver="unipc",
        ),
    )
}


def find_preset(name: str | None, loras: Iterable[str] = ()) -> Preset | None:
    """The preset of that name, else the one that a job's LoRAs ("[high:|low:]FILE[@WEIGHT]") ask for, else None.

    Raises ValueError for a name that there is none of, and where two LoRAs ask for different ones.
    """
    if name is not None:
        if name.lower() not in PRESETS:
            raise ValueError(f'There is no preset "{name}"; known are {", ".join(PRESETS)}.')
        return PRESETS[name.lower()]
    found: dict[str, Path] = {}
    for path in (parse_lora(text).path for text in loras):
        if (one := recognise(path)) is not None:
            found.setdefault(one.name, path)
    if len(found) > 1:
        (first, one), (second, two), *_ = found.items()
        raise ValueError(f"{one} asks for the settings of {first}, {two} for those of {second}; name one.")
    return PRESETS[next(iter(found))] if found else None


def recognise(path: Path, metadata: Mapping[str, str] | None = None) -> Preset | None:
    """The preset that a LoRA file asks for, by its metadata, or by its own or its folder's name."""
    said = (metadata or {}).get("wan.preset", "").lower()
    if said in PRESETS:
        return PRESETS[said]
    names = (path.name.lower(), f"{path.parent.name}/{path.name}".lower())
    return next((preset for name in names for preset in PRESETS.values() if re.search(preset.files, name)), None)
