"""Smoothing: no lag, steady motion untouched, short gaps bridged, long ones closed."""

import dataclasses

import numpy as np

from pasdedeux.animate.preprocess.smooth import smooth


def moving(figure, frames: int = 40):
    clip = figure(np.zeros((frames, 21)))
    body = clip.body.copy()
    body[..., 0] += np.arange(frames)[:, None]
    return dataclasses.replace(clip, body=body)


def hidden(clip, frames: slice, point: int = 4):
    body = clip.body.copy()
    body[frames, point] = 0
    return dataclasses.replace(clip, body=body)


def test_steady_motion_is_left_alone_to_the_ends(figure):
    clip = moving(figure)
    np.testing.assert_allclose(smooth(clip, 30).body, clip.body, atol=1e-3)


def test_tremble_goes_and_nothing_lags(figure):
    clip = moving(figure)
    noise = np.random.default_rng(0).normal(0, 2, clip.body.shape).astype(np.float32) * [1, 1, 0]
    wave = 20 * np.sin(np.arange(40) / 6)[:, None, None] * np.array([0, 1, 0])
    true = clip.body + wave
    steadied = smooth(dataclasses.replace(clip, body=(true + noise).astype(np.float32)), 30).body
    before, after = (np.diff(body, 2, axis=0).std() for body in (true + noise, steadied))
    assert after < before / 3
    errors = [np.abs(steadied[5:-5, :, 1] - np.roll(true, lag, 0)[5:-5, :, 1]).mean() for lag in (-1, 0, 1)]
    assert errors[1] == min(errors)


def test_a_short_gap_is_bridged(figure):
    clip = moving(figure)
    result = smooth(hidden(clip, slice(10, 19)), 30)
    np.testing.assert_allclose(result.body, clip.body, atol=0.05)


def test_a_long_gap_and_the_ends_stay_unseen(figure):
    clip = moving(figure)
    assert (smooth(hidden(clip, slice(10, 20)), 30).body[10:20, 4, 2] == 0).all()
    assert (smooth(hidden(clip, slice(0, 3)), 30).body[:3, 4, 2] == 0).all()
    result = smooth(hidden(clip, slice(10, 20)), 30).body
    np.testing.assert_allclose(result[:10], clip.body[:10], atol=1e-3)


def test_one_frame_and_nobody_pass_through(figure):
    clip = moving(figure, 1)
    assert (smooth(clip, 30).body == clip.body).all()
    nobody = dataclasses.replace(clip, body=np.zeros_like(clip.body))
    assert (smooth(nobody, 30).body == 0).all()
