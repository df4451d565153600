"""What the Wan families that follow a performance are shown of it, as pictures of the output's size.

Clips are drawn as they are asked for: at 720p a minute of any one of them is 5 GB.

Axes: T frames, H W pixels, S side of a face crop; F latent frames, h w latents.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pasdedeux.animate.clips import Drawn
from pasdedeux.animate.condition.wan import Bytes, to_video
from pasdedeux.animate.images import letterbox
from pasdedeux.animate.inputs import CharacterImage, Clip, InputError, Keypoints, Performance
from pasdedeux.animate.preprocess.draw import draw_performer, draw_skeleton
from pasdedeux.animate.preprocess.face_crops import SIDE, face_crops
from pasdedeux.animate.preprocess.masks import BLOCKS, GROW, Blocks, widened

MODES = ("animate", "replace")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drivers:
    """A performance as a Wan family takes it, uint8.

    pose [T, H, W, 3]: the skeleton; face [T, S, S, 3]: crops, black where there is none; reference [H, W, 3]: who is
    to be seen. To replace somebody: background [T, H, W, 3], black where the person is, and mask [T, H, W], 255 there.
    Raises ValueError where they do not agree.
    """

    pose: Clip
    face: Clip
    reference: Bytes
    background: Clip | None = None
    mask: Clip | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.background is None) != (self.mask is None):
            raise ValueError("A background and a mask belong together, but one of them is missing; give both or none.")
        for name in ("face", "background", "mask"):
            clip: Clip | None = getattr(self, name)
            if clip is not None and len(clip) != len(self.pose):
                raise ValueError(f"There are {len(clip)} pictures of the {name}, but {len(self.pose)} of the pose.")

    def __len__(self) -> int:
        return len(self.pose)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the output."""
        height, width = self.reference.shape[:2]
        return width, height

    def surroundings(self, index: list[int]) -> tuple[Bytes, Bytes] | None:
        """Background and mask of these frames, or None where nobody is replaced."""
        if self.background is None or self.mask is None:
            return None
        return self.background[index], self.mask[index]


def draw_drivers(
    character: CharacterImage,
    performance: Performance,
    points: Keypoints,
    mode: str,
    *,
    face_side: int = SIDE,
    face_on_pose: bool = False,
    grow: int = GROW,
    blocks: Blocks | None = BLOCKS,
) -> Drivers:
    """Everything of a performance. `points` are its keypoints already fitted to the character, in the output's size.

    face_on_pose: whether the pose shows the face in dots, as VACE and Fun know it; Wan-Animate has its crops. grow and
    blocks: the room round the performer that is emptied in replace mode, as `widened` has it. Raises InputError where
    replace mode lacks the performer's pictures, ValueError for another mode.
    """
    if mode not in MODES:
        raise ValueError(f'There is no mode "{mode}"; there are {" and ".join(MODES)}.')
    if len(points) != len(performance.keypoints):
        raise ValueError(f"There are {len(points)} frames of points for a performance of {len(performance.keypoints)}.")
    crops = face_crops(performance, face_side)
    background, mask = _emptied(performance, points.size, grow, blocks) if mode == "replace" else (None, None)

    def pose(i: int) -> Bytes:
        if face_on_pose:
            return draw_performer(points.body[i], points.hands[i], points.face[i], points.size)
        return draw_skeleton(points.body[i], points.hands[i], points.size)

    return Drivers(
        pose=Drawn(len(points), pose),
        face=crops,
        reference=letterbox(character.image, points.size)[0],
        background=background,
        mask=mask,
        notes=face_notes(performance, crops.missing),
    )


def face_notes(performance: Performance, missing: int) -> tuple[str, ...]:
    """What is to be said about faces that are not seen."""
    if performance.frames is None and performance.source is None:
        return ("the driver's pictures are not known, so its expression is not taken over",)
    if missing:
        return (f"no face is seen in {missing} of the driver's {len(performance.keypoints)} frames",)
    return ()


def _emptied(performance: Performance, size: tuple[int, int], grow: int, blocks: Blocks | None) -> tuple[Drawn, Drawn]:
    """The driver's frames without the performer, and where the performer is."""
    frames, mask = performance.frames, performance.mask
    if frames is None or mask is None:
        raise InputError("Replace mode needs the driver's pictures and mask, but only its keypoints are known.")
    if performance.keypoints.size != size:
        theirs, ours = ("x".join(map(str, s)) for s in (performance.keypoints.size, size))
        raise InputError(f"Replace mode works in the driver's pictures of {theirs}, but the output is {ours}.")

    def room(i: int) -> Bytes:
        return widened(mask[[i]][0], grow, blocks)

    def outside(i: int) -> Bytes:
        return np.where(room(i)[..., None] > 0, np.uint8(0), frames[[i]][0])

    return Drawn(len(frames), outside), Drawn(len(frames), room)


def begun(video: Tensor, handed: Bytes | None) -> Tensor:
    """video [1, 3, T, H, W] with the frames already made at its start."""
    if handed is None:
        return video
    start = to_video(handed).to(video)
    return torch.cat((start, video[:, :, start.shape[2] :]), dim=2)


def mask_of(mask: Bytes) -> Tensor:
    """uint8 [T, H, W] to float32 [1, 1, T, H, W], 1 where it is 255."""
    return torch.from_numpy(mask)[None, None].float() / 255


def by_latent_frame(mask: Tensor) -> Tensor:
    """[1, 1, 1+4k, h, w] to [1, 4, 1+k, h, w]: four pictures to a latent frame, the first counted four times."""
    mask = torch.cat((mask[:, :, :1].expand(-1, -1, 4, -1, -1), mask[:, :, 1:]), dim=2)
    return rearrange(mask, "b 1 (F t) h w -> b t F h w", t=4)
