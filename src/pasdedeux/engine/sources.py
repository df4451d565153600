"""Where a character and a performance come from: a picture, a video, or a puppet drawn from a seed.

Whatever the source, the result has the job's size: pictures keep their shape and are padded with the colours
at their edge. A puppet, and a picture that was written by `pasdedeux character new`, brings exact keypoints;
any other picture and every video goes through the detectors, which are an extra to install.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import embedded_character, fit_points, letterbox, load_image
from pasdedeux.animate.inputs import CharacterImage, Keypoints, Performance, View
from pasdedeux.animate.preprocess.detect import detect_character, detect_performance
from pasdedeux.engine.job import Job, puppet_seed
from pasdedeux.engine.settings import PUPPET_FRAMES, Settings
from pasdedeux.puppets import Character, Choreography, Clip, Light, Place, render, render_still

Bytes = NDArray[np.uint8]
OnFrame = Callable[[int, int], None]
Margins = Literal["edge", "black", "white"]
DEFAULT_CHARACTER, DEFAULT_DRIVER = "puppet:7", "puppet:8"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Who and what, in the job's size; `notes` are sentences on what was made of the files."""

    character: CharacterImage
    performance: Performance
    notes: tuple[str, ...] = ()


def cast(job: Job, settings: Settings, on_frame: OnFrame | None = None, margins: Margins = "edge") -> Cast:
    """Read or draw both. `on_frame` is told (frame, frames) while a video is watched. Raises InputError.

    A picture of another shape than the clip's gets margins, black, white or in the colours of its edge.
    """
    character, notes = find_character(job.character or DEFAULT_CHARACTER, settings.size, margins)
    performance = find_performance(job.driver or DEFAULT_DRIVER, settings, on_frame)
    return Cast(character=character, performance=performance, notes=notes)


def find_character(
    source: str, size: tuple[int, int], margins: Margins = "edge"
) -> tuple[CharacterImage, tuple[str, ...]]:
    """The character of a picture file or "puppet:SEED", with notes on what was changed."""
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_character(seed, size), ()
    loaded = load_image(Path(source))
    character = embedded_character(loaded)
    if character is None:
        character = detect_character(loaded.image, alpha=loaded.alpha, name=source)
    return fit(character, size, margins), tuple(f"{source}: {note}" for note in loaded.notes)


def find_performance(source: str, settings: Settings, on_frame: OnFrame | None = None) -> Performance:
    """The performance of a video file or "puppet:SEED"; of a video, `settings.frames` at most."""
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_performance(seed, settings)
    return detect_performance(Path(source), settings.fps, settings.size, max_frames=settings.frames, on_frame=on_frame)


def puppet_character(seed: int, size: tuple[int, int]) -> CharacterImage:
    """A puppet's picture in a place of its own, with exact joints and mask."""
    place, light = Place.from_seed(seed), Light.from_seed(seed)
    clip = render_still(Character.from_seed(seed), place, light, size, seed)
    return CharacterImage(image=clip.frames[0], mask=clip.mask[0], keypoints=joints(clip), background=clip.background)


def puppet_performance(seed: int, settings: Settings) -> Performance:
    """A choreography danced by a puppet in a place of its own."""
    poses = Choreography.from_seed(seed).poses(settings.frames or PUPPET_FRAMES, settings.fps, start=0)
    place, light = Place.from_seed(seed), Light.from_seed(seed)
    clip = render(Character.from_seed(seed), poses, place, light, settings.size)
    return Performance(keypoints=joints(clip), fps=settings.fps, frames=clip.frames, mask=clip.mask)


def joints(clip: Clip) -> Keypoints:
    """A rendered clip's exact keypoints."""
    height, width = clip.frames.shape[1:3]
    return Keypoints(body=clip.body, hands=clip.hands, face=clip.face, size=(width, height), view=View(*clip.view))


def fit(character: CharacterImage, size: tuple[int, int], margins: Margins = "edge") -> CharacterImage:
    """The character in a picture of `size`, as large as fits, padded with black, white or the colours at its edge."""
    if character.keypoints.size == size:
        return character
    mask, place = letterbox(character.mask, size)
    background = None if character.background is None else padded(character.background, size)
    return CharacterImage(
        image=padded(character.image, size)
        if margins == "edge"
        else letterbox(character.image, size, 0 if margins == "black" else 255)[0],
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
