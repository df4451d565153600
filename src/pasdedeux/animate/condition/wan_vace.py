"""VACE and Wan2.2-VACE-Fun-A14B: a video, a mask of what is to be made anew, and a picture of whom it is to show.

The control has 96 channels: 16 of the video where it stays, 16 of it where it changes, 64 of the mask, whose 8 x 8
pixels to a latent stand one in a channel. The character's picture is one more latent frame in front, all of it staying
and none of its mask set; what is denoised there is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from pasdedeux.animate.condition.wan import (
    Bytes,
    Prompts,
    VideoVAE,
    conditions,
    decode,
    encode,
    latent_shape,
    to_video,
)
from pasdedeux.animate.condition.wan_drivers import Drivers, begun, mask_of
from pasdedeux.animate.perform import SegmentCondition


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VaceStage:
    """A performance set up for VACE, in the mode that `drivers` were drawn for; a `Stage` of `animate.perform`.

    To animate, the whole video is the pose and all of it changes. To replace, it is the driver's, with the pose where
    the person is, and only that changes. scale: the weight of the control.
    """

    vae: VideoVAE
    drivers: Drivers
    prompts: Prompts
    scale: float = 1.0
    _constant: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return len(self.drivers)

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Condition frames `index` (1 + 4k); the first ones stay as they are where `handed` gives them."""
        batch, channels, frames, height, width = latent_shape(self.vae, len(index), self.drivers.size)
        video, changes = self._video(index)
        if handed is not None:
            video = begun(video, handed)
            changes[:, :, : len(handed)] = 0
        control = torch.cat((self._reference(), self._control(video, changes)), dim=2)
        shape = (batch, channels, frames + 1, height, width)
        return conditions(shape, self.prompts, prepare={"control": control, "scale": self.scale})

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent [1, C, 1 + F, h, w], without the character's picture in front."""
        return decode(self.vae, latent[:, :, 1:])

    def _video(self, index: list[int]) -> tuple[Tensor, Tensor]:
        """Pixels [1, 3, T, H, W] and what of them changes [1, 1, T, H, W]."""
        pose, surroundings = to_video(self.drivers.pose[index]), self.drivers.surroundings(index)
        if surroundings is None:
            return pose, torch.ones_like(pose[:, :1])
        changes = mask_of(surroundings[1])
        return torch.where(changes > 0, pose, to_video(surroundings[0])), changes

    def _control(self, video: Tensor, changes: Tensor) -> Tensor:
        """[1, 2 C + 64, F, h, w]."""
        stays = encode(self.vae, video * (1 - changes)) if changes.min() == 0 else self._nothing(video)
        return torch.cat((stays, encode(self.vae, video * changes), self._folded(changes)), dim=1)

    def _nothing(self, video: Tensor) -> Tensor:
        """Latents of as many mid-grey frames, encoded once."""
        frames = video.shape[2]
        if frames not in self._constant:
            self._constant[frames] = encode(self.vae, torch.zeros_like(video))
        return self._constant[frames]

    def _reference(self) -> Tensor:
        """[1, 2 C + 64, 1, h, w]: the character's picture."""
        if 0 not in self._constant:  # no number of frames is 0
            latent = encode(self.vae, to_video(self.drivers.reference[None]))
            _, rows, columns = self.vae.stride
            rest = torch.zeros(1, latent.shape[1] + rows * columns, *latent.shape[2:])
            self._constant[0] = torch.cat((latent, rest), dim=1)
        return self._constant[0]

    def _folded(self, mask: Tensor) -> Tensor:
        """[1, 1, T, H, W] to [1, 64, F, h, w]. A latent frame has the mask of the picture in the middle of its share.

        Shares are equal, though the first latent frame holds one picture and the others four: VACE was trained so. The
        last picture of a known start is therefore not marked as such; its pixels are there all the same.
        """
        time, rows, columns = self.vae.stride
        pictures = mask.shape[2]
        frames = 1 + (pictures - 1) // time
        middle = [(2 * frame + 1) * pictures // (2 * frames) for frame in range(frames)]
        return rearrange(mask[:, :, middle], "1 1 F (h r) (w c) -> 1 (r c) F h w", r=rows, c=columns)
