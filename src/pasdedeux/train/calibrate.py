"""The best handoff, read off held-out losses: which expert is the better one at which noise level."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Where a set hands over best, by mean loss over the sampler's density.

    `bounds` and their losses are of the grid of bin edges. `interval` holds, for each bound, the range that 95 % of
    resampled sets of clips give; `crossings` where neighbours' mean curves cross, from noise to clean, each between
    the middles of bins.
    """

    bounds: tuple[float, ...]
    loss: float
    interval: tuple[tuple[float, float], ...]
    crossings: tuple[tuple[float, ...], ...]
    alone: tuple[float, ...]


def best_owners(losses: Losses) -> tuple[int, ...]:
    """The owner of each bin that makes the mean of losses [experts, bins] smallest; bins are cleanest first.

    Experts, noisiest first, each own at least one bin and bands do not interleave. By dynamic programming (Bellman
    1957) from noise to clean. Raises ValueError where there are fewer bins than experts.
    """
    count, bins = losses.shape
    if bins < count:
        raise ValueError(f"{bins} bins are too few for {count} experts.")
    best = np.full((count, bins), np.inf)
    took_over = np.zeros((count, bins), dtype=bool)
    noisy_first = losses[:, ::-1]
    best[0] = noisy_first[0].cumsum()
    for k in range(1, count):
        for b in range(k, bins):
            stay, begin = best[k, b - 1], best[k - 1, b - 1]
            took_over[k, b] = begin <= stay
            best[k, b] = min(stay, begin) + noisy_first[k, b]
    owners, k = [0] * bins, count - 1
    for b in range(bins - 1, -1, -1):
        owners[b] = k
        k -= int(took_over[k, b])
    return tuple(owners[::-1])


def bounds_of(owners: Sequence[int], edges: Sequence[float]) -> tuple[float, ...]:
    """The sigmas, noisiest first, at which bins' owners (cleanest first) change."""
    return tuple(edges[b] for b in range(len(owners) - 1, 0, -1) if owners[b] != owners[b - 1])


def loss_under(losses: Losses, edges: Sequence[float], bounds: Sequence[float]) -> float:
    """Mean loss of a set [experts, bins] that hands over at `bounds`; a bin belongs to the owner of its middle."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return float(np.mean([losses[sum(m < bound for bound in bounds), b] for b, m in enumerate(middles)]))


def crossings(first: Losses, second: Losses, edges: Sequence[float]) -> tuple[float, ...]:
    """Where two mean curves [bins] change order, from noise to clean, interpolated between middles of bins."""
    middles = np.array([(low + high) / 2 for low, high in pairwise(edges)])
    gap = first - second
    at = [b for b in range(len(gap) - 1) if gap[b] * gap[b + 1] < 0]
    found = [middles[b] + (middles[b + 1] - middles[b]) * gap[b] / (gap[b] - gap[b + 1]) for b in at]
    return tuple(float(sigma) for sigma in reversed(found))


def calibrate(losses: Losses, edges: Sequence[float], *, resamples: int = 400, seed: int = 0) -> Calibration:
    """The best handoff of losses [experts, clips, bins], and how sure it is (bootstrap over clips, Efron 1979)."""
    mean = losses.mean(1)
    owners = best_owners(mean)
    rng = np.random.default_rng(seed)
    clips = losses.shape[1]
    again = [bounds_of(best_owners(losses[:, rng.integers(0, clips, clips)].mean(1)), edges) for _ in range(resamples)]
    low, high = np.quantile(np.array(again).reshape(resamples, -1), [0.025, 0.975], axis=0)
    return Calibration(
        bounds=bounds_of(owners, edges),
        loss=float(np.mean([mean[owner, b] for b, owner in enumerate(owners)])),
        interval=tuple((float(a), float(b)) for a, b in zip(low, high, strict=True)),
        crossings=tuple(crossings(mean[k], mean[k + 1], edges) for k in range(len(mean) - 1)),
        alone=tuple(float(row.mean()) for row in mean),
    )
