"""The shortcuts of Wan 2.2's autoencoder by hand: what becomes one is averaged, what one becomes is repeated.

What it has in common with Wan 2.1's is tested in `test_vae`.
"""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.models.vae22 import Level, VAE22Config, average, repeat

LEVELS = st.builds(Level, st.just(4), st.sampled_from([4, 8]), st.integers(1, 2), st.integers(1, 2))


@given(level=LEVELS, frames=st.integers(1, 2), seed=st.integers(0, 99))
def test_what_is_repeated_and_averaged_again_is_the_same(level: Level, frames: int, seed: int):
    """Where channels become more, or stay, every value is repeated whole times."""
    x = torch.rand((1, 4, frames, 3, 2), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    back = Level(level.dim_out, 4, level.time, level.space)
    assert torch.allclose(average(repeat(x, level), back), x, atol=1e-6)


def test_the_average_by_hand():
    x = torch.arange(2 * 2 * 2 * 2.0).view(1, 2, 2, 2, 2)  # two channels of two frames of 2x2
    assert average(x, Level(2, 2, 2, 2)).flatten().tolist() == [3.5, 11.5]
    assert average(x, Level(2, 1, 2, 2)).flatten().tolist() == [7.5]
    assert average(x, Level(2, 4, 2, 2)).flatten().tolist() == [1.5, 5.5, 9.5, 13.5]  # a frame to each channel
    assert average(x[:, :, 1:], Level(2, 2, 2, 2)).flatten().tolist() == [2.75, 6.75]  # beside a frame of zeros


def test_the_repetition_by_hand():
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    assert repeat(x, Level(2, 2, 1, 2)).flatten().tolist() == [1] * 4 + [2] * 4
    assert repeat(x, Level(2, 1, 2, 1)).flatten().tolist() == [1, 2]  # a channel to each frame
    assert repeat(x, Level(2, 1, 1, 2)).flatten().tolist() == [1, 1, 2, 2]  # a channel to each row


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dim": 6, "multipliers": (1, 2, 4, 5)}, "dim_in=24, dim_out=30, time=1, space=1"),
        ({"decoder_dim": 6, "multipliers": (1, 2, 4, 12)}, "has no shortcut"),
    ],
)
def test_levels_without_a_shortcut(wrong: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        VAE22Config(**wrong)
