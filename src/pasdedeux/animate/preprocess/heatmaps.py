"""Where a pose model's answers have their peaks, to a part of a pixel: heatmaps by DARK, and SimCC's two axes.

DARK (Zhang et al., 2020, arXiv 1910.06278): the heatmap is smoothed by a Gaussian like the one it was trained on, so
that its logarithm is nearly a parabola, and one step of Newton's from the largest pixel leads to the peak.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
KERNEL, SIGMA = 11, 2.0
"""Of the smoothing, in pixels of the heatmap."""
LEAST = 1e-10
FARTHEST = 1.0  # pixels from the largest one: a heatmap without a true peak points anywhere


def dark(heatmaps: NDArray[np.floating]) -> Floats:
    """[N, K, h, w] -> float32 [N, K, 3]: x and y in pixels of the heatmap, and the heatmap's largest value."""
    count, points, height, width = heatmaps.shape
    flat = heatmaps.reshape(-1, height, width).astype(np.float32)
    largest = flat.reshape(len(flat), -1).argmax(axis=1)
    y, x = np.divmod(largest, width)
    top = flat[np.arange(len(flat)), y, x]
    even = _smoothing(height) @ flat @ _smoothing(width).T
    step = _step(np.log(np.maximum(even / np.maximum(top, LEAST)[:, None, None], LEAST)), x, y)
    found = np.concatenate([np.stack([x, y], axis=-1) + step, top[:, None]], axis=-1)
    return found.reshape(count, points, 3).astype(np.float32)


def _smoothing(side: int) -> Floats:
    """[side, side]: times a column of pixels it is that column smoothed, with nothing beyond its ends."""
    apart = np.arange(side)[:, None] - np.arange(side)[None, :]
    weights = np.exp(-(apart**2) / (2 * SIGMA**2)) * (np.abs(apart) <= KERNEL // 2)
    return (weights / np.exp(-(np.arange(-(KERNEL // 2), KERNEL // 2 + 1) ** 2) / (2 * SIGMA**2)).sum()).astype(
        np.float32
    )


def _step(logs: Floats, x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.float64]:
    """Newton's step -H^-1 g (the paper's equation 8) at pixel (x, y) of each of logs [M, h, w], as [M, 2].

    It is 0 where the pixel is within two of the edge, or is no peak of the smoothed heatmap.
    """
    height, width = logs.shape[1:]
    within = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    u, v, each = np.where(within, x, 2), np.where(within, y, 2), np.arange(len(logs))

    def at(right: int, down: int) -> NDArray[np.float64]:
        return logs[each, v + down, u + right].astype(np.float64)

    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    hxx, hyy = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4, (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    hxy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = hxx * hyy - hxy**2
    peak = within & (determinant > 0) & (hxx < 0)
    divisor = np.where(peak, -determinant, 1.0)
    step = np.stack([(hyy * gx - hxy * gy) / divisor, (hxx * gy - hxy * gx) / divisor], axis=-1)
    return np.clip(step * peak[:, None], -FARTHEST, FARTHEST)


def simcc(across: NDArray[np.floating], down: NDArray[np.floating], size: tuple[int, int]) -> Floats:
    """SimCC's answers across [N, K, a] and down [N, K, b] an input of `size` (width, height) -> float32 [N, K, 3].

    x and y in pixels of the input, and the lower of both peaks.
    """
    places = [axis.argmax(axis=-1) * (side / axis.shape[-1]) for axis, side in zip((across, down), size, strict=True)]
    sure = np.minimum(across.max(axis=-1), down.max(axis=-1))
    return np.stack([*places, sure], axis=-1).astype(np.float32)
