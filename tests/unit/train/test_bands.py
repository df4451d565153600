"""Bands hold exactly the noise levels of their expert, in the sampler's density."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from pasdedeux.denoise import Handoff, shift_sigma
from pasdedeux.train.bands import Band, Scattered, bands, described, equal_bounds, shared_out, shares, whole
from pasdedeux.train.drawn import BINS, Drawn

MILLION = 1_000_000


@settings(max_examples=40, deadline=None)
@given(
    # Apart, so that float32 has levels between them: a band that holds none draws the next expert's.
    bounds=st.lists(st.floats(0.02, 0.98), max_size=4, unique_by=lambda bound: round(bound, 5)),
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


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("bounds", [(0.875,), (0.9,), 1, 2, 3, 4, 5])
def test_a_million_draws_stay_in_their_bands_in_the_samplers_density(
    shift: float, bounds: tuple[float, ...] | int
) -> None:
    handoff = Handoff(bounds if isinstance(bounds, tuple) else equal_bounds(bounds, shift))
    experts = bands(handoff, shift)
    assert len(experts) == handoff.experts
    assert sum(band.mass for band in experts) == pytest.approx(1)
    for k, band in enumerate(experts):
        low, high = handoff.band(k)
        count = round(MILLION * band.mass)
        # In float64, so that an edge that float32 cannot hold is not rounded to either side.
        sigma = band.draw(count, torch.Generator().manual_seed(17 * k + 1)).double().numpy()
        assert sigma.min() >= low
        assert sigma.max() < high or (k == 0 and sigma.max() <= 1)
        assert {handoff.owner(float(s)) for s in (sigma.min(), sigma.max())} == {k}
        # Undoing the shift must give a uniform density between the band's ends (Kolmogorov and Smirnov).
        u = sigma / (shift - (shift - 1) * sigma)
        ends = [edge / (shift - (shift - 1) * edge) for edge in (low, high)]
        assert kstest(u, "uniform", (ends[0], ends[1] - ends[0])).pvalue > 0.001
        assert max(np.sum(sigma == sigma.max()), np.sum(sigma == sigma.min())) < 20


@pytest.mark.parametrize("bound", [0.875, 0.9, 0.7, 0.1, 1 / 3])
def test_edges_that_float32_cannot_hold_stay_with_their_expert(bound: float) -> None:
    handoff = Handoff((bound,))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for k, band in enumerate(bands(handoff, 3.0)):
        assert {handoff.owner(float(sigma)) for sigma in band.at(ends)} == {k}
        assert band.holds(band.at(ends)).all()


def test_equal_bounds_give_equal_shares() -> None:
    for experts in range(1, 6):
        masses = [band.mass for band in bands(Handoff(equal_bounds(experts, 12.0)), 12.0)]
        assert masses == pytest.approx([1 / experts] * experts)


def test_scattered_levels_are_those_of_their_parts_in_the_samplers_density() -> None:
    cells = bands(Handoff(equal_bounds(8, 5.0)), 5.0)
    own, other = Scattered(parts=cells[::3]), Scattered(parts=tuple(c for i, c in enumerate(cells) if i % 3))
    assert own.mass + other.mass == pytest.approx(1)
    sigma = own.draw(300_000, torch.Generator().manual_seed(5))
    assert own.holds(sigma).all()
    assert not other.holds(sigma).any()
    counts = torch.stack([part.holds(sigma).sum() for part in own.parts])
    expected = len(sigma) / len(own.parts)
    # Chi-square of three cells, two degrees of freedom: 13.8 is exceeded once in a thousand times.
    assert float(((counts - expected).square() / expected).sum()) < 13.8


def test_steps_are_shared_out_by_density_or_equally() -> None:
    pair = bands(Handoff((0.9,)), 12.0)
    assert shares(pair, "equal") == (0.5, 0.5)
    assert shares(pair, "density") == pytest.approx((0.5714, 0.4286), abs=1e-4)
    assert shared_out(3000, shares(pair, "density")) == (1714, 1286)
    assert shared_out(10, (0.34, 0.33, 0.33)) == (4, 3, 3)
    assert shared_out(3, (0.98, 0.01, 0.01)) == (1, 1, 1)
    with pytest.raises(ValueError, match="2 steps cannot"):
        shared_out(2, (0.5, 0.3, 0.2))
    with pytest.raises(ValueError, match="equal or density"):
        shares(pair, "luck")


def test_a_histogram_shows_the_band() -> None:
    band = Band(low=0.9, high=1.0, shift=12.0)
    drawn = Drawn(12.0)
    for seed in range(3):
        drawn.add(band.draw(1000, torch.Generator().manual_seed(seed)))
    inside = drawn.counts.nonzero().flatten()
    edges = drawn.edges()
    assert edges[int(inside.min()) + 1] > 0.9 >= edges[int(inside.min())]
    assert int(inside.max()) == BINS - 1
    assert int(drawn.counts.sum()) == 3000
    assert drawn.low >= 0.9
    again = Drawn(1.0)
    again.restore(drawn.state())
    assert again.line() == drawn.line()
    assert drawn.line().startswith("3000 draws from sigma 1.0000 to 0.90")
    assert drawn.line().count(" ") > 15


def test_levels_are_told_in_both_words() -> None:
    assert described(Band(low=0.9, high=1.0, shift=5.0)).split() == ["0.9000", "to", "1.0000", "-inf", "to", "-4.39"]
    assert described(whole(5.0)).split() == ["0.0000", "to", "1.0000", "-inf", "to", "inf"]
