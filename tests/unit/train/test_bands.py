"""Bands hold exactly the noise levels of their expert, in the sampler's density."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.denoise import Handoff, shift_sigma
from pasdedeux.train.bands import Band, bands


@settings(max_examples=40, deadline=None)
@given(
    bounds=st.lists(st.floats(0.02, 0.98), max_size=4, unique=True),
    shift=st.sampled_from([1.0, 3.0, 5.0, 12.0]),
    seed=st.integers(0, 1000),
)
def test_every_draw_belongs_to_its_expert(bounds: list[float], shift: float, seed: int) -> None:
    handoff = Handoff(bounds=tuple(sorted(bounds, reverse=True)))
    for k, band in enumerate(bands(handoff, shift)):
        sigma = band.draw(2000, torch.Generator().manual_seed(seed))
        assert {handoff.owner(float(s)) for s in sigma} == {k}
        assert (sigma > 0).all()
        assert (sigma <= 1).all()


def test_masses_add_up_and_match_the_sampler() -> None:
    parts = bands(Handoff(bounds=(0.9, 0.5)), 5.0)
    assert sum(b.mass for b in parts) == pytest.approx(1)
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    high = (shift_sigma(u, 5.0) >= 0.9).double().mean()
    assert parts[0].mass == pytest.approx(float(high), abs=4e-3)


def test_density_inside_the_band_is_the_samplers_and_has_no_lump_at_the_edge() -> None:
    band = Band(low=0.0, high=0.75, shift=3.0)
    drawn = band.draw(100_000, torch.Generator().manual_seed(2)).double()
    u = torch.rand(400_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    truth = shift_sigma(u, 3.0)
    truth = truth[truth < 0.75]
    marks = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(drawn.quantile(marks), truth.quantile(marks), atol=5e-3, rtol=0)
    assert drawn.unique().numel() > 90_000
