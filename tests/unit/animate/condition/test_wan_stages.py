"""Text, image, and text-or-image to video with an autoencoder of known answers: what is given, and how clips chain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor

from pasdedeux.animate.condition.wan import Prompts, WanInputs, known_frames_mask, to_video
from pasdedeux.animate.condition.wan_image import ImageStage, StartStage
from pasdedeux.animate.condition.wan_text import TextStage
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import Ready, SegmentCondition, Settings, Stage, perform
from pasdedeux.denoise import Expert, ExpertSet


class Means:
    """Latents are the mean colours of 8x8 pixels and up to 4 frames: three channels."""

    stride, channels = (4, 8, 8), 3

    def encode(self, video: Tensor) -> Tensor:
        frames = torch.cat((video[:, :, :1].repeat(1, 1, 4, 1, 1), video[:, :, 1:]), dim=2)
        return rearrange(frames, "b c (f t) (h y) (w x) -> b c f h w t y x", t=4, y=8, x=8).mean((-1, -2, -3))

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        for i, frame in enumerate(latent.split(1, dim=2)):
            yield repeat(frame, "b c 1 h w -> b c t (h y) (w x)", t=4 if i else 1, y=8, x=8)


SIZE, FRAMES = (24, 16), 9
PICTURE, END = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
WORDS = Prompts(wanted=torch.ones(1, 3, 5), unwanted=torch.zeros(1, 2, 5))
COMMON: dict[str, Any] = {"vae": Means(), "size": SIZE, "prompts": WORDS}
ALL = list(range(FRAMES))


def both(what: SegmentCondition) -> tuple[WanInputs, WanInputs]:
    assert what.uncond is not None
    return what.cond, what.uncond


def fade(x: Tensor, sigma: Tensor, cond: WanInputs, /) -> Tensor:
    """The velocity towards a fixed clip that fits into no byte."""
    target = torch.linspace(-0.83, 0.79, x.numel()).reshape(x.shape)
    return (x - target) / sigma.view(-1, 1, 1, 1, 1)


class Watched:
    """A stage that notes what it is handed and what it makes of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.frames = stage, stage.frames
        self.handed: list[np.ndarray | None] = []
        self.made: list[SegmentCondition] = []

    def condition(self, index: list[int], handed: np.ndarray | None) -> SegmentCondition:
        self.handed.append(handed)
        self.made.append(self.stage.condition(index, handed))
        return self.made[-1]

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[np.ndarray]:
        return self.stage.decode(latent, what)


def film(stage: Stage, overlap: int, length: int = FRAMES) -> np.ndarray:
    settings = Settings(sigmas=(1.0, 0.5, 0.0), seed=3, length=length, overlap=overlap, solver="euler")
    events = perform(stage, ExpertSet.single(Expert(fade, "one")), settings)
    return np.concatenate([event.frames for event in events if isinstance(event, Ready)])


def test_text_gives_the_words_and_nothing_else() -> None:
    what = TextStage(**COMMON, frames=FRAMES).condition(ALL, None)
    assert what.shape == (1, 3, 3, 2, 3)
    for inputs, text in zip(both(what), (WORDS.wanted, WORDS.unwanted), strict=True):
        assert dict(inputs.prepare) == {"text": text}
        assert inputs.channels is None
        assert inputs.known is None


@pytest.mark.parametrize("overlap", [0, 1])
def test_text_cannot_go_on(overlap: int) -> None:
    with pytest.raises(InputError, match=r"cannot go on from frame [89]: a clip of 12 frames must be one segment"):
        film(TextStage(**COMMON, frames=12), overlap)


def test_a_picture_is_the_first_frame_of_a_grey_clip() -> None:
    features = torch.randn(1, 257, 4)
    what = ImageStage(**COMMON, frames=FRAMES, image=PICTURE, features=features).condition(ALL, None)
    clip = torch.cat((to_video(PICTURE[None]), torch.zeros(1, 3, 8, 16, 24)), dim=2)
    for inputs, text in zip(both(what), (WORDS.wanted, WORDS.unwanted), strict=True):
        assert dict(inputs.prepare) == {"text": text, "image": features}
        assert inputs.channels is not None
        mask, latents = inputs.channels.split((4, 3), dim=1)
        assert mask[:, :, 0].min() == 1
        assert mask[:, :, 1:].max() == 0
        assert torch.equal(latents, Means().encode(clip))
        assert inputs.known is None


