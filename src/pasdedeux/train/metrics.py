"""How near a clip is to the truth: PSNR, SSIM, the silhouette's overlap, and PSNR inside a region.

Frames are uint8 [T, H, W, 3]; regions are boolean [T, H, W].
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Region = NDArray[np.bool_]
SILHOUETTE_STEP = 24
"""A pixel belongs to the silhouette when one of its colours is this far (of 255) from the empty place."""


def psnr(a: Bytes, b: Bytes, region: Region | None = None) -> float:
    """Peak signal-to-noise ratio in dB over a clip, or over a region of it; nan where the region is empty."""
    square = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    values = square if region is None else square[region]
    if not values.size:
        return float("nan")
    return float(10 * np.log10(255**2 / max(float(values.mean()), 1e-6)))


def ssim(a: Bytes, b: Bytes) -> float:
    """Mean structural similarity of the frames (Wang et al. 2004, Gaussian window), by scikit-image."""
    from skimage.metrics import structural_similarity

    options = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(np.mean([structural_similarity(x, y, data_range=255, **options) for x, y in zip(a, b, strict=True)]))


def silhouette(frames: Bytes, place: Bytes) -> Region:
    """Where frames differ from the empty place [H, W, 3] or [T, H, W, 3], after a 3x3 opening removes specks.

    It is read off the picture in the same way for a result and for the truth; a shadow counts in both.
    """
    gap = np.abs(frames.astype(np.int16) - place.astype(np.int16)).max(-1) > SILHOUETTE_STEP
    kernel = np.ones((3, 3), np.uint8)
    return np.stack([cv2.morphologyEx(g.astype(np.uint8), cv2.MORPH_OPEN, kernel) for g in gap]).astype(bool)


def iou(a: Region, b: Region) -> float:
    """Intersection over union of two regions over a whole clip; 1 when both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0
