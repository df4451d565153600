"""The corpus of bad and odd inputs: its files made, each animated as the command line does it, and judged.

A case (see `bad_kit`) is a driver or a character, and what is wanted of it: a good result, a result and a sentence that
warns, or one sentence and exit code 2. Where the models have to see somebody, the real man of `talk.mp4` is used;
without it these cases are left out.

Run: python tests/unit/animate/bad_inputs.py FOLDER [--run] [--only NAME]: makes all files; --run animates each and
prints one JSON object per line, and the most memory that was used.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import av
import bad_drivers
import bad_people
import numpy as np
from bad_kit import CASES, FPS, FRAMES, MEDIA, Case, Kit, discoloured, number_of

__all__ = ["CASES", "Case", "Kit", "Outcome", "bad_drivers", "bad_people", "can_run", "run"]

LIMIT = 120
"""Seconds that a case may take on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case: faults are sentences on what is wrong with that, none where all is well."""

    name: str
    code: int
    said: str
    seconds: float
    megabytes: float
    faults: tuple[str, ...]


def peak() -> float:
    """The most memory that this process has had so far, in megabytes."""
    from pasdedeux.engine.report import peak_bytes

    return peak_bytes() / 2**20


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def made(one: Case, kit: Kit) -> tuple[Path, tuple[str, ...]]:
    """The case's path and its own words; its files are made where they are not there yet."""
    note = kit.folder / f"{one.name}.made.json"
    if not note.is_file():
        path, more = found if isinstance(found := one.make(kit, kit.folder / one.name), tuple) else (found, ())
        if one.role == "driver" and not one.real and "--keypoints" not in more:
            more = (*more, "--keypoints", str(kit.points(one.numbers or range(FRAMES), one.name)))
        note.write_text(json.dumps([str(path), more]), encoding="utf-8")
    path, more = json.loads(note.read_text(encoding="utf-8"))
    return Path(path), tuple(more)


def words_of(one: Case, path: Path, more: Sequence[str], output: Path) -> list[str]:
    """The command line that animates a case, its pictures 64x64, with two steps."""
    cast = [str(path), "puppet:8"] if one.role == "character" else ["puppet:7", str(path)]
    rate = "6" if one.real and one.role == "driver" else str(FPS)
    words = ["animate", *cast, "-o", str(output), "--steps", "2", "--size", "64x64", "--fps", rate, *one.options, *more]
    frames = 5 if one.role == "character" else one.frames
    return words + (["--frames", str(frames)] if frames else [])


def run(one: Case, kit: Kit) -> Outcome:
    """Make a case where it is not made yet, animate it in this process, and judge what came of it."""
    from typer.testing import CliRunner

    from pasdedeux.apps.cli import app

    output = kit.folder / f"{one.name}.out.mp4"
    words = words_of(one, *made(one, kit), output)
    began = time.perf_counter()
    try:
        with time_limit(LIMIT):
            result = CliRunner().invoke(app, words)
    except TimeoutError as error:
        return Outcome(name=one.name, code=-1, said="", seconds=LIMIT, megabytes=peak(), faults=(f"it hung: {error}",))
    seconds, said = time.perf_counter() - began, result.stderr
    faults = list(_faults(one, result.exit_code, said, result.exception, output))
    if result.exit_code == 0:
        faults += _wrong(one, words, output)
    return Outcome(
        name=one.name, code=result.exit_code, said=said, seconds=seconds, megabytes=peak(), faults=tuple(faults)
    )


def _faults(one: Case, code: int, said: str, error: BaseException | None, output: Path) -> Iterator[str]:
    """What is wrong with how it ended."""
    if error is not None and not isinstance(error, SystemExit):
        yield f"it ended in {type(error).__name__}: {error}"
    wanted = 2 if one.expect == "refused" else 0
    if code != wanted:
        yield f"exit code {code} in place of {wanted}"
    if code == 2 and (len(said.strip().splitlines()) != 1 or not said.startswith("pasdedeux: ")):
        yield "it did not end in one sentence"
    # A file's name is in its sentences, and may be the word that is looked for.
    if one.says not in said.replace(one.name, ""):
        yield f'nothing was said with "{one.says}"'
    if "Traceback" in said:
        yield "a traceback was shown"
    if code != 0 and output.exists():
        yield "a file was left behind"


