"""What the built-in pair is conditioned on: character, performance and scene, as planes of pixels of the output.

Animate and replace mode differ only in the scene that is passed in: the character's own picture with a hole where the
character stands, or the driver's frames with a hole where the performer stands. Holes are filled roughly from their
edge; a plane says where. Training draws its planes with these functions too.

Axes: T frames, H W pixels, F latent frames, h w latents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pasdedeux.animate.clips import Drawn
from pasdedeux.animate.condition.carry import Parts, carry, take_apart, torso_length
from pasdedeux.animate.inputs import CharacterImage, Clip, Keypoints
from pasdedeux.animate.perform import SegmentCondition
from pasdedeux.animate.preprocess.draw import draw_face, draw_skeleton
from pasdedeux.denoise import Denoiser
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import FAR, NEAR, TOUCHED, DuetCondition, DuetInputs, DuetTransformer

Bytes = NDArray[np.uint8]
HOLE_MARGIN = 2
"""Pixels per 128 of height by which a hole is wider than the person's mask."""

TRUST = 0.1
"""Mean square change of a latent at which 1/e of the composite's own detail is kept."""
SHADOW = 3
"""Latents around the figure within which its shadow may fall."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Where it plays: a clip [T or 1, H, W, 4] of filled pictures and their holes (255 = filled in)."""

    place: Clip

    def at(self, frame: int) -> Bytes:
        """[H, W, 4] of one frame; a place that keeps still is the same in all."""
        return self.place[[frame if len(self.place) > 1 else 0]][0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planes:
    """Drawn conditions of a stretch of frames: scene [T, H, W, 4], carried [T, H, W, 4], pose and face [T, H, W, 3].

    `reference` [H, W, 10] is the character: picture, mask, skeleton, face.
    """

    scene: Bytes
    carried: Bytes
    pose: Bytes
    face: Bytes
    reference: Bytes


def fill(picture: Bytes, mask: Bytes) -> tuple[Bytes, Bytes]:
    """Paint over a masked person: picture [H, W, 3] and hole [H, W].

    Each row is bridged in a straight line from the hole's left edge to its right: behind a person who stands, places
    change less along a row than along a column.
    """
    margin = 1 + 2 * max(1, round(HOLE_MARGIN * picture.shape[0] / 128))
    hole = cv2.dilate((mask > 8).astype(np.uint8) * 255, np.ones((margin, margin), np.uint8)).astype(np.uint8)
    columns, width = np.arange(hole.shape[1]), hole.shape[1]
    left = np.maximum.accumulate(np.where(hole == 0, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(hole == 0, columns, width)[:, ::-1], axis=1)[:, ::-1]
    start, stop = np.where(left < 0, right, left), np.where(right == width, left, right)
    empty = (left < 0) & (right == width)
    start, stop = (np.where(empty, columns, side).clip(0, width - 1) for side in (start, stop))
    share = ((columns - start) / np.maximum(stop - start, 1))[..., None]
    rows = np.arange(hole.shape[0])[:, None]
    bridged = picture[rows, start] * (1 - share) + picture[rows, stop] * share
    return np.where(hole[..., None] > 0, np.rint(bridged), picture).astype(np.uint8), hole


def still_scene(character: CharacterImage) -> Scene:
    """Animate mode: the character's own picture, with the character taken out."""
    return Scene(np.dstack(fill(character.image, character.mask))[None])


def driver_scene(frames: Clip, mask: Clip) -> Scene:
    """Replace mode: the driver's frames [T, H, W, 3] with the performer's mask [T, H, W] taken out."""
    return Scene(Drawn(len(frames), lambda i: np.dstack(fill(frames[[i]][0], mask[[i]][0]))))


def reference_planes(character: CharacterImage) -> Bytes:
    """[H, W, 10]: the character's picture, mask, skeleton and face."""
    k = character.keypoints
    pose, face = draw_skeleton(k.body[0], k.hands[0], k.size), draw_face(k.face[0], k.size)
    return np.dstack([character.image, character.mask, pose, face])


def character_parts(character: CharacterImage) -> Parts:
    """The character taken apart, ready to be carried."""
    k = character.keypoints
    return take_apart(character.image, character.mask, k.body[0], k.face[0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sketches:
    """Planes of a performance that is in the character's proportions and the output's size, drawn when asked for.

    scale: the performance's figure over the character's.
    """

    parts: Parts
    reference: Bytes
    performance: Keypoints
    scene: Scene
    scale: float

    def __len__(self) -> int:
        return len(self.performance)

    def frames(self, index: Sequence[int]) -> Planes:
        """The planes of these frames."""
        p, size = self.performance, self.performance.size
        return Planes(
            scene=np.stack([self.scene.at(i) for i in index]),
            carried=np.stack([carry(self.parts, p.body[i], p.face[i], self.scale) for i in index]),
            pose=np.stack([draw_skeleton(p.body[i], p.hands[i], size) for i in index]),
            face=np.stack([draw_face(p.face[i], size) for i in index]),
            reference=self.reference,
        )


def sketch(character: CharacterImage, performance: Keypoints, scene: Scene) -> Sketches:
    """A performance that is already in the character's proportions and the output's size, ready to be drawn."""
    return Sketches(
        parts=character_parts(character),
        reference=reference_planes(character),
        performance=performance,
        scene=scene,
        scale=stature(performance) / stature(character.keypoints),
    )


def draw_planes(character: CharacterImage, performance: Keypoints, scene: Scene) -> Planes:
    """Every plane of a performance, in all of its frames."""
    return sketch(character, performance, scene).frames(range(len(performance)))


def stature(keypoints: Keypoints) -> float:
    """Size of the figure in pixels: the torso's length where it is least foreshortened (90th percentile)."""
    return float(np.percentile([torso_length(body) for body in keypoints.body], 90))


def composite(planes: Planes) -> Bytes:
    """The rough answer [T, H, W, 3]: the carried character over the filled scene."""
    alpha = planes.carried[..., 3:].astype(np.float32) / 255
    return np.clip(planes.scene[..., :3] * (1 - alpha) + planes.carried[..., :3] + 0.5, 0, 255).astype(np.uint8)


def video_tensor(frames: Bytes) -> Tensor:
    """[T, H, W, 3] bytes to [1, 3, T, H, W] float32 in [-1, 1]."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "T H W c -> 1 c T H W").float() / 127.5 - 1


def regions(planes: Planes, codec: PatchCodec) -> Tensor:
    """[1, F, h, w]: which latents hold carried or filled-in pixels, which lie within `SHADOW` latents of one."""
    touched = np.maximum(planes.scene[..., 3], planes.carried[..., 3])
    first, later = codec.patches(torch.from_numpy(touched)[None, None].float())
    on = torch.cat([first.amax(-1), later.amax(-1)], dim=1) > 16
    near = functional.max_pool2d(on.float(), 2 * SHADOW + 1, stride=1, padding=SHADOW) > 0
    return torch.where(on, TOUCHED, torch.where(near, NEAR, FAR))


def segment_inputs(planes: Planes, codec: PatchCodec, known: Tensor | None, dtype: torch.dtype) -> DuetInputs:
    """Planes of 1 + 4k frames to the model's inputs; `known` [1, C, n, h, w] are latents handed over, n <= 1 + k."""
    base = codec.encode(video_tensor(composite(planes)))
    flag = torch.zeros(1, 1, base.shape[2], 1, 1)
    if known is not None:
        base[:, :, : known.shape[2]] = known
        flag[:, :, : known.shape[2]] = 1
    stack = np.concatenate([planes.scene, planes.carried, planes.pose, planes.face], axis=-1)
    reference = rearrange(torch.from_numpy(planes.reference), "H W p -> 1 p H W").float() / 127.5 - 1
    return DuetInputs(
        planes=video_tensor(stack).to(dtype),
        reference=reference.to(dtype),
        base=base.to(dtype),
        known=flag.to(dtype),
        region=regions(planes, codec),
    )


def decode_over(codec: PatchCodec, latent: Tensor, base: Tensor, rough: Tensor) -> Iterator[Tensor]:
    """Decode latents [B, C, F, h, w] whose composite has latents `base` and pixels `rough` [B, 3, T, H, W].

    What the codec lost of the composite is given back where the denoisers left the composite as it is, by the factor
    exp(-d / TRUST) for the mean square change d of a latent: so the place stays sharp, and nothing old shows through
    where something new was painted. Gives chunks [B, 3, 1 or 4, H, W] in [-1, 1].
    """
    latent, base = latent.float(), base.float()
    trust = torch.exp(-(latent - base).square().mean(1, keepdim=True) / TRUST)
    done = 0
    for i in range(latent.shape[2]):
        own, same = (codec.decode_one(z[:, :, i], z[:, :, i - 1] if i else None) for z in (latent, base))
        lost = rough[:, :, done : done + own.shape[2]] - same
        share = functional.interpolate(trust[:, :, i], size=own.shape[3:], mode="bilinear", align_corners=False)
        yield (own + share[:, :, None] * lost).clamp(-1, 1)
        done += own.shape[2]


@dataclass(frozen=True, slots=True)
class DuetPrompt:
    """A segment's inputs, and what each expert has made of them, computed when first asked for and then kept.

    `rough` [B, 3, T, H, W] are the composite's pixels in [-1, 1].
    """

    inputs: DuetInputs
    rough: Tensor
    prepared: dict[int, DuetCondition] = field(default_factory=dict)

    def of(self, model: DuetTransformer) -> DuetCondition:
        """The inputs as `model` sees them."""
        if id(model) not in self.prepared:
            self.prepared[id(model)] = model.prepare(self.inputs.to(model.spread.device))
        return self.prepared[id(model)]


def denoiser(model: DuetTransformer) -> Denoiser:
    """A model as an expert's denoiser, conditioned on a `DuetPrompt`.

    Latents may live on another device than the model: being small, they travel at every step.
    """

    def velocity(x: Tensor, sigma: Tensor, cond: DuetPrompt, /) -> Tensor:
        device = model.spread.device
        return model(x.to(device), sigma.to(device), cond.of(model)).to(x.device)

    return velocity


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetStage:
    """A performance set up for the built-in pair; the `Stage` of `animate.perform`.

    A segment is prepared for all `experts` as it is conditioned, so that a step costs the same whoever takes it.
    """

    planes: Sketches
    codec: PatchCodec
    dtype: torch.dtype
    experts: tuple[DuetTransformer, ...] = ()

    @property
    def frames(self) -> int:
        """Length of the performance."""
        return len(self.planes)

    @torch.no_grad()
    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """Condition frames `index`; the first ones are known where `handed` gives them."""
        known = None if handed is None else self.codec.encode(video_tensor(handed))
        planes = self.planes.frames(index)
        inputs = segment_inputs(planes, self.codec, known, self.dtype)
        prompt = DuetPrompt(inputs, video_tensor(composite(planes)))
        for expert in self.experts:
            prompt.of(expert)
        return SegmentCondition(shape=tuple(inputs.base.shape), cond=prompt)

    @torch.no_grad()
    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent, one latent frame at a time; over the composite where `what` gives the segment."""
        prompt: DuetPrompt | None = what.cond if what else None
        chunks = (
            decode_over(self.codec, latent, prompt.inputs.base, prompt.rough)
            if prompt
            else self.codec.decode_frames(latent)
        )
        for chunk in chunks:
            pixels = ((chunk[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            yield rearrange(pixels, "c T H W -> T H W c").numpy()
