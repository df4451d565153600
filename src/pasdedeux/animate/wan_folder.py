"""A folder of drivers as Wan-Animate's own program and diffusers' pipeline take them, written and read.

`src_pose.mp4`, `src_face.mp4` and `src_ref.png`; to replace somebody also `src_bg.mp4` and `src_mask.mp4`. All videos
are lossless here: an outline that was compressed is no outline any more. Others' may be lossy, and are read as well.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pasdedeux.animate.clips import Drawn, Fitted, VideoClip
from pasdedeux.animate.condition.wan_drivers import Drivers
from pasdedeux.animate.images import letterbox, letterbox_of, load_image, save_png
from pasdedeux.animate.inputs import Clip, InputError
from pasdedeux.animate.lossless import Kind, LosslessWriter
from pasdedeux.animate.preprocess.face_crops import SIDE

POSE, FACE, REFERENCE, BACKGROUND, MASK = "src_pose.mp4", "src_face.mp4", "src_ref.png", "src_bg.mp4", "src_mask.mp4"
OnFrame = Callable[[int, int], None]
Part: TypeAlias = tuple[str, Clip, tuple[int, int], Kind]
"""A file's name, what is in it, its (width, height), and which kind of file it is."""


def write_wan_folder(
    folder: Path, drivers: Drivers, fps: float, on_frame: OnFrame | None = None, *, reference: bool = True
) -> list[Path]:
    """Write what `drivers` hold into a folder that is there, a frame at a time; the files' paths.

    on_frame(i, total) counts pictures of all files together; reference: whether who is to be seen is known. Each file
    is whole or not there.
    """
    width, height = drivers.size
    side = drivers.face[[0]].shape[1]
    clips: list[tuple[str, Clip, tuple[int, int], Kind]] = [
        (POSE, drivers.pose, (width, height), "rgb"),
        (FACE, drivers.face, (side, side), "rgb"),
    ]
    if drivers.background is not None and drivers.mask is not None:
        clips.append((BACKGROUND, drivers.background, (width, height), "rgb"))
        clips.append((MASK, drivers.mask, (width, height), "grey"))
    total, done = len(clips) * len(drivers), 0
    for name, clip, size, kind in clips:
        with LosslessWriter(folder / name, fps, size, kind) as video:
            for i in range(len(clip)):
                video.write(clip[[i]][0])
                done += 1
                if on_frame is not None:
                    on_frame(done, total)
    files = [folder / name for name, *_ in clips]
    if reference:
        save_png(folder / REFERENCE, drivers.reference, {})
        files.append(folder / REFERENCE)
    return files


def is_wan_folder(folder: Path) -> bool:
    """Whether a folder holds at least a pose and a face of Wan-Animate's."""
    return (folder / POSE).is_file() and (folder / FACE).is_file()


def read_wan_folder(
    folder: Path, mode: str, character: Path | None = None, face_side: int = SIDE
) -> tuple[Drivers, float]:
    """Drivers and frames per second of such a folder, whoever made it; character: in place of its src_ref.png.

    The pose's size is the output's; faces are brought to `face_side` pixels. Raises InputError where a file is missing
    that the mode needs, or lengths differ.
    """
    pose = VideoClip(folder / POSE)
    face = _fitted(VideoClip(folder / FACE), (face_side, face_side))
    image = load_image(character or _needed(folder / REFERENCE, "a reference picture")).image
    background = mask = None
    if mode == "replace":
        background = _fitted(VideoClip(_needed(folder / BACKGROUND, "a background, for replace mode")), pose.size)
        mask = _outline(VideoClip(_needed(folder / MASK, "a mask, for replace mode")), pose.size)
    for name, clip in ((FACE, face), (BACKGROUND, background), (MASK, mask)):
        if clip is not None and len(clip) != len(pose):
            raise InputError(f"{folder / name} has {len(clip)} frames, but {POSE} has {len(pose)}.")
    reference = letterbox(image, pose.size)[0]
    return Drivers(pose=pose, face=face, reference=reference, background=background, mask=mask), pose.fps


def _needed(path: Path, what: str) -> Path:
    if not path.is_file():
        raise InputError(f"{path.parent} holds no {path.name}: {what} is needed.")
    return path


def _fitted(clip: VideoClip, size: tuple[int, int]) -> Clip:
    return clip if clip.size == size else Fitted(clip, letterbox_of(clip.size, size))


def _outline(clip: VideoClip, size: tuple[int, int]) -> Clip:
    """A mask's first channel, clean again where its video was compressed."""
    fitted = _fitted(clip, size)
    return Drawn(len(fitted), lambda i: np.where(fitted[[i]][0, ..., 0] > 127, np.uint8(255), np.uint8(0)))
