"""Judge a pair on held-out clips, beside what it has to beat.

Every clip's characters, choreography and place are new, and the performer is another character than the one that is
animated: the performer's joints are brought to the character's proportions and place by the same steps that users get
(or, to tell their error from the denoisers', the character's own exact joints are given).

Clips go through in batches, and an answer's frames are handed on and not kept, so that memory does not grow with their
number.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.condition.duet import (
    DuetPrompt,
    composite,
    decode_over,
    draw_planes,
    segment_inputs,
    video_tensor,
)
from pasdedeux.animate.inputs import Keypoints
from pasdedeux.animate.perform import noise
from pasdedeux.animate.preprocess.placement import in_place
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.denoise import ExpertSet, finish, run
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetInputs
from pasdedeux.train.clips import HELD_OUT, ClipSpec, Take, face_boxes, film, keypoints
from pasdedeux.train.metrics import iou, psnr, silhouette, ssim
from pasdedeux.train.study import Score

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """Held-out clip number `clip` and its conditions as model inputs."""

    clip: int
    take: Take
    inputs: DuetInputs
    rough: Bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an arm or a baseline made of a clip: frames [T, H, W, 3], and how near they are to the truth."""

    arm: str
    clip: int
    truth: Bytes
    frames: Bytes
    score: Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How every arm samples: the same noise levels, solver, and clips at once."""

    sigmas: tuple[float, ...]
    solver: str
    batch: int


def exam(
    clip: int,
    codec: PatchCodec,
    mode: str,
    exact: bool,
    dtype: torch.dtype,
    *,
    frames: int = 25,
    size: int = 128,
) -> Exam:
    """Held-out clip number `clip` in `mode`; `exact` gives the character's true joints instead of retargeted ones."""
    take = film(ClipSpec.from_seed(HELD_OUT + clip, frames=frames, size=size, mode=mode))
    points = keypoints(take.truth) if exact else prepared(take)
    planes = draw_planes(take.character, points, take.scene)
    with torch.no_grad():
        inputs = segment_inputs(planes, codec, None, dtype)
    return Exam(clip=clip, take=take, inputs=inputs, rough=composite(planes))


def prepared(take: Take) -> Keypoints:
    """The performer's joints as a user's job would have them: in the character's proportions, in the mode's place."""
    performer = keypoints(take.driver)
    points = retarget(performer, take.character.keypoints)
    return in_place(points, performer) if take.spec.mode == "replace" else points


def join(exams: list[Exam]) -> DuetInputs:
    """Inputs of several clips as one batch."""
    parts = {name: torch.cat([getattr(e.inputs, name) for e in exams]) for name in DuetInputs.__slots__}
    return DuetInputs(**parts)


def start(exams: list[Exam]) -> Tensor:
    """Every clip's own seeded noise [B, C, F, h, w], the same for every arm."""
    shape = tuple(exams[0].inputs.base.shape)
    return torch.cat([noise(shape, e.take.spec.choreography, 0) for e in exams])


def sample(experts: ExpertSet, x: Tensor, prompt: DuetPrompt, codec: PatchCodec, how: Sampling) -> Iterator[Bytes]:
    """Denoise a batch from noise x, and decode clip by clip: frames [T, H, W, 3] each."""
    latent = finish(run(experts, x, how.sigmas, solver=how.solver, cond=prompt)).x
    for parts in zip(latent.split(1), prompt.inputs.base.split(1), prompt.rough.split(1), strict=True):
        yield decoded(codec, *parts)


@torch.no_grad()
def decoded(codec: PatchCodec, latent: Tensor, base: Tensor, rough: Tensor) -> Bytes:
    """A latent [1, C, F, h, w] over its composite as frames [T, H, W, 3]."""
    return to_frames(torch.cat(list(decode_over(codec, latent, base, rough)), dim=2))


@torch.no_grad()
def recoded(codec: PatchCodec, frames: Bytes) -> Bytes:
    """Frames through the codec and back: the best that any denoiser could do behind it."""
    return to_frames(codec.decode(codec.encode(video_tensor(frames))))


def to_frames(video: Tensor) -> Bytes:
    """[1, 3, T, H, W] in [-1, 1] to bytes [T, H, W, 3]."""
    return ((video[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).numpy()


def score(take: Take, frames: Bytes) -> Score:
    """Compare with the truth."""
    truth = take.truth
    face = np.zeros(truth.mask.shape, bool)
    for t, (x0, y0, x1, y1) in enumerate(face_boxes(truth)):
        face[t, y0:y1, x0:x1] = True
    person = truth.mask > 64
    empty = np.maximum(truth.mask, take.driver.mask) == 0
    return Score(
        psnr=psnr(frames, truth.frames),
        ssim=ssim(frames, truth.frames),
        iou=iou(silhouette(frames, truth.background), silhouette(truth.frames, truth.background)),
        face_psnr=psnr(frames, truth.frames, face),
        background_psnr=psnr(frames, truth.frames, empty),
        person_psnr=psnr(frames, truth.frames, person),
    )


def still(take: Take) -> Bytes:
    """The first baseline: the reference image, held (in replace mode, over the driver's scene it never entered)."""
    return np.repeat(take.character.image[None], take.spec.frames, axis=0)


def answer(arm: str, e: Exam, frames: Bytes) -> Answer:
    """Frames with their score."""
    return Answer(arm=arm, clip=e.clip, truth=e.take.truth.frames, frames=frames, score=score(e.take, frames))


def baselines(e: Exam, codec: PatchCodec) -> Iterator[Answer]:
    """What takes no denoising: the still picture, the carried one, and the truth through the codec."""
    yield answer("still", e, still(e.take))
    yield answer("carried", e, e.rough)
    yield answer("codec", e, recoded(codec, e.take.truth.frames))


def evaluate(
    exams: Iterable[Exam],
    codec: PatchCodec,
    arms: Mapping[str, ExpertSet],
    how: Sampling,
    report: Callable[[str], None],
) -> Iterator[Answer]:
    """Every baseline and arm on every clip; of `exams`, which may be drawn as they are asked for, a batch is held."""
    rest = iter(exams)
    while some := list(islice(rest, how.batch)):
        for e in some:
            yield from baselines(e, codec)
        # One prompt for all arms: what an expert made of the conditions serves it in every set it is in.
        prompt, x = DuetPrompt(join(some), torch.cat([video_tensor(e.rough) for e in some])), start(some)
        for name, experts in arms.items():
            for e, frames in zip(some, sample(experts, x, prompt, codec, how), strict=True):
                yield answer(name, e, frames)
            report(f"clips {some[0].clip + 1} to {some[-1].clip + 1}: {name}")
