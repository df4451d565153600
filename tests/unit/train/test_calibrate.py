"""The best handoff, against trying them all."""

from itertools import combinations

import numpy as np
import pytest

from pasdedeux.train.calibrate import best_owners, bounds_of, calibrate, crossings, loss_under

EDGES = tuple(k / 8 for k in range(9))


@pytest.mark.parametrize("experts", [1, 2, 3, 5])
def test_the_best_owners_are_the_best_of_all(experts: int) -> None:
    rng = np.random.default_rng(experts)
    for _ in range(20):
        losses = rng.normal(size=(experts, 8))
        found = best_owners(losses)
        bounds = [tuple(EDGES[b] for b in reversed(cuts)) for cuts in combinations(range(1, 8), experts - 1)]
        least = min(loss_under(losses, EDGES, each) for each in bounds)
        assert loss_under(losses, EDGES, bounds_of(found, EDGES)) == pytest.approx(least)
        assert np.mean([losses[owner, b] for b, owner in enumerate(found)]) == pytest.approx(least)


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bins are too few for 3"):
        best_owners(np.zeros((3, 2)))


def test_curves_cross_where_they_do() -> None:
    middles = (np.arange(8) + 0.5) / 8
    high, low = 1 - middles, middles - 0.3
    assert crossings(high, low, EDGES) == pytest.approx((0.65,))
    assert crossings(high, high - 1, EDGES) == ()


def test_a_handoff_is_found_with_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    middles = (np.arange(8) + 0.5) / 8
    # The first expert is better above 0.5, the second below.
    mean = np.stack([0.3 * (0.5 - middles), np.zeros(8)])[:, None] + 1
    sure, unsure = (calibrate(mean + noise * rng.normal(size=(2, 40, 8)), EDGES) for noise in (0.001, 0.3))
    assert sure.bounds == (0.5,)
    assert sure.interval == ((0.5, 0.5),)
    assert sure.crossings[0][0] == pytest.approx(0.5, abs=0.02)
    assert sure.loss < min(sure.alone)
    low, high = unsure.interval[0]
    assert low < high
