"""Where a character and a performance come from: a picture, a video, or a puppet drawn from a seed.

Whatever the source, the result has the job's size: pictures keep their shape and are padded with the colours
at their edge. A puppet, and a picture that was written by `pasdedeux character new`, brings exact keypoints;
any other picture and every video goes through the detectors, which are an extra to install.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.images import LoadedImage, embedded_character, fit_points, letterbox, load_image
from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance, View
from pasdedeux.animate.prepared import PreparedDriver, is_prepared, load_prepared
from pasdedeux.animate.preparing import prepare
from pasdedeux.animate.preprocess.detect import detect_character, given_character, unknown_character
from pasdedeux.engine.events import Found, OnEvent, Watched
from pasdedeux.engine.job import Job, puppet_seed
from pasdedeux.engine.preparation import Preparation
from pasdedeux.engine.settings import PUPPET_FRAMES, Settings
from pasdedeux.puppets import Character, Choreography, Clip, Light, Place, render, render_still

Bytes = NDArray[np.uint8]
Margins = Literal["edge", "black", "white"]
DECIDED = ("start", "end", "person", "near", "keypoints", "mask")
"""What of a preparation is about the driver alone."""
DEFAULT_CHARACTER, DEFAULT_DRIVER = "puppet:7", "puppet:8"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Who and what, in the job's size; `notes` are sentences on what was made of the files.

    retarget: how the performance is to be fitted to the character.
    """

    character: CharacterImage
    performance: Performance
    notes: tuple[str, ...] = ()
    retarget: str = "auto"


def cast(job: Job, settings: Settings, tell: OnEvent, margins: Margins = "edge", *, posed: bool = True) -> Cast:
    """Read or draw both. Raises InputError.

    A picture of another shape than the clip's gets margins, black, white or in the colours of its edge. posed: whether
    a character whose pose cannot be found is of no use.
    """
    asked, beside = job.preparation, folder_of(job.model)
    # The character first: a fault there is found in a second, a driver takes minutes.
    character, notes = find_character(
        job.character or DEFAULT_CHARACTER, settings.size, margins, asked, beside=beside, posed=posed
    )
    performance, said = find_performance(job.driver or DEFAULT_DRIVER, settings, asked, tell, beside)
    return Cast(character=character, performance=performance, notes=notes + said, retarget=asked.retarget)


def find_character(
    source: str,
    size: tuple[int, int],
    margins: Margins = "edge",
    asked: Preparation | None = None,
    *,
    beside: Path | None = None,
    posed: bool = True,
) -> tuple[CharacterImage, tuple[str, ...]]:
    """The character of a picture file or "puppet:SEED", with notes on what was changed.

    Where nobody is found in it and it need not be `posed`, its keypoints are unknown. Raises InputError.
    """
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_character(seed, size), ()
    loaded = load_image(Path(source))
    character, notes = _seen(loaded, source, asked or Preparation(), beside, posed=posed)
    return fit(character, size, margins), tuple(f"{source}: {note}" for note in loaded.notes) + notes


def _seen(
    loaded: LoadedImage, source: str, asked: Preparation, beside: Path | None, *, posed: bool
) -> tuple[CharacterImage, tuple[str, ...]]:
    """The character in its own picture: by points that are given or lie in its file, else by those that are found."""
    if asked.character_keypoints is not None:
        return given_character(loaded.image, Path(asked.character_keypoints), loaded.alpha), ()
    embedded = embedded_character(loaded)
    if embedded is not None:
        return embedded, ()
    try:
        return detect_character(
            loaded.image, asked.wanted(Path(source), beside=beside), alpha=loaded.alpha, name=source
        )
    except InputError as error:
        if posed:
            raise InputError(f"{error} Its points can be given with --character-keypoints.") from error
        return unknown_character(loaded.image, loaded.alpha), (str(error),)


def find_performance(
    source: str, settings: Settings, asked: Preparation, tell: OnEvent, beside: Path | None = None
) -> tuple[Performance, tuple[str, ...]]:
    """The performance of a video, a prepared folder or "puppet:SEED", and notes; of a video `settings.frames` at most.

    Raises InputError.
    """
    seed = puppet_seed(source)
    if seed is not None:
        return puppet_performance(seed, settings), ()
    prepared = find_driver(Path(source), asked, settings.fps, settings.frames, tell, beside)
    return prepared.performance(settings.size, fps=settings.fps, most=settings.frames), prepared.notes


def find_driver(
    path: Path, asked: Preparation, fps: float, most: int | None, tell: OnEvent, beside: Path | None = None
) -> PreparedDriver:
    """What was found in a driver, or is found in it now, at `fps`, in `most` frames at most. Raises InputError."""
    if is_prepared(path):
        _check_open(path, asked)
        found = load_prepared(path)
    else:
        wanted = asked.wanted(path, fps, most, beside)
        found = prepare(wanted, lambda what, frame, frames: tell(Watched(what=what, frame=frame, frames=frames)))
    tell(Found(picture=found.overlay, warnings=found.warnings))
    return found


def _check_open(path: Path, asked: Preparation) -> None:
    """Raises InputError where something is asked of a driver that was decided when it was prepared."""
    usual = Preparation()
    late = [name for name in DECIDED if getattr(asked, name) != getattr(usual, name)]
    if late:
        raise InputError(f"{path} is prepared already, which decided its {' and '.join(late)}; prepare it anew.")


def folder_of(model: str | None) -> Path | None:
    """A model's folder, where it has one."""
    return Path(model) if model is not None and Path(model).is_dir() else None


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
