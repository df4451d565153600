"""Metrics on pictures whose answers are known."""

import math

import numpy as np
import pytest

from pasdedeux.train.metrics import iou, psnr, silhouette, ssim


def test_psnr_of_a_known_error() -> None:
    a = np.full((2, 16, 16, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * math.log10(255 / 10))
    region = np.zeros((2, 16, 16), bool)
    region[0, :4] = True
    b = a.copy()
    b[0, :4] += 5
    assert psnr(a, b, region) == pytest.approx(20 * math.log10(51))
    assert psnr(a, b, ~region) > 100
    assert math.isnan(psnr(a, b, np.zeros_like(region)))


def test_ssim_falls_with_noise() -> None:
    rng = np.random.default_rng(0)
    a = np.repeat(np.repeat(rng.integers(0, 255, (1, 8, 8, 3)), 4, 1), 4, 2).astype(np.uint8)
    noisy = np.clip(a + rng.normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert 0 < ssim(a, noisy) < 0.9


def test_silhouette_and_overlap() -> None:
    place = np.full((32, 32, 3), 50, np.uint8)
    frames = np.repeat(place[None], 2, 0).copy()
    frames[:, 8:16, 8:16] = 200
    frames[0, 30, 30] = 255
    seen = silhouette(frames, place)
    assert seen.sum() == 128
    moved = np.roll(seen, 4, axis=2)
    assert iou(seen, moved) == pytest.approx(4 / 12)
    assert iou(seen[:, :2], seen[:, :2]) == 1
