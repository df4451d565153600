"""Finding the person in a character's picture. (Drivers are looked through by `animate.preparing`.)"""

from pathlib import Path

import numpy as np

from pasdedeux.animate.inputs import BODY_POINTS, FACE_POINTS, HAND_POINTS, CharacterImage, InputError, Keypoints
from pasdedeux.animate.prepared import Wanted
from pasdedeux.animate.preprocess.backends import open_finder, open_masker, open_pose
from pasdedeux.animate.preprocess.detector import HELP, Box, Bytes
from pasdedeux.animate.preprocess.given import given_keypoints
from pasdedeux.animate.preprocess.tracking import choose, survey

SEEN = 0.5
NOSE, NECK = 0, 1


def detect_character(
    image: Bytes,
    wanted: Wanted | None = None,
    *,
    alpha: Bytes | None = None,
    name: str = "The character's picture",
) -> tuple[CharacterImage, tuple[str, ...]]:
    """The person in a photo, image uint8 [H, W, 3] RGB, and notes. A cut-out's own alpha [H, W] is the better mask, if
    given. Of several people it is the one who fills most of the picture. wanted: by which means.

    Raises InputError, naming the picture by `name`, where nobody is found.
    """
    wanted = wanted or Wanted(driver=Path(name))
    box, notes = _box(image, wanted, name)
    watcher = open_pose(wanted.pose, wanted.models, wanted.beside)
    sighting = next(iter(watcher.watch([(image, box)], 1.0)))
    height, width = image.shape[:2]
    keypoints = Keypoints(
        body=sighting.body[None], hands=sighting.hands[None], face=sighting.face[None], size=(width, height)
    )
    if not (keypoints.body[0, [NOSE, NECK], 2] >= SEEN).any():
        raise InputError(f"{name}: no person was found; {HELP}.")
    mask = _mask(image, sighting.mask, alpha, keypoints, wanted)
    return CharacterImage(image=image, mask=mask, keypoints=keypoints), notes


def _box(image: Bytes, wanted: Wanted, name: str) -> tuple[Box | None, tuple[str, ...]]:
    """Where somebody is; the whole picture where nobody is to look for that."""
    finder = open_finder(wanted.finder, wanted.models, wanted.beside)
    if finder is None:
        return (0.0, 0.0, float(image.shape[1]), float(image.shape[0])), ()
    found = survey([image], finder, 1.0)
    if not found.people:
        raise InputError(f"{name}: no person was found; {HELP}.")
    one = choose(found)
    return one.at(0), tuple(f"{name}: {note}" for note in one.notes)


def given_character(image: Bytes, path: Path, alpha: Bytes | None = None) -> CharacterImage:
    """The character whose points a file says (any that `given_keypoints` reads). Raises InputError."""
    height, width = image.shape[:2]
    keypoints, _ = given_keypoints(path, (width, height), 1, 1.0)
    return CharacterImage(
        image=image, mask=_mask(image, None, alpha, keypoints, Wanted(driver=path)), keypoints=keypoints
    )


def unknown_character(image: Bytes, alpha: Bytes | None = None) -> CharacterImage:
    """A character whose pose is not known: every confidence is 0, and without alpha the whole picture is the mask."""
    height, width = image.shape[:2]
    keypoints = Keypoints(
        body=np.zeros((1, BODY_POINTS, 3), np.float32),
        hands=np.zeros((1, 2, HAND_POINTS, 3), np.float32),
        face=np.zeros((1, FACE_POINTS, 3), np.float32),
        size=(width, height),
    )
    mask = np.full((height, width), 255, np.uint8) if alpha is None else _cut_out(alpha)
    return CharacterImage(image=image, mask=mask, keypoints=keypoints)


def _mask(image: Bytes, mask: Bytes | None, alpha: Bytes | None, keypoints: Keypoints, wanted: Wanted) -> Bytes:
    """The best that is to be had: the cut-out's own, the detector's, or a masker's."""
    if alpha is not None:
        return _cut_out(alpha)
    if mask is not None:
        return mask
    masker = open_masker(wanted.masker, wanted.models, wanted.beside)
    return np.zeros(image.shape[:2], np.uint8) if masker is None else next(iter(masker.masks([image], keypoints)))


def _cut_out(alpha: Bytes) -> Bytes:
    return np.where(alpha >= 128, np.uint8(255), np.uint8(0))
