"""What a set of experts makes of a few held-out clips while it is trained, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pasdedeux.animate.condition.duet import DuetPrompt, denoiser, video_tensor
from pasdedeux.animate.images import save_png
from pasdedeux.denoise import Expert, ExpertSet, Handoff
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer
from pasdedeux.train.evaluate import Exam, Sampling, exam, join, sample, start
from pasdedeux.train.pupil import Pupil

Bytes = NDArray[np.uint8]
CLIPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Previews:
    """Clips that are sampled again and again, from the same noise, through all experts of a set."""

    exams: tuple[Exam, ...]
    model: DuetConfig
    codec: PatchCodec
    handoff: Handoff
    how: Sampling
    dtype: torch.dtype

    def picture(self, pupils: Sequence[Pupil]) -> Bytes:
        """[H, W, 3]: first, middle and last frame of each clip; rows are the truth, the composite, and the experts."""
        experts = tuple(Expert(denoiser(self._model(pupil)), pupil.name) for pupil in pupils)
        exams = list(self.exams)
        prompt = DuetPrompt(join(exams), torch.cat([video_tensor(e.rough) for e in exams]))
        made = list(sample(ExpertSet(experts, self.handoff), start(exams), prompt, self.codec, self.how))
        rows = ([e.take.truth.frames for e in exams], [e.rough for e in exams], made)
        return np.concatenate([np.concatenate([moments(clip) for clip in row], axis=1) for row in rows])

    def _model(self, pupil: Pupil) -> DuetTransformer:
        """A copy with the averaged weights: the one in training is left alone."""
        model = DuetTransformer(self.model)
        model.load_state_dict(pupil.weights())
        return model.to(dtype=self.dtype)


def moments(clip: Bytes) -> Bytes:
    """First, middle and last frame of [T, H, W, 3] beside each other."""
    return np.concatenate([clip[t] for t in (0, len(clip) // 2, len(clip) - 1)], axis=1)


def previews(
    model: DuetConfig, codec: PatchCodec, handoff: Handoff, how: Sampling, dtype: torch.dtype, *, size: int
) -> Previews:
    """Previews of the first held-out clips, one in each mode, with the character's exact joints."""
    modes = ("animate", "replace")
    exams = tuple(exam(i, codec, modes[i % 2], True, dtype, frames=9, size=size) for i in range(CLIPS))
    return Previews(exams=exams, model=model, codec=codec, handoff=handoff, how=how, dtype=dtype)


def write_preview(folder: Path, steps: int, picture: Bytes) -> Path:
    """A picture as `folder`/previews/STEPS.png."""
    path = folder / "previews" / f"{steps:07d}.png"
    path.parent.mkdir(exist_ok=True)
    save_png(path, picture, {})
    return path
