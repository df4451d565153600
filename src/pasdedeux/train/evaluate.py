"""Judge a pair on held-out clips, beside what it has to beat.

Every clip's characters, choreography and place are new, and the performer is another character than the one that is
animated: the performer's joints are brought to the character's proportions by the same retargeting that users get
(or, to tell its error from the denoisers', the character's own exact joints are given).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pasdedeux.animate.condition.duet import DuetPrompt, composite, draw_planes, segment_inputs
from pasdedeux.animate.perform import noise
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.denoise import ExpertSet, finish, run
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetInputs
from pasdedeux.train.clips import HELD_OUT, ClipSpec, Take, face_boxes, film, keypoints
from pasdedeux.train.metrics import iou, psnr, silhouette, ssim

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """A held-out clip and its conditions as model inputs."""

    take: Take
    inputs: DuetInputs
    rough: Bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One clip's figures: dB, dB, ratio, ratio; nan where they do not apply."""

    psnr: float
    ssim: float
    iou: float
    face_psnr: float
    background_psnr: float
    person_psnr: float


def exam(index: int, codec: PatchCodec, mode: str, exact: bool, dtype: torch.dtype) -> Exam:
    """Held-out clip number `index` in `mode`; `exact` gives the character's true joints instead of retargeted ones."""
    take = film(ClipSpec.from_seed(HELD_OUT + index, mode=mode))
    points = keypoints(take.truth)
    if not exact:
        points = retarget(keypoints(take.driver), take.character.keypoints)
    planes = draw_planes(take.character, points, take.scene)
    with torch.no_grad():
        return Exam(take=take, inputs=segment_inputs(planes, codec, None, dtype), rough=composite(planes))


def join(exams: list[Exam]) -> DuetInputs:
    """Inputs of several clips as one batch."""
    parts = {name: torch.cat([getattr(e.inputs, name) for e in exams]) for name in DuetInputs.__slots__}
    return DuetInputs(**parts)


def sample(exams: list[Exam], experts: ExpertSet, codec: PatchCodec, sigmas: tuple[float, ...], solver: str) -> list[Bytes]:
    """Sample every clip from its own seeded noise; frames [T, H, W, 3] each."""
    shape = tuple(exams[0].inputs.base.shape)
    x = torch.cat([noise(shape, e.take.spec.choreography, 0) for e in exams])
    latent = finish(run(experts, x, sigmas, solver=solver, cond=DuetPrompt(join(exams)))).x
    with torch.no_grad():
        return [to_frames(codec.decode(latent[i : i + 1])) for i in range(len(exams))]


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


Arm = tuple[str, ExpertSet, tuple[float, ...]]


def evaluate(
    exams: list[Exam], codec: PatchCodec, arms: list[Arm], solver: str, batch: int, report: Callable[[str], None]
) -> Iterator[tuple[str, int, Score, Bytes]]:
    """Every baseline and arm on every clip: (arm, clip, score, frames)."""
    for i, e in enumerate(exams):
        yield "still", i, score(e.take, still(e.take)), still(e.take)
        yield "carried", i, score(e.take, e.rough), e.rough
        with torch.no_grad():
            coded = to_frames(codec.decode(codec.encode(torch.from_numpy(e.take.truth.frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)))
        yield "codec", i, score(e.take, coded), coded
    for name, experts, sigmas in arms:
        for first in range(0, len(exams), batch):
            some = exams[first : first + batch]
            for k, frames in enumerate(sample(some, experts, codec, sigmas, solver)):
                yield name, first + k, score(some[k].take, frames), frames
            report(f"{name}: {first + len(some)}/{len(exams)} clips")


def summary(scores: list[Score]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and count of every figure."""
    out = {}
    for name in Score.__slots__:
        values = np.array([getattr(s, name) for s in scores], dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            out[name] = {"mean": float(values.mean()), "std": float(values.std()), "n": int(values.size)}
    return out
