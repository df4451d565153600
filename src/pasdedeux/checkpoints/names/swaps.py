"""Which of two experts a file is, and the error where they are given the wrong way round.

Their names and shapes are the same, so it is told from what stands around the weights: the name of the file and its
folders, the header, and for known files the hash. What is said plainly ("high_noise") counts alone; a word that may
mean something else ("high") counts only where the other file bears the opposite.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pasdedeux.checkpoints.tensors import Weights

Expert = Literal["high", "low"]
OTHER: Mapping[Expert, Expert] = {"high": "low", "low": "high"}
PLAIN = re.compile(r"(high|low)[ ._-]?noise|(?:transformer|unet)[ ._-](high|low)(?![a-z])", re.IGNORECASE)
WORD = re.compile(r"(?<![a-z])(?:(high|hn)|(low|ln))(?![a-z])", re.IGNORECASE)
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
TOLD_IN = ("wan.expert", "expert", "modelspec.title", "general.name")
FOLDERS = 2  # how many folders above a file can speak of it
CHUNK = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownFile:
    """A published file: its SHA-256 in hexadecimal, its size, the family and expert in it."""

    sha256: str
    nbytes: int
    family: str
    expert: Expert


# QuantStack's Q4_K_M files, as public catalogues state them. A hash is computed only for a file of a size in the table.
KNOWN_FILES: tuple[KnownFile, ...] = (
    KnownFile(
        sha256="e0c490c6e316fd91ff52034e4ca66b825717e33ff11624585c0ccfcb5d410c59",
        nbytes=9_650_090_496,
        family="wan2.2-t2v-a14b",
        expert="high",
    ),
    KnownFile(
        sha256="091a5bae02e14aa016bc9b10a7892efda4c629346b81c5dcebbe30ea2ac8923a",
        nbytes=9_650_090_496,
        family="wan2.2-t2v-a14b",
        expert="low",
    ),
    KnownFile(
        sha256="836250abfaa3411694e2c9cf3a0cc18265329d5156d81aa116d5366b0f8f02e7",
        nbytes=9_651_728_896,
        family="wan2.2-i2v-a14b",
        expert="high",
    ),
    KnownFile(
        sha256="e2f98d834af009d035c6b0918268f2eba0aa8a63025ce942277e2384d40b0866",
        nbytes=9_651_728_896,
        family="wan2.2-i2v-a14b",
        expert="low",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What says which expert a file is, and whether it can mean anything else."""

    expert: Expert
    source: str
    plain: bool


def evidence(weights: Weights) -> Evidence | None:
    """What the header, the file's name or its folders say of the expert in it; None where they say nothing, or both."""
    for key in TOLD_IN:
        text = weights.metadata.get(key, "")
        told = _plain(text) or (_word(text) if key in TOLD_IN[:2] else None)
        if told:
            return Evidence(expert=told, source=f'its header ({key} is "{text}")', plain=True)
    return of_path(weights.path)


def of_path(path: Path) -> Evidence | None:
    """What a path says of the expert in it."""
    path = path.absolute()
    around = [path, *list(path.parents)[:FOLDERS]]
    for place in around:
        if told := _plain(place.name) or _of_pipeline(place):
            return Evidence(expert=told, source=f"its name ({place.name})", plain=True)
    told = _word(path.name)
    return Evidence(expert=told, source=f"its name ({path.name})", plain=False) if told else None


def check_order(high: Weights, low: Weights) -> None:
    """Raise ValueError where one of them is known to be the other expert, or both to be the same file or expert."""
    if high.path.resolve() == low.path.resolve():
        raise ValueError(f"{high.path} was given as both experts; a pair has a file for each.")
    _compare((high.path, low.path), (evidence(high), evidence(low)))


def verify_order(high: Weights, low: Weights, known: Sequence[KnownFile] = KNOWN_FILES) -> None:
    """As `check_order`, but by the hash of files whose size is that of a known one: this reads them whole."""
    found = [_known(weights, known) for weights in (high, low)]
    _compare((high.path, low.path), (found[0], found[1]))


def _compare(paths: tuple[Path, Path], said: tuple[Evidence | None, Evidence | None]) -> None:
    high, low = said
    if high is not None and low is not None and high.plain and low.plain and high.expert == low.expert:
        name = f"the {high.expert}-noise expert"
        raise ValueError(f"{paths[0]} and {paths[1]} are both {name} by {high.source} and {low.source}.")
    against = [
        (path, one)
        for path, one, place in zip(paths, said, ("high", "low"), strict=True)
        if one is not None and one.expert != place
    ]
    if len(against) == 2 or any(one.plain for _, one in against):
        path, one = next(((path, one) for path, one in against if one.plain), against[0])
        raise ValueError(
            f"The experts are given the wrong way round: {path} is the {one.expert}-noise expert by {one.source}, "
            f"but was given as the {OTHER[one.expert]}-noise one."
        )


def _known(weights: Weights, known: Sequence[KnownFile]) -> Evidence | None:
    """What the hash of one of the files says; files of another size than any known one are not read."""
    for path in weights.paths:
        fitting = [row for row in known if path.is_file() and row.nbytes == path.stat().st_size]
        digest = _sha256(path) if fitting else ""
        for row in fitting:
            if row.sha256 == digest:
                return Evidence(expert=row.expert, source=f"its hash, which is that of {row.family}", plain=True)
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(text: str) -> Expert | None:
    return _only(("high", "low")["low" in match[0].lower()] for match in PLAIN.finditer(text))


def _word(text: str) -> Expert | None:
    spaced = CAMEL.sub(" ", text).replace("_", " ")
    return _only("high" if match[1] else "low" for match in WORD.finditer(spaced))


def _of_pipeline(place: Path) -> Expert | None:
    """diffusers calls the high-noise expert `transformer` where it has the other, `transformer_2`, beside it."""
    if place.name == "transformer_2":
        return "low"
    return "high" if place.name == "transformer" and (place.parent / "transformer_2").is_dir() else None


def _only(found: Iterable[str]) -> Expert | None:
    every = set(found)
    if len(every) != 1:
        return None
    return "high" if every == {"high"} else "low"
