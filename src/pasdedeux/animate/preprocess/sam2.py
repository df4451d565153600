"""A person's pixels by SAM 2, through transformers, from a folder that the user has downloaded.

The model is told by points of the body who is meant, on some frames, and follows them through those between. It works
on one frame after the other and forgets what it no longer looks at, so a long clip takes no more memory than a short
one. Pictures are prepared here, because transformers' own way to do so needs torchvision and the whole clip at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.inputs import InputError, Keypoints
from pasdedeux.animate.preprocess.detector import Bytes
from pasdedeux.animate.preprocess.detr import opened

# Of ImageNet's pictures, per channel.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Nose, neck, shoulders, hips, ankles: those that the released preprocessing of Wan-Animate points at.
POINTED = [0, 1, 2, 5, 8, 11, 10, 13]
SEEN = 0.5
KEY_EVERY = 100  # frames: as often as the released preprocessing (4 in 400)
KEY_POINTS = 3  # seen, for a frame to be worth pointing at again
JUMP = 0.75  # of the body's extent, from one frame to the next: another shot, so nothing before it counts
KEPT_KEYS = 4
WHO = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    """Points [P, 2] in pixels at which the person is; anew: what was seen before is not to be looked at."""

    points: NDArray[np.float32]
    anew: bool


class Sam2Masker:
    """A `Masker`; folder: config.json and model.safetensors of a SAM 2 or 2.1 in transformers' format.

    every: frames from one on which the person is pointed at to the next. Raises InputError.
    """

    def __init__(self, folder: Path, *, every: int = KEY_EVERY, device: str | None = None) -> None:
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = opened(folder, "Sam2VideoModel").to(self._device).eval()
        self._every = every
        self.name = f"sam2 {folder.name} transformers {version('transformers')}"

    @torch.inference_mode()
    def masks(self, frames: Iterable[Bytes], keypoints: Keypoints) -> Iterator[Bytes]:
        """uint8 [H, W] for each frame, 255 on the person, nothing before they are first seen; see `Masker`."""
        session: Any = None
        for index, (frame, prompt) in enumerate(zip(frames, prompts(keypoints, self._every), strict=True)):
            if prompt is not None and (session is None or prompt.anew):
                session = _session(frame, self._device)
            if session is None:
                yield np.zeros(frame.shape[:2], np.uint8)
                continue
            if prompt is not None:
                _point(session, index, prompt.points, frame, self._side)
            pixels = pixels_of(frame, self._side, self._device)
            answer = self._model(session, frame_idx=index, frame=pixels)
            forget(session, index, self._remembered)
            yield mask_of(answer.pred_masks, frame)

    @property
    def _side(self) -> int:
        side = self._model.config.image_size
        return side if isinstance(side, int) else int(side[0])

    @property
    def _remembered(self) -> int:
        """Frames back that the model may look at."""
        config = self._model.config
        return max(config.num_maskmem, config.max_object_pointers_in_encoder)


def prompts(keypoints: Keypoints, every: int = KEY_EVERY) -> Iterator[_Prompt | None]:
    """For each frame where to point, None where the model is left to follow.

    It is pointed at the first frame in which anything of the body is seen, after the person was gone, after a jump, and
    else on the first frame `every` frames later on which enough is seen.
    """
    due, before, gone = 0, None, True
    for index, body in enumerate(keypoints.body):
        seen = _inside(body, keypoints.size)
        jumped = before is not None and _jumped(before, body)
        if not seen.any():
            gone = True
            yield None
            continue
        if gone or jumped or (index >= due and seen[POINTED].sum() >= KEY_POINTS):
            points = body[POINTED, :2][seen[POINTED]] if seen[POINTED].any() else body[seen, :2]
            yield _Prompt(points=points, anew=jumped)
            due = index + every
        else:
            yield None
        before, gone = body, False


def _inside(body: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    return (body[:, 2] >= SEEN) & ((body[:, :2] >= 0) & (body[:, :2] < size)).all(axis=-1)


def _jumped(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Whether the body is somewhere else altogether, by the points seen in both."""
    both = (before[:, 2] >= SEEN) & (after[:, 2] >= SEEN)
    if both.sum() < 2:
        return False
    extent = np.linalg.norm(np.ptp(before[both, :2], axis=0))
    return bool(np.linalg.norm(after[both, :2] - before[both, :2], axis=-1).mean() > JUMP * extent)


def pixels_of(frame: Bytes, side: int, device: str) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, side, side], squeezed to a square, by ImageNet's statistics."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (pixels - mean) / std


def mask_of(logits: Tensor, frame: Bytes) -> Bytes:
    """Logits [1, 1, h, w] as uint8 [H, W] of the frame's size, 255 where they are positive."""
    whole = F.interpolate(logits.float(), size=frame.shape[:2], mode="bilinear", align_corners=False)[0, 0]
    return ((whole > 0).to(torch.uint8) * 255).cpu().numpy()


def _session(frame: Bytes, device: str) -> Any:
    try:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
    except ImportError as error:
        raise InputError("This transformers has no SAM 2 for video; version 5.23 or later is needed.") from error
    return Sam2VideoInferenceSession(
        video_height=frame.shape[0],
        video_width=frame.shape[1],
        inference_device=device,
        inference_state_device=device,
        video_storage_device=device,
        dtype=torch.float32,
    )


def _point(session: Any, index: int, points: NDArray[np.float32], frame: Bytes, side: int) -> None:
    """Tell the session that the person is at these points [P, 2] of frame `index`."""
    scale = np.array([side / frame.shape[1], side / frame.shape[0]], np.float32)
    inputs = {
        "point_coords": torch.from_numpy(points * scale)[None, None],
        "point_labels": torch.ones(1, 1, len(points), dtype=torch.int32),
    }
    session.add_point_inputs(session.obj_id_to_idx(WHO), index, inputs)
    session.obj_with_new_inputs = [WHO]


def forget(session: Any, index: int, remembered: int) -> None:
    """Drop what the model will not look at after frame `index`: pixels, old memories, all but the last keys."""
    session.processed_frames.pop(index, None)
    session.point_inputs_per_obj[0].pop(index, None)
    session.frames_tracked_per_obj[0].clear()
    session.cache.clear_all()
    memories = session.output_dict_per_obj[0]
    for old in [i for i in memories["non_cond_frame_outputs"] if i <= index - remembered]:
        del memories["non_cond_frame_outputs"][old]
    for old in sorted(memories["cond_frame_outputs"])[:-KEPT_KEYS]:
        del memories["cond_frame_outputs"][old]
