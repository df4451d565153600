"""Training and evaluation clips of puppets: a clip's seed decides all of it, and its conditions are drawn as in use.

A clip is a character, a choreography, a place and a light. In animate mode the reference shows the character standing
in that place; in replace mode it stands elsewhere, and the scene is another performer's take with the performer cut
out. Clips are stored as one array of bytes each, so that training reads only the frames it wants.

Seeds from `HELD_OUT` on are never trained on: characters, choreographies and places are all new there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pasdedeux.animate.condition.duet import Planes, Scene, draw_planes, driver_scene, still_scene
from pasdedeux.animate.inputs import CharacterImage, Keypoints, View
from pasdedeux.puppets import Character, Choreography, Clip, Light, Place, Poses, render, render_still
from pasdedeux.train.saving import whole_file

Bytes = NDArray[np.uint8]
HELD_OUT = 1_000_000
"""First seed of the held-out clips."""
FPS = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """What a clip is made of; every field but the mode is a seed or a picture size."""

    character: int
    performer: int
    choreography: int
    place: int
    light: int
    elsewhere: int
    mode: str
    frames: int = 25
    size: int = 128

    @classmethod
    def from_seed(cls, seed: int, *, frames: int = 25, size: int = 128, mode: str | None = None) -> "ClipSpec":
        """Clip number `seed`; three in five are in animate mode unless `mode` says which."""
        drawn = np.random.default_rng([seed, 7]).integers(0, HELD_OUT, 6)
        drawn = drawn + (HELD_OUT if seed >= HELD_OUT else 0)
        mode = mode or ("replace" if seed % 5 in (1, 3) else "animate")
        names = ("character", "performer", "choreography", "place", "light", "elsewhere")
        return cls(**dict(zip(names, map(int, drawn), strict=True)), mode=mode, frames=frames, size=size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """A rendered clip: the truth, the performer's own take, the character's picture and the scene."""

    spec: ClipSpec
    truth: Clip
    driver: Clip
    character: CharacterImage
    scene: Scene


def keypoints(clip: Clip) -> Keypoints:
    """A rendered clip's exact joints."""
    height, width = clip.frames.shape[1:3]
    return Keypoints(body=clip.body, hands=clip.hands, face=clip.face, size=(width, height), view=View(*clip.view))


def character_image(clip: Clip) -> CharacterImage:
    """A rendered still as a reference image with its exact mask and joints."""
    return CharacterImage(
        image=clip.frames[0], mask=clip.mask[0], keypoints=keypoints(clip), background=clip.background
    )


def film(spec: ClipSpec) -> Take:
    """Render everything a clip consists of."""
    size = (spec.size, spec.size)
    character, place, light = (
        Character.from_seed(spec.character),
        Place.from_seed(spec.place),
        Light.from_seed(spec.light),
    )
    poses: Poses = Choreography.from_seed(spec.choreography).poses(spec.frames, FPS, start=spec.choreography % 7)
    truth = render(character, poses, place, light, size)
    driver = render(Character.from_seed(spec.performer), poses, place, light, size)
    home = (place, light) if spec.mode == "animate" else (Place.from_seed(spec.elsewhere), Light.from_seed(0))
    still = character_image(render_still(character, *home, size, spec.elsewhere))
    scene = still_scene(still) if spec.mode == "animate" else driver_scene(driver.frames, driver.mask)
    return Take(spec=spec, truth=truth, driver=driver, character=still, scene=scene)


def attention_plane(clip: Clip) -> Bytes:
    """[T, H, W]: 255 in the face's box, 128 on the rest of the person, 0 elsewhere."""
    plane = np.where(clip.mask > 64, 128, 0).astype(np.uint8)
    for t, (x0, y0, x1, y1) in enumerate(face_boxes(clip)):
        plane[t, y0:y1, x0:x1] = 255
    return plane


def face_boxes(clip: Clip) -> list[tuple[int, int, int, int]]:
    """Per frame (x0, y0, x1, y1) around the visible face points, a quarter wider; empty where no face shows."""
    height, width = clip.frames.shape[1:3]
    boxes = []
    for face in clip.face:
        seen = face[face[:, 2] > 0, :2]
        if len(seen) < 10:
            boxes.append((0, 0, 0, 0))
            continue
        low, high = seen.min(0), seen.max(0)
        margin = 0.125 * (high - low)
        x0, y0 = np.clip(np.floor(low - margin), 0, (width, height)).astype(int)
        x1, y1 = np.clip(np.ceil(high + margin), 0, (width, height)).astype(int)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    return boxes


def store(path: Path, take: Take) -> None:
    """Write what was filmed as a clip."""
    planes = draw_planes(take.character, keypoints(take.truth), take.scene)
    write_clip(path, StoredClip(planes=planes, truth=take.truth.frames, attention=attention_plane(take.truth)))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredClip:
    """Frames read back: planes, truth [T, H, W, 3] and attention [T, H, W]."""

    planes: Planes
    truth: Bytes
    attention: Bytes


def reference_of(path: Path) -> Path:
    """The file of a stored clip's reference."""
    return path.with_suffix(".ref.npy")


def is_filmed(path: Path) -> bool:
    """Whether both files of a stored clip are there."""
    return path.is_file() and reference_of(path).is_file()


def write_clip(path: Path, clip: StoredClip) -> None:
    """A clip as `path` [T, H, W, 18] (planes, truth, attention) and its reference beside it [H, W, 10].

    Raises SaveError where the disk is full; no half file stays.
    """
    p = clip.planes
    stack = np.concatenate([p.scene, p.carried, p.pose, p.face, clip.truth, clip.attention[..., None]], axis=-1)
    for name, values in ((reference_of(path), p.reference), (path, stack)):
        with whole_file(name) as file:
            np.save(file, values)


def opened(path: Path) -> Bytes:
    """A stored array [T, H, W, c], mapped from its file. Raises ValueError where the file is broken."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"The clip {path} is broken ({error}); delete it, and it is filmed again.") from error


def load(path: Path, start: int, frames: int) -> StoredClip:
    """Frames [start, start + frames) of a stored clip. Raises ValueError where its files are broken."""
    stack = np.array(opened(path)[start : start + frames])
    planes = Planes(
        scene=stack[..., :4],
        carried=stack[..., 4:8],
        pose=stack[..., 8:11],
        face=stack[..., 11:14],
        reference=np.array(opened(reference_of(path))),
    )
    return StoredClip(planes=planes, truth=stack[..., 14:17], attention=stack[..., 17])


def stretch(path: Path, chooser: np.random.Generator, frames: int) -> StoredClip:
    """A random stretch of a stored clip. Raises ValueError where its files are broken."""
    return load(path, int(chooser.integers(0, opened(path).shape[0] - frames + 1)), frames)
