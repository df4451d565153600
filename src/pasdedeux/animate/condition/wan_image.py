"""Image to video: a picture is the first frame. A clip of several segments goes on from the last frames made.

Two ways to tell the transformer what is there: beside the noise, as a mask and latents of the whole segment
(`ImageStage`, the A14B pair and Wan 2.1), or in its place, at timestep 0 (`StartStage`, the 5B model).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pasdedeux.animate.condition.wan import (
    Bytes,
    Prompts,
    VideoVAE,
    conditions,
    decode,
    encode,
    known_frames_mask,
    latent_shape,
    to_video,
    with_start,
)
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import SegmentCondition


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageStage:
    """A clip that begins with `image` [H, W, 3], of `size` (width, height), and ends with `last`, if that is given.

    `features` [1, n, image_dim] are the picture's as CLIP sees it, for the models that look at them. Raises InputError
    where a picture is not of `size`.
    """

    vae: VideoVAE
    frames: int
    size: tuple[int, int]
    prompts: Prompts
    image: Bytes
    features: Tensor | None = None
    last: Bytes | None = None

    def __post_init__(self) -> None:
        check_picture(self.image, self.size)
        if self.last is not None:
            check_picture(self.last, self.size)
            if self.frames < 2:
                raise InputError(f"A clip with a first and a last picture needs 2 frames or more, not {self.frames}.")

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Mask and latents of what is given: the picture, or in its place the frames `handed` over."""
        shape = latent_shape(self.vae, len(index), self.size)
        start = beginning(index, handed, self.image)
        end = self.frames - 1 - index[0]
        last = end if self.last is not None and end < len(index) else None
        return conditions(
            shape,
            self.prompts,
            prepare={} if self.features is None else {"image": self.features},
            channels=torch.cat(
                (
                    known_frames_mask(len(index), len(start), *shape[3:], last=last),
                    encode(self.vae, self._given(start, len(index), last)),
                ),
                dim=1,
            ),
        )

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent."""
        return decode(self.vae, latent)

    def _given(self, start: Bytes, frames: int, last: int | None) -> Tensor:
        """Pixels [1, 3, T, H, W] of what is given, zeros (mid grey) elsewhere."""
        width, height = self.size
        video = torch.zeros(1, 3, frames, height, width)
        video[:, :, : len(start)] = to_video(start)
        if last is not None and self.last is not None:
            video[:, :, last] = to_video(self.last[None])[:, :, 0]
        return video


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StartStage:
    """A clip whose known beginning stands in the latent itself: `image` [H, W, 3], of `size`, or none for text alone.

    Raises InputError where the picture is not of `size`.
    """

    vae: VideoVAE
    frames: int
    size: tuple[int, int]
    prompts: Prompts
    image: Bytes | None = None

    def __post_init__(self) -> None:
        if self.image is not None:
            check_picture(self.image, self.size)

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Latents of the picture, or in its place of the frames `handed` over."""
        shape = latent_shape(self.vae, len(index), self.size)
        if handed is None and self.image is None and index[0] == 0:
            return conditions(shape, self.prompts)
        return conditions(shape, self.prompts, known=encode(self.vae, to_video(beginning(index, handed, self.image))))

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent, what was known put back into its place: the solver has walked over it."""
        known = what.cond.known if what else None
        return decode(self.vae, latent if known is None else with_start(latent, known))


def beginning(index: list[int], handed: Bytes | None, image: Bytes | None) -> Bytes:
    """The frames [n, H, W, 3] that are there: those handed over, else the picture. Raises InputError for neither."""
    if handed is not None:
        return handed
    if image is None or index[0] > 0:
        raise InputError(
            f"Frame {index[0]} cannot follow on nothing: segments of a longer clip must overlap by at least one frame."
        )
    return image[None]


def check_picture(image: Bytes, size: tuple[int, int]) -> None:
    """Raises InputError unless `image` is uint8 [H, W, 3] of size (width, height)."""
    width, height = size
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise InputError(
            f"A picture is {image.dtype} {list(image.shape)}; a clip of {width}x{height} needs uint8 "
            f"[{height}, {width}, 3]."
        )
