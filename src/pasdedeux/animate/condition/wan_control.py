"""Wan2.2-Fun-A14B-Control: the pose as channels behind the noise, what is given behind it, and the character's picture.

Channels of the released model (in_dim 52): 16 of the noise, 16 of the pose, 4 that say what is given, 16 of what that
is. A model of in_dim 48 has 16 of the first frame in place of the last two. The character's picture becomes a frame of
tokens of its own, which the latent does not contain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

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
from pasdedeux.animate.condition.wan_drivers import Drivers, begun, by_latent_frame, mask_of
from pasdedeux.animate.perform import SegmentCondition
from pasdedeux.models.wan.config import ControlConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ControlStage:
    """A performance set up for Fun-Control, in the mode that `drivers` were drawn for; a `Stage` of `animate.perform`.

    features [1, n, image_dim] are the character's picture as CLIP sees it, for models that look at it. Raises
    ValueError where a model of these sizes cannot do what is asked for.
    """

    vae: VideoVAE
    drivers: Drivers
    prompts: Prompts
    config: ControlConfig = field(default_factory=ControlConfig)
    features: Tensor | None = None
    _constant: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        channels, extra = self.vae.channels, self.config.in_dim - 2 * self.vae.channels
        if extra not in (channels, channels + 4):
            known = f"{3 * channels + 4} or {3 * channels}"
            raise ValueError(f"A control model has {known} input channels, but this one has {self.config.in_dim}.")
        if self.config.ref_dim is None:
            raise ValueError("This control model takes no reference picture, so it cannot be told who is to be seen.")
        if self.drivers.background is not None and not self.masked:
            raise ValueError(f"A control model of {self.config.in_dim} input channels has no mask: it cannot replace.")

    @property
    def masked(self) -> bool:
        """Whether the model is told, by a mask, what is given."""
        return self.config.in_dim == 3 * self.vae.channels + 4

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return len(self.drivers)

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Condition frames `index` (1 + 4k); the first ones are given where `handed` gives them."""
        shape = latent_shape(self.vae, len(index), self.drivers.size)
        pose = encode(self.vae, to_video(self.drivers.pose[index]))
        given = self._given(index, handed) if self.masked else self._start(shape, handed)
        shown = {"reference": self._reference()}
        if self.features is not None:
            shown["image"] = self.features
        return conditions(shape, self.prompts, prepare=shown, channels=torch.cat((pose, given), dim=1))

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent [1, C, F, h, w]."""
        return decode(self.vae, latent)

    def _reference(self) -> Tensor:
        """Latents [1, C, h, w] of the character's picture, encoded once."""
        if "reference" not in self._constant:
            self._constant["reference"] = encode(self.vae, to_video(self.drivers.reference[None]))[:, :, 0]
        return self._constant["reference"]

    def _given(self, index: list[int], handed: Bytes | None) -> Tensor:
        """[1, 4 + C, F, h, w]: what is given, and its latents; zeros all through where nothing is."""
        _, channels, frames, rows, columns = latent_shape(self.vae, len(index), self.drivers.size)
        (width, height), surroundings = self.drivers.size, self.drivers.surroundings(index)
        scene, given = torch.zeros(1, 3, len(index), height, width), torch.zeros(1, 1, len(index), height, width)
        if surroundings is not None:
            given = 1 - mask_of(surroundings[1])
            scene = to_video(surroundings[0]) * given
        if handed is not None:
            scene = begun(scene, handed)
            given[:, :, : len(handed)] = 1
        if not given.any():
            return torch.zeros(1, 4 + channels, frames, rows, columns)  # as it was trained, not latents of grey
        small = functional.interpolate(given[0], size=(rows, columns), mode="bilinear", align_corners=False)
        return torch.cat((by_latent_frame(small[None]), encode(self.vae, scene)), dim=1)

    def _start(self, shape: tuple[int, ...], handed: Bytes | None) -> Tensor:
        """[1, C, F, h, w]: latents of the first frame, and zeros after it."""
        start = torch.zeros(shape)
        if handed is not None:
            start[:, :, :1] = encode(self.vae, to_video(handed[:1]))
        return start
