"""Where a character and a performance come from: a picture, a video, or a puppet drawn from a seed.

Whatever the source, the result has the job's size: pictures keep their shape and are padded with the colours at their
edge. A puppet, and a picture that was written by `pasdedeux character new`, brings exact keypoints; any other picture
and every video goes through the detectors, which are an extra to install.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import embedded_character, fit_points, letterbox, load_image
from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance
from pasdedeux.animate.video import probe
from pasdedeux.engine.job import Job, puppet_seed
from pasdedeux.engine.settings import PUPPET_FRAMES, Settings
from pasdedeux.puppets import Character, Choreography, Clip, Light, Place, render, render_still

Bytes = NDArray[np.uint8]
DEFAULT_CHARACTER, DEFAULT_DRIVER = "puppet:7", "puppet:8"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Who and what, in the job's size; `notes` are sentences on what was made of the files."""

    character: CharacterImage
    performance: Performance
    notes: tuple[str, ...] = ()


def cast(job: Job, settings: Settings) -> Cast:
    """Read or draw both. Raises ValueError (InputError) in one sentence where a source cannot be used."""
    character, notes = find_character(job.character or DEFAULT_CHARACTER, settings.size)
    performance = find_performance(job.driver or DEFAULT_DRIVER, settings)
    return Cast(character=character, performance=performance, notes=notes)


def find_character(source: str, size: tuple[int, int]) -> tuple[CharacterImage, tuple[str, ...]]:
    """The character of a picture file or "puppet:SEED", with notes on what was changed."""
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_character(seed, size), ()
    loaded = load_image(Path(source))
    character = embedded_character(loaded)
    if character is None:
        character = detected_character(loaded.image)
    if loaded.alpha is not None:
        character = replace(character, mask=np.minimum(character.mask, loaded.alpha))
    return fit(character, size), tuple(f"{source}: {note}" for note in loaded.notes)


def find_performance(source: str, settings: Settings) -> Performance:
    """The performance of a video file or "puppet:SEED"; of a video, `settings.frames` at most."""
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_performance(seed, settings)
    return first_frames(detected_performance(Path(source), settings), settings.frames)


def puppet_character(seed: int, size: tuple[int, int]) -> CharacterImage:
    """A puppet's picture in a place of its own, with exact joints and mask."""
    place, light = Place.from_seed(seed), Light.from_seed(seed)
    clip = render_still(Character.from_seed(seed), place, light, size, seed)
    return CharacterImage(
        image=clip.frames[0], mask=clip.mask[0], keypoints=joints(clip), background=clip.background
    )


def puppet_performance(seed: int, settings: Settings) -> Performance:
    """A choreography danced by a puppet in a place of its own."""
    poses = Choreography.from_seed(seed).poses(settings.frames or PUPPET_FRAMES, settings.fps, start=0)
    place, light = Place.from_seed(seed), Light.from_seed(seed)
    clip = render(Character.from_seed(seed), poses, place, light, settings.size)
    return Performance(keypoints=joints(clip), fps=settings.fps, frames=clip.frames, mask=clip.mask)


def joints(clip: Clip) -> Keypoints:
    """A rendered clip's exact keypoints."""
    height, width = clip.frames.shape[1:3]
    return Keypoints(body=clip.body, hands=clip.hands, face=clip.face, size=(width, height))


def first_frames(performance: Performance, most: int | None) -> Performance:
    """The performance, cut to at most `most` frames."""
    if most is None or most >= len(performance.keypoints):
        return performance
    frames = None if performance.frames is None else performance.frames[:most]
    mask = None if performance.mask is None else performance.mask[:most]
    return replace(performance, keypoints=performance.keypoints[:most], frames=frames, mask=mask)


def fit(character: CharacterImage, size: tuple[int, int]) -> CharacterImage:
    """The character in a picture of `size`, as large as fits, padded with the colours at the edge."""
    if character.keypoints.size == size:
        return character
    mask, place = letterbox(character.mask, size)
    background = None if character.background is None else padded(character.background, size)
    return CharacterImage(
        image=padded(character.image, size),
        mask=mask,
        keypoints=fit_points(character.keypoints, place),
        background=background,
    )


def padded(image: Bytes, size: tuple[int, int]) -> Bytes:
    """[H, W, 3] letterboxed to `size`, its outermost colours drawn out over the margins."""
    canvas, place = letterbox(image, size)
    width, height = (max(round(side * place.scale), 1) for side in place.source)
    inner = canvas[place.top : place.top + height, place.left : place.left + width]
    margins = (place.top, size[1] - height - place.top, place.left, size[0] - width - place.left)
    return cv2.copyMakeBorder(inner, *margins, cv2.BORDER_REPLICATE).astype(np.uint8)


def detected_character(image: Bytes) -> CharacterImage:
    """The person in a picture. Raises InputError if nobody is found or the detectors are not installed."""
    with detectors():
        from pasdedeux.animate.preprocess.detect import detect_character

        return detect_character(image)


def detected_performance(path: Path, settings: Settings) -> Performance:
    """The person in a video, sampled at the job's rate. Raises InputError as `detected_character` does."""
    probe(path)
    with detectors():
        from pasdedeux.animate.preprocess.detect import detect_performance

        return detect_performance(path, settings.fps, settings.size)


@contextmanager
def detectors() -> Iterator[None]:
    """Say what to install where the detectors' extra is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"Finding people in pictures needs {error.name}, which is not installed: pip install 'pasdedeux[people]'."
        ) from error
