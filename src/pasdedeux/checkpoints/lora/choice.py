"""Which LoRA a user means for which expert, and at what weight."""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple, cast

from pasdedeux.checkpoints.names.swaps import Expert, of_path

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
# What may follow "high" or "low" in a name that means the expert.
_AFTER = r"lora|model|expert|v?\d[\d.]*|rank\d*|(?:fp|bf)\d+|epoch\d*|steps?\d*"
_WORD = re.compile(r"(?<![a-z])(high|low)(?![a-z])", re.IGNORECASE)
_SHORT = re.compile(rf"(?<![a-z])(high|low)(?![a-z])(?=[-_. ](?:{_AFTER})(?![a-z])|[-_. ]*$)", re.IGNORECASE)
_SHOUTED = re.compile(r"(?<![A-Za-z])(HIGH|LOW|HN|LN)(?![A-Za-z])")


class LoRAChoice(NamedTuple):
    """A file and its weight; expert: the one it was asked for, or None."""

    expert: Expert | None
    path: Path
    weight: float = 1.0


def parse_lora(text: str) -> LoRAChoice:
    """`[high:|low:]FILE[@WEIGHT]`. Raises ValueError for no file, or a weight that is no finite number.

    >>> parse_lora("high:styles/ink@home.safetensors@0.8").weight
    0.8
    """
    found = re.match(r"(high|low):", text, re.IGNORECASE)
    file = text[found.end() :] if found else text
    expert = cast(Expert, found[1].lower()) if found else None
    before, at, after = file.rpartition("@")
    weight = 1.0
    if at and (_number(after) is not None or before.lower().endswith(_SUFFIXES)):
        file, number = before, _number(after)
        if number is None or not isfinite(number):
            raise ValueError(f'The LoRA "{text}" has the weight "{after}"; it must be a number, as in {before}@0.8.')
        weight = number
    if not file.strip():
        raise ValueError(f'"{text}" names no LoRA file; it must be [high:|low:]FILE[@WEIGHT].')
    return LoRAChoice(expert, Path(file), weight)


EXPERT = "pasdedeux.expert"
"""The key in a LoRA's metadata that names the expert it was trained beside."""


def expert_of(path: Path, metadata: Mapping[str, str] | None = None) -> Expert | None:
    """The expert a LoRA says it is for: in its metadata, its name or its folder's. None where it says neither or both.

    A word that may mean something else ("low_poly") counts only where it ends the name, or before the words that
    follow it in the names of such files; or where it is written in capitals.
    """
    said = (metadata or {}).get("wan.expert", "").lower()
    if said in ("high", "low"):
        return said
    if (plain := of_path(path)) is not None and plain.plain:
        return plain.expert
    if len({word.lower() for word in _WORD.findall(path.stem)}) > 1:
        return None
    words = [*_SHORT.findall(path.stem), *_SHOUTED.findall(path.stem)]
    every: set[Expert] = {"high" if word[0] in "hH" else "low" for word in words}
    return every.pop() if len(every) == 1 else None


def assign(
    loras: Sequence[LoRAChoice],
    experts: Sequence[str],
    metadata: Mapping[Path, Mapping[str, str]] | None = None,
) -> tuple[dict[str, tuple[LoRAChoice, ...]], tuple[str, ...]]:
    """The LoRAs of each expert, in the order given, and notes on what was decided.

    A LoRA that is given to none goes to the one it says it is for, else to all. Raises ValueError where one says it is
    for the other expert than it was given to, or is given to one that the model has not.
    """
    chosen: dict[str, list[LoRAChoice]] = {expert: [] for expert in experts}
    notes: list[str] = []
    for lora in loras:
        words = (metadata or {}).get(lora.path, {})
        said, own = expert_of(lora.path, words), words.get(EXPERT)
        # Sets of one, or of three and more, have no high and low; their experts are told by their own names.
        named = lora.expert is None and said is None and len(experts) > 1 and own in experts
        given = (str(own),) if named else _given(lora, said, experts)
        if named:
            notes.append(f"{lora.path.name} says it is for {own}, and goes to that one only.")
        if lora.expert is None and said is not None:
            notes.append(_note(lora, said, given))
        for expert in given:
            chosen[expert].append(lora)
    return {expert: tuple(some) for expert, some in chosen.items()}, tuple(notes)


def _given(lora: LoRAChoice, said: Expert | None, experts: Sequence[str]) -> tuple[str, ...]:
    """The experts a LoRA goes to."""
    if lora.expert is None:
        return tuple(experts) if said is None or not {"high", "low"} & set(experts) else _has(lora, said, experts)
    if said is not None and said != lora.expert:
        raise ValueError(f"{lora.path} says it is for the {said}-noise expert, but is given to the {lora.expert} one.")
    return _has(lora, lora.expert, experts)


def _has(lora: LoRAChoice, expert: Expert, experts: Sequence[str]) -> tuple[str, ...]:
    if expert not in experts:
        held = "is one, without high and low" if list(experts) == ["model"] else f"has {' and '.join(experts)}"
        raise ValueError(f"{lora.path} is for the {expert}-noise expert, which this model has not; it {held}.")
    return (expert,)


def _note(lora: LoRAChoice, said: Expert, given: tuple[str, ...]) -> str:
    if given == (said,):
        return f"{lora.path.name} says it is for the {said}-noise expert, and goes to that one only."
    return f"{lora.path.name} says it is for the {said}-noise expert of a pair; this model is one, and takes it."


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
