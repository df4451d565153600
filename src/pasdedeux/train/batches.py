"""Stored clips as what a training step takes: model inputs, clean latents, and how much each token counts."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pasdedeux.animate.condition.duet import Planes, segment_inputs, video_tensor
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetInputs
from pasdedeux.train.clips import StoredClip
from pasdedeux.train.codec import pixel_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Model inputs, clean latents [B, C, F, h, w] and loss weights per token [B, 1, F, h, w]."""

    inputs: DuetInputs
    clean: Tensor
    weight: Tensor

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(inputs=self.inputs.to(device), clean=self.clean.to(device), weight=self.weight.to(device))


def cropped(clip: StoredClip, width: int, grid: int) -> StoredClip:
    """`width` columns of a clip around its person and its reference's, starting at a multiple of `grid`."""
    interest = (clip.attention > 0).sum((0, 1)) / len(clip.attention) + (clip.planes.reference[..., 3] > 0).sum(0)
    middle = float(np.average(np.arange(len(interest)), weights=interest + 1e-6))
    start = int(np.clip(round((middle - width / 2) / grid) * grid, 0, len(interest) - width))
    columns = slice(start, start + width)
    p = clip.planes
    scene, carried, pose, face = (a[:, :, columns] for a in (p.scene, p.carried, p.pose, p.face))
    planes = Planes(scene=scene, carried=carried, pose=pose, face=face, reference=p.reference[:, columns].copy())
    return StoredClip(planes=planes, truth=clip.truth[:, :, columns], attention=clip.attention[:, :, columns])


def collate(clips: list[StoredClip], codec: PatchCodec, handed: list[int], dtype: torch.dtype) -> Batch:
    """Clips of equal length to one batch; `handed` latent frames of each are given as known."""
    truths = codec.encode(torch.cat([video_tensor(c.truth) for c in clips]))
    inputs = [
        segment_inputs(c.planes, codec, truths[i : i + 1, :, :n] if n else None, dtype)
        for i, (c, n) in enumerate(zip(clips, handed, strict=True))
    ]
    joined = DuetInputs(
        planes=torch.cat([x.planes for x in inputs]),
        reference=torch.cat([x.reference for x in inputs]),
        base=torch.cat([x.base for x in inputs]),
        known=torch.cat([x.known for x in inputs]),
        region=torch.cat([x.region for x in inputs]),
    )
    weight = token_weights(torch.from_numpy(np.stack([c.attention for c in clips])), codec)
    return Batch(inputs=joined, clean=truths, weight=weight * (1 - joined.known.float()))


def taught(
    clips: list[StoredClip],
    codec: PatchCodec,
    chooser: np.random.Generator,
    *,
    window: int | None,
    handed: float,
    dtype: torch.dtype,
) -> Batch:
    """Clips as a step learns from them: cropped to `window` columns, and `handed` of them given their beginning.

    `handed` is a share; the beginning is one or two latent frames, as in a later segment.
    """
    if window:
        clips = [cropped(clip, window, codec.stride[2]) for clip in clips]
    most = (len(clips[0].truth) - 1) // codec.stride[0]
    given = [min(int(chooser.integers(1, 3)), most) if chooser.random() < handed else 0 for _ in clips]
    return collate(clips, codec, given, dtype)


def token_weights(attention: Tensor, codec: PatchCodec) -> Tensor:
    """[B, T, H, W] attention bytes to mean loss weights [B, 1, F, h, w] of the latents that cover them."""
    first, later = codec.patches(pixel_weights(attention)[:, None].expand(-1, 3, -1, -1, -1))
    return rearrange(torch.cat([first.mean(-1), later.mean(-1)], dim=1), "B F h w -> B 1 F h w")
