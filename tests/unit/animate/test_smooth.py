"""Smoothing: no lag, motion followed, rest made steady, short gaps bridged, long ones closed, cuts kept."""

import dataclasses

import numpy as np
import pytest

from pasdedeux.animate.preprocess.smooth import shots, smooth

FPS = 30.0


def moving(figure, frames: int = 40):
    clip = figure(np.zeros((frames, 21)))
    body = clip.body.copy()
    body[..., 0] += np.arange(frames)[:, None]
    return dataclasses.replace(clip, body=body)


def hidden(clip, frames: slice, point: int = 4):
    body = clip.body.copy()
    body[frames, point] = 0
    return dataclasses.replace(clip, body=body)


def shaken(points, size: float, seed: int = 0):
    return (points + np.random.default_rng(seed).normal(0, size, points.shape) * [1, 1, 0]).astype(np.float32)


def tremble(points) -> float:
    return float(np.linalg.norm(np.diff(points[..., :2], 2, axis=0), axis=-1).mean())


def lag(moved, true) -> float:
    """By how many frames `moved` is behind, to a tenth, by the least difference; both [T, N]."""
    at, inner = np.arange(len(true)), slice(6, -6)
    shifts = np.arange(-2, 2.01, 0.1)
    delayed = [np.stack([np.interp(at - shift, at, track) for track in true.T], 1) for shift in shifts]
    return float(shifts[np.argmin([np.square(moved[inner] - one[inner]).mean() for one in delayed])])


def test_steady_motion_is_left_alone_to_the_ends(figure):
    clip = moving(figure)
    np.testing.assert_allclose(smooth(clip, FPS).body, clip.body, atol=1e-3)


def test_rest_is_made_steady(figure):
    clip = figure(np.zeros((60, 21)))
    noisy = dataclasses.replace(
        clip, body=shaken(clip.body, 1), hands=shaken(clip.hands, 1, 1), face=shaken(clip.face, 0.5, 2)
    )
    steady = smooth(noisy, FPS)
    for part, times in (("body", 12), ("hands", 6), ("face", 2.5)):
        assert tremble(getattr(steady, part)) < tremble(getattr(noisy, part)) / times
        assert np.abs(getattr(steady, part) - getattr(clip, part)).mean() < 0.5


@pytest.mark.parametrize("per_second", [0.5, 1, 2, 3])
def test_motion_is_followed_without_lag(figure, per_second):
    clip = figure(np.zeros((60, 21)))
    wave = 25 * np.sin(2 * np.pi * per_second * np.arange(60) / FPS)[:, None, None] * np.array([0, 1, 0])
    true = clip.body + wave
    steady = smooth(dataclasses.replace(clip, body=shaken(true, 0.6)), FPS).body
    assert abs(lag(steady[..., 1], true[..., 1])) <= 0.11
    followed = np.ptp(steady[10:-10, 4, 1]) / np.ptp(true[10:-10, 4, 1])
    assert followed > 0.9
    assert tremble(steady - true) < tremble(shaken(true, 0.6) - true) / 1.5


def test_a_hand_that_stops_does_not_swing_on(figure):
    clip = figure(np.zeros((60, 21)))
    path = np.clip(np.arange(60) - 20, 0, 10) * 6.0
    true = clip.body + path[:, None, None] * np.array([1, 0, 0])
    steady = smooth(dataclasses.replace(clip, body=true.astype(np.float32)), FPS).body
    assert np.abs(steady - true)[..., 0].max() < 5
    assert steady[..., 0].max() - true[..., 0].max() < 1.5


def test_cuts_are_kept(figure):
    clip = moving(figure)
    jumped = {name: getattr(clip, name).copy() for name in ("body", "hands", "face")}
    for points in jumped.values():
        points[20:, ..., 0] += 50
    before = dataclasses.replace(clip, **jumped)
    np.testing.assert_allclose(smooth(before, FPS, cuts=[20]).body, before.body, atol=1e-3)
    assert np.abs(smooth(before, FPS).body - before.body).max() > 5
    gap = hidden(before, slice(18, 22))
    assert (smooth(gap, FPS, cuts=[20]).body[18:22, 4, 2] == 0).all()
    assert (smooth(gap, FPS).body[18:22, 4, 2] > 0).all()


def test_shots_are_the_stretches_between_cuts():
    assert shots(10, []) == [slice(0, 10)]
    assert shots(10, [4, 4, 7]) == [slice(0, 4), slice(4, 7), slice(7, 10)]
    assert shots(10, [0, 10, 12]) == [slice(0, 10)]


def test_a_hand_stays_on_its_wrist(figure):
    clip = figure(np.zeros((60, 21)))
    wave = 25 * np.sin(np.arange(60) / 4)[:, None] * np.array([1, 0, 0])
    body, hands = clip.body.copy(), clip.hands.copy()
    shake = np.random.default_rng(0).normal(0, 1, (60, 3)) * [1, 1, 0]
    body[:, 7] += wave + shake
    hands[:, 0] += (wave + shake)[:, None]
    steady = smooth(dataclasses.replace(clip, body=body, hands=hands), FPS)
    np.testing.assert_allclose(steady.hands[:, 0, 0], steady.body[:, 7], atol=1e-3)
    shape = steady.hands[:, 0] - steady.hands[:, 0, :1]
    np.testing.assert_allclose(shape, clip.hands[:, 0] - clip.hands[:, 0, :1], atol=1e-3)


def test_a_short_gap_is_bridged(figure):
    clip = moving(figure)
    result = smooth(hidden(clip, slice(10, 19)), FPS)
    np.testing.assert_allclose(result.body, clip.body, atol=0.05)


def test_a_long_gap_and_the_ends_stay_unseen(figure):
    clip = moving(figure)
    assert (smooth(hidden(clip, slice(10, 20)), FPS).body[10:20, 4, 2] == 0).all()
    assert (smooth(hidden(clip, slice(0, 3)), FPS).body[:3, 4, 2] == 0).all()
    result = smooth(hidden(clip, slice(10, 20)), FPS).body
    np.testing.assert_allclose(result[:10], clip.body[:10], atol=1e-3)


def test_one_frame_and_nobody_pass_through(figure):
    clip = moving(figure, 1)
    assert (smooth(clip, FPS).body == clip.body).all()
    nobody = dataclasses.replace(clip, body=np.zeros_like(clip.body))
    assert (smooth(nobody, FPS).body == 0).all()
