"""Wan2.2-Animate-14B: a segment's pose, face, place and character, as its transformer takes them.

The latent has one frame more than the video: the first is the character's picture, denoised like the rest and then
dropped. Behind the noise come 4 channels that say what is given, and 16 of what that is: the character's picture in
the first frame; then the frames already made, and in replace mode the driver's place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from pasdedeux.animate.condition.wan import (
    Bytes,
    Prompts,
    VideoVAE,
    WanInputs,
    decode,
    encode,
    latent_shape,
    to_video,
)
from pasdedeux.animate.condition.wan_drivers import Drivers, begun, by_latent_frame, mask_of
from pasdedeux.animate.perform import SegmentCondition

NO_FACE = -1.0
"""Every pixel of the crops where the expression is not given: black."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnimateStage:
    """A performance set up for Wan-Animate, in the mode that `drivers` were drawn for; a `Stage` of `animate.perform`.

    features [1, 257, 1280] are the character's picture as CLIP sees it.
    """

    vae: VideoVAE
    drivers: Drivers
    prompts: Prompts
    features: Tensor
    _constant: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return len(self.drivers)

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Condition frames `index` (1 + 4k); the first ones are given where `handed` gives them."""
        batch, channels, frames, height, width = latent_shape(self.vae, len(index), self.drivers.size)
        given = torch.cat((self._reference(), self._place(index, handed)), dim=2)
        shown = {"image": self.features, "pose": encode(self.vae, to_video(self.drivers.pose[index]))}
        face = to_video(self.drivers.face[index])
        cond = WanInputs(prepare={**shown, "text": self.prompts.wanted, "face": face}, channels=given)
        uncond = None
        if self.prompts.unwanted is not None:
            none = torch.tensor(NO_FACE).expand_as(face)
            uncond = WanInputs(prepare={**shown, "text": self.prompts.unwanted, "face": none}, channels=given)
        return SegmentCondition(shape=(batch, channels, frames + 1, height, width), cond=cond, uncond=uncond)

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent [1, C, 1 + F, h, w], without the character's picture in front."""
        return decode(self.vae, latent[:, :, 1:])

    def _reference(self) -> Tensor:
        """[1, 4 + C, 1, h, w]: the character's picture, all of it given."""

        def make() -> Tensor:
            latent = encode(self.vae, to_video(self.drivers.reference[None]))
            return torch.cat((torch.ones(1, 4, *latent.shape[2:]), latent), dim=1)

        return self._kept("reference", 1, make)

    def _place(self, index: list[int], handed: Bytes | None) -> Tensor:
        """[1, 4 + C, F, h, w]: the frames handed over, then the driver's place or nothing (mid-grey, not given)."""
        (width, height), count = self.drivers.size, len(index)
        _, _, _, rows, columns = latent_shape(self.vae, count, self.drivers.size)
        scene, given = torch.zeros(1, 3, count, height, width), torch.zeros(1, 1, count, rows, columns)
        surroundings = self.drivers.surroundings(index)
        if surroundings is not None:
            scene, given = to_video(surroundings[0]), _outside(surroundings[1], (rows, columns))
        if handed is None and surroundings is None:
            latent = self._kept("nothing", count, lambda: encode(self.vae, scene))
        else:
            latent = encode(self.vae, begun(scene, handed))
        given[:, :, : 0 if handed is None else len(handed)] = 1
        return torch.cat((by_latent_frame(given), latent), dim=1)

    def _kept(self, name: str, frames: int, make: Callable[[], Tensor]) -> Tensor:
        """What is the same in every segment, encoded once."""
        if (name, frames) not in self._constant:
            self._constant[name, frames] = make()
        return self._constant[name, frames]


def _outside(mask: Bytes, latents: tuple[int, int]) -> Tensor:
    """[1, 1, T, h, w]: 1 where no person is, each latent read at its upper left pixel."""
    return functional.interpolate(1 - mask_of(mask)[0], size=latents, mode="nearest")[None].contiguous()