def _wrong(one: Case, words: list[str], output: Path) -> Iterator[str]:
    """What is wrong with a result: its length, size, sound, and the pictures that were taken for it."""
    from pasdedeux.animate.clips import VideoClip

    option = dict(pairwise(words))
    with VideoClip(output) as clip:
        frames, size, fps, sounds = len(clip), clip.size, clip.fps, clip.has_audio
    if size != (64, 64) or abs(fps - float(option["--fps"])) > 0.01:
        yield f"the result is {size[0]}x{size[1]} at {fps:g} fps"
    if one.numbers is not None and frames != len(one.numbers):
        yield f"the result has {frames} frames in place of {len(one.numbers)}"
    if sounds != (one.sound is not None) and not one.real:
        yield f"the result has {'' if sounds else 'no '}sound"
    elif one.sound is not None:
        yield from _wrong_sound(one.sound, output)
    if one.numbers is not None:
        yield from _wrong_pictures(one, words)
    if one.role == "character" and not one.real:
        yield from _wrong_character(one, Path(words[1]))


def _wrong_pictures(one: Case, words: list[str]) -> Iterator[str]:
    """What is wrong with the driver's pictures as they were prepared: read from the cache that the run has filled."""
    from pasdedeux.animate.prepared import Wanted
    from pasdedeux.animate.preparing import prepare

    option = dict(pairwise(words))
    mask, end = option.get("--mask"), option.get("--end")
    prepared = prepare(
        Wanted(
            driver=Path(words[2]),
            fps=float(option["--fps"]),
            start=float(option.get("--start", 0)),
            end=None if end is None else float(end),
            most=one.frames,
            keypoints=Path(option["--keypoints"]),
            mask=None if mask is None else Path(mask),
        )
    )
    try:
        pictures = [prepared.source[[i]][0] for i in range(len(prepared))]
        lost = int((prepared.keypoints.body[:, :2, 2] < 0.5).sum())
    finally:
        prepared.close()
    numbers = tuple(map(number_of, pictures))
    if numbers != one.numbers:
        yield f"the pictures are {numbers} in place of {one.numbers}"
    off = max(map(discoloured, pictures))
    if off > one.levels:
        yield f"colours are off by {off:.0f} levels"
    if lost:
        yield f"{lost} of the given points of nose and neck were lost"


def _wrong_character(one: Case, path: Path) -> Iterator[str]:
    from pasdedeux.animate.images import load_image

    picture = load_image(path).image
    if one.name == "portrait_character":
        height = picture.shape[0]
        picture = picture[height // 4 : height - height // 4]
    if number_of(picture) != 0:
        yield "the character's picture is turned, mirrored or stretched"
    if one.name != "deep_character" and discoloured(picture) > 20:
        yield f"the character's colours are off by {discoloured(picture):.0f} levels"


def _wrong_sound(wanted: tuple[float, float], output: Path) -> Iterator[str]:
    """Where the tone begins and ends, by what is loud."""
    loud: list[float] = []
    with av.open(str(output)) as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(np.float32)).max(axis=0)
            heard = np.flatnonzero(samples > 0.1)
            loud += [(frame.time or 0.0) + float(i) / frame.sample_rate for i in heard[[0, -1]]] if len(heard) else []
    begin, end = (min(loud), max(loud)) if loud else (-1.0, -1.0)
    if abs(begin - wanted[0]) > 0.02 or abs(end - wanted[1]) > 0.05:
        yield f"the sound is heard from {begin:.3f} to {end:.3f} s in place of {wanted[0]} to {wanted[1]}"


def can_run(one: Case) -> str:
    """Why a case cannot be run here; empty where it can."""
    if one.real and (not MEDIA.exists() or importlib.util.find_spec("mediapipe") is None):
        return "no sample media or no mediapipe"
    if one.name == "unreadable" and os.geteuid() == 0:
        return "root may read everything"
    return ""


def say(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Make all, or run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    kit = Kit(options.folder.resolve())
    for name, one in CASES.items():
        if can_run(one) or (options.only and name not in options.only):
            continue
        if options.run:
            say(json.dumps(asdict(run(one, kit))))
        else:
            say(f"{name}: {made(one, kit)[0]}")
    say(json.dumps({"megabytes": peak()}))


if __name__ == "__main__":
    main()