def test_a_picture_without_features_prepares_the_words_alone() -> None:
    what = ImageStage(**COMMON, frames=FRAMES, image=PICTURE).condition(ALL, None)
    assert list(what.cond.prepare) == ["text"]


def test_the_last_picture_belongs_to_the_segment_with_the_last_frame() -> None:
    stage = Watched(ImageStage(**COMMON, frames=16, image=PICTURE, last=END))
    assert len(film(stage, overlap=1)) == 16
    first, second = (what.cond.channels for what in stage.made)
    assert torch.equal(first[:, :4], known_frames_mask(FRAMES, 1, 2, 3))
    # Frame 15 is the eighth of a segment that starts with frame 8 and is filled up to nine.
    assert torch.equal(second[:, :4], known_frames_mask(FRAMES, 1, 2, 3, last=7))
    assert second[:, 4:, 2].abs().max() > 0
    assert first[:, 4:, 1:].abs().max() == 0


@pytest.mark.parametrize(("length", "overlap"), [(9, 1), (13, 5)])
def test_a_longer_clip_goes_on_from_what_was_written(length: int, overlap: int) -> None:
    """The bytes of the frames before, not the latents they came from: the next segment fits what the viewer saw."""
    stage = Watched(ImageStage(**COMMON, frames=28, image=PICTURE))
    frames = film(stage, overlap, length)
    assert len(frames) == 28
    assert stage.handed[0] is None
    start = 0
    for handed, what in zip(stage.handed[1:], stage.made[1:], strict=True):
        start += length - overlap
        assert handed is not None
        assert handed.dtype == np.uint8
        assert np.array_equal(handed, frames[start : start + overlap])
        clip = torch.cat((to_video(handed), torch.zeros(1, 3, length - overlap, 16, 24)), dim=2)
        mask = known_frames_mask(length, overlap, 2, 3)
        assert torch.equal(what.cond.channels, torch.cat((mask, Means().encode(clip)), dim=1))


@pytest.mark.parametrize("picture", [PICTURE, None])
def test_a_start_in_the_latent_goes_on_from_what_was_written(picture: np.ndarray | None) -> None:
    stage = Watched(StartStage(**COMMON, frames=29, image=picture))
    frames = film(stage, overlap=5, length=13)
    first, *later = stage.made
    if picture is None:
        assert first.cond.known is None
    else:
        assert torch.equal(first.cond.known, Means().encode(to_video(picture[None])))
    for i, what in enumerate(later):
        assert torch.equal(what.cond.known, Means().encode(to_video(frames[8 * i + 8 : 8 * i + 13])))
        assert what.cond.channels is None


def test_what_is_known_is_in_its_place_when_decoded() -> None:
    stage = StartStage(**COMMON, frames=FRAMES, image=np.full_like(PICTURE, 200))
    frames = film(stage, overlap=1)
    assert np.array_equal(frames[0], np.full_like(PICTURE, 200))
    assert not np.array_equal(frames[1], frames[0])


def test_segments_that_do_not_overlap_have_nothing_to_follow_on() -> None:
    for stage in (ImageStage(**COMMON, frames=12, image=PICTURE), StartStage(**COMMON, frames=12)):
        with pytest.raises(InputError, match=r"Frame 9 cannot follow on nothing"):
            film(stage, overlap=0)


@pytest.mark.parametrize("picture", [PICTURE[:8], PICTURE[..., 0], PICTURE.astype(np.float32)])
def test_a_picture_of_another_kind_is_refused(picture: np.ndarray) -> None:
    for build in (ImageStage, StartStage):
        with pytest.raises(InputError, match=r"a clip of 24x16 needs uint8 \[16, 24, 3\]"):
            build(**COMMON, frames=FRAMES, image=picture)
    with pytest.raises(InputError, match=r"needs uint8"):
        ImageStage(**COMMON, frames=FRAMES, image=PICTURE, last=picture)


def test_one_frame_cannot_be_first_and_last() -> None:
    with pytest.raises(InputError, match=r"needs 2 frames or more, not 1"):
        ImageStage(**COMMON, frames=1, image=PICTURE, last=END)
