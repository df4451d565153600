"""What the Wan families share: the denoiser's inputs at a step, what is kept between steps, masks and pixels."""

import gc
from collections.abc import Iterator
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pasdedeux.animate.condition.wan import (
    Prompts,
    WanDenoiser,
    WanInputs,
    conditions,
    decode,
    known_frames_mask,
    latent_shape,
    to_bytes,
    to_video,
    with_start,
)
from pasdedeux.denoise import guided


class Net(nn.Module):
    """A transformer that notes what it is given; what it prepares is the text's sum, its velocity that plus x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.prepared: list[tuple[float, tuple[int, ...]]] = []
        self.kept: list[ref[Tensor]] = []
        self.steps: list[tuple[Tensor, Tensor]] = []

    def token_grid(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        return latents[0], latents[1] // 2, latents[2] // 2

    def prepare(self, *, text: Tensor, grid: tuple[int, ...]) -> Tensor:
        self.prepared.append((text.sum().item(), grid))
        total = text.sum()
        self.kept.append(ref(total))
        return total

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.steps.append((x, t))
        return x[:, :2] + cond


X = torch.randn(1, 2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.7654321])


def inputs(value: float = 1.0, channels: Tensor | None = None, known: Tensor | None = None) -> WanInputs:
    return WanInputs(prepare={"text": torch.full((1, 1, 1), value)}, channels=channels, known=known)


def test_the_timestep_is_a_thousand_times_sigma_and_no_integer() -> None:
    net = Net()
    velocity = WanDenoiser(net)(X, SIGMA, inputs(2.0))
    x, t = net.steps[0]
    assert torch.equal(x, X)
    assert torch.equal(t, 1000 * SIGMA)
    assert torch.equal(velocity, X + 2)


def test_channels_stand_behind_those_of_x() -> None:
    net, channels = Net(), torch.full((1, 5, 3, 4, 6), 7.0)
    WanDenoiser(net)(X, SIGMA, inputs(channels=channels))
    assert torch.equal(net.steps[0][0], torch.cat((X, channels), dim=1))


def test_what_is_known_is_clean_at_every_step() -> None:
    net, known = Net(), torch.full((1, 2, 2, 4, 6), 7.0)
    WanDenoiser(net)(X, SIGMA, inputs(known=known))
    x, t = net.steps[0]
    assert torch.equal(x, torch.cat((known, X[:, :, 2:]), dim=2))
    assert t.tolist() == [[0.0] * 12 + [(1000 * SIGMA).item()] * 6]


def test_a_segment_is_prepared_once_for_each_expert_and_text() -> None:
    nets = Net(), Net()
    segment = conditions((1, 2, 3, 4, 6), Prompts(wanted=torch.ones(1, 1, 1), unwanted=torch.zeros(1, 1, 1)))
    for net in nets:
        denoiser = WanDenoiser(net)
        for _ in range(3):
            guided(denoiser, X, SIGMA, segment.cond, segment.uncond, 4.0)
        assert net.prepared == [(1.0, (3, 4, 6)), (0.0, (3, 4, 6))]


def test_what_was_prepared_goes_with_its_segment() -> None:
    """Keys and values of the text are most of a gigabyte at full size: a long clip must not gather them."""
    net = Net()
    denoiser = WanDenoiser(net)
    for value in range(3):
        denoiser(X, SIGMA, inputs(value))
    gc.collect()
    assert [kept() for kept in net.kept] == [None] * 3


def test_an_expert_forgets_when_told() -> None:
    net, same = Net(), inputs()
    denoiser = WanDenoiser(net)
    denoiser(X, SIGMA, same)
    denoiser.forget()
    denoiser(X, SIGMA, same)
    assert len(net.prepared) == 2


def test_without_an_unwanted_text_there_is_no_second_condition() -> None:
    assert conditions((1, 2, 3, 4, 6), Prompts(wanted=torch.ones(1, 1, 1))).uncond is None


def test_every_grey_survives_the_way_to_the_model_and_back() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    video = to_video(frames)
    assert video.shape == (1, 3, 1, 16, 16)
    assert (video.min(), video.max()) == (-1, 1)
    assert np.array_equal(to_bytes(video), frames)


def test_pixels_beyond_the_ends_do_not_wrap_around() -> None:
    assert to_bytes(torch.tensor([-1.5, 1.5, 0.0]).reshape(1, 3, 1, 1, 1)).ravel().tolist() == [0, 255, 128]


@given(steps=st.integers(0, 6), data=st.data())
def test_mask_channel_t_of_latent_frame_f_is_picture_4f_plus_t_minus_3(steps: int, data: st.DataObject) -> None:
    frames = 1 + 4 * steps
    known = data.draw(st.integers(0, frames))
    last = data.draw(st.none() | st.integers(0, frames - 1))
    mask = known_frames_mask(frames, known, 2, 3, last=last)
    assert mask.shape == (1, 4, 1 + steps, 2, 3)
    for f in range(1 + steps):
        for t in range(4):
            picture = max(4 * f + t - 3, 0)  # the first latent frame holds picture 0 four times
            assert bool((mask[0, t, f] == (picture < known or picture == last)).all())


class Chunks:
    """An autoencoder that decodes to as many frames as it is asked for, one chunk each."""

    stride, channels = (4, 8, 8), 16

    def encode(self, video: Tensor) -> Tensor:
        raise NotImplementedError

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        for frame in latent.split(1, dim=2):
            assert not torch.is_grad_enabled()
            yield frame.new_zeros(1, 3, 1, 8, 8)


def test_decoding_records_no_gradients_and_leaves_the_caller_alone() -> None:
    chunks = []
    for chunk in decode(Chunks(), torch.zeros(1, 16, 3, 1, 1)):
        assert torch.is_grad_enabled()
        chunks.append(chunk)
    assert [chunk.shape for chunk in chunks] == [(1, 8, 8, 3)] * 3


def test_shape_of_latents() -> None:
    assert latent_shape(Chunks(), 81, (832, 480)) == (1, 16, 21, 60, 104)
    for frames, size in ((80, (832, 480)), (81, (830, 480)), (81, (832, 484))):
        with pytest.raises(ValueError, match=f"{frames} frames of {size[0]}x{size[1]} do not fit"):
            latent_shape(Chunks(), frames, size)


def test_known_latents_take_the_place_of_the_first() -> None:
    known = torch.ones(1, 2, 1, 4, 6)
    whole = with_start(X, known)
    assert torch.equal(whole[:, :, :1], known)
    assert torch.equal(whole[:, :, 1:], X[:, :, 1:])
