"""What cannot be is dropped, and what can is not: faults put into clips of a puppet that moves as people do."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pasdedeux.animate.preprocess.leaps import leaps
from pasdedeux.animate.preprocess.plausible import believe, figure_scale

FPS = 30.0
FRAMES = 60
SHOULDERS = 40.0  # pixels, of the puppet at scale 1
usual = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def clip(figure):
    """Two seconds of arms that wave twice a second and a body that sways."""
    time = np.arange(FRAMES)[:, None] / FPS
    reach = np.zeros(21)
    reach[[3, 4, 6, 7]], reach[[9, 10, 12, 13]], reach[0] = 45, 12, 10
    return figure(reach * np.sin(2 * np.pi * time * np.linspace(1.0, 2.0, 21)))


def changed(clip, **parts):
    arrays = {name: getattr(clip, name).copy() for name in ("body", "hands", "face")}
    for name, change in parts.items():
        change(arrays[name])
    return dataclasses.replace(clip, **arrays)


def confidences(clip):
    return np.concatenate([getattr(clip, name)[..., 2].reshape(len(clip), -1) for name in ("body", "hands", "face")], 1)


def test_a_sound_clip_loses_nothing(clip):
    result = believe(clip, FPS)
    assert (confidences(result.keypoints) == confidences(clip)).all()
    assert list(result.notes()) == []
    np.testing.assert_array_equal(result.keypoints.body, clip.body)


@usual
@given(noise=st.floats(0, 0.03), seed=st.integers(0, 99), fps=st.sampled_from([5.0, 12.0, 24.0, 30.0, 60.0]))
def test_tremble_is_no_fault_at_any_rate(clip, noise, seed, fps):
    shake = np.random.default_rng(seed).normal(0, noise * SHOULDERS, (3, FRAMES, 1, 2))

    def by(part):
        def change(points):
            points[..., :2] += shake[part].reshape(FRAMES, *[1] * (points.ndim - 2), 2)

        return change

    noisy = changed(clip, body=by(0), hands=by(0), face=by(0))
    every = max(round(30 / fps), 1)
    assert (confidences(believe(noisy[::every], fps).keypoints) == 1).all()


@usual
@given(
    joint=st.sampled_from([2, 3, 4, 5, 6, 7, 9, 10, 12, 13]),
    frame=st.integers(4, FRAMES - 6),
    length=st.integers(1, 3),
    angle=st.floats(0, 6.28),
)
def test_a_leap_there_and_back_is_dropped_and_nothing_else(clip, joint, frame, length, angle):
    run = slice(frame, frame + length)

    def leap(body):
        body[run, joint, :2] += 1.6 * SHOULDERS * np.array([np.cos(angle), np.sin(angle)])

    result = believe(changed(clip, body=leap), FPS)
    assert (result.keypoints.body[run, joint, 2] == 0).all()
    others = np.delete(result.keypoints.body[..., 2], np.arange(frame, frame + length), axis=0)
    assert (others == 1).all()


def test_a_point_that_is_moved_for_good_is_no_leap(clip):
    def step(body):
        body[30:, 4, :2] += 10

    assert (believe(changed(clip, body=step), FPS).keypoints.body[..., 2] == 1).all()


@usual
@given(frame=st.integers(3, FRAMES - 12), length=st.integers(1, 8), hands=st.booleans())
def test_arms_taken_for_one_another_are_put_back(clip, frame, length, hands):
    run = slice(frame, frame + length)

    def cross(body):
        body[run][:, [2, 3, 4, 5, 6, 7]] = body[run][:, [5, 6, 7, 2, 3, 4]]

    def swap(points):
        points[run] = points[run][:, ::-1]

    result = believe(changed(clip, body=cross, hands=swap), FPS)
    np.testing.assert_allclose(result.keypoints.body, clip.body)
    np.testing.assert_allclose(result.keypoints.hands, clip.hands)
    assert np.flatnonzero(result.exchanged).tolist() == list(range(frame, frame + length))
    assert list(result.notes()) == [f"Left and right were put back in {length} frame{'s' * (length > 1)}."]


def test_somebody_who_turns_round_is_not_put_back(clip):
    def turn(body):
        middle, angle = body[:, 1:2, 0].copy(), np.pi * np.arange(FRAMES)[:, None] / FRAMES
        body[..., 0] = middle + (body[..., 0] - middle) * np.cos(angle)

    result = believe(changed(clip, body=turn, hands=lambda hands: hands[..., 2].fill(0)), FPS)
    assert not result.exchanged.any()


def test_a_cut_is_no_leap_and_no_exchange(clip):
    def shots(points):
        points[20:23, ..., 0] += 60

    moved = changed(clip, body=shots, hands=shots, face=shots)
    assert (confidences(believe(moved, FPS, cuts=[20, 23]).keypoints) == 1).all()
    assert (believe(moved, FPS).keypoints.body[20:23, 1, 2] == 0).all()


@usual
@given(bone=st.sampled_from([(2, 3, (4,)), (5, 6, (7,)), (3, 4, ()), (9, 10, (19,))]), times=st.floats(2.2, 5))
def test_a_limb_too_long_is_dropped_with_what_hangs_on_it(clip, bone, times):
    inner, outer, below = bone

    def stretch(body):
        away = (times - 1) * (body[20:28, outer, :2] - body[20:28, inner, :2])
        for joint in (outer, *below):
            body[20:28, joint, :2] += away

    result = believe(changed(clip, body=stretch), FPS)
    assert (result.keypoints.body[20:28][:, [outer, *below], 2] == 0).all()
    assert (result.keypoints.body[:20, :, 2] == 1).all()


def test_foreshortened_limbs_and_profiles_stay(clip):
    def sideways(points):
        points[..., 0] = 128 + 0.12 * (points[..., 0] - 128)

    def forward(body):
        away = 0.9 * (body[20:40, 2, :2] - body[20:40, 3, :2])
        body[20:40, 3, :2] += away
        body[20:40, 4, :2] += away

    profile = changed(clip, body=sideways)
    assert (believe(profile, FPS).keypoints.body[..., 2] == 1).all()
    assert (believe(changed(clip, body=forward), 30.0).keypoints.body[22:38, :14, 2] == 1).all()


def test_who_comes_nearer_is_no_fault(clip):
    grow = np.linspace(1, 3, FRAMES)

    def nearer(points):
        points[..., :2] *= grow.reshape(FRAMES, *[1] * (points.ndim - 1))

    near = changed(clip, body=nearer, hands=nearer, face=nearer)
    assert (confidences(believe(near, FPS).keypoints) == 1).all()
    scale = figure_scale(near.body.astype(float), near.face.astype(float), FPS, [slice(0, FRAMES)])
    np.testing.assert_allclose(scale[5:-5], SHOULDERS * grow[5:-5], rtol=0.2)


def test_a_body_collapsed_on_the_head_is_dropped(clip):
    def collapse(body):
        body[20:30, 1:14, :2] = body[20:30, :1, :2] + 0.1 * (body[20:30, 1:14, :2] - body[20:30, :1, :2])

    result = believe(changed(clip, body=collapse), FPS)
    assert (result.keypoints.body[20:30, 1:14, 2] == 0).all()
    assert (result.keypoints.hands[20:30, ..., 2] == 0).all()
    assert "The body could not be believed in 10 frames." in list(result.notes())


@usual
@given(side=st.integers(0, 1), length=st.integers(1, 20))
def test_one_hand_found_twice_is_one_hand(clip, side, length):
    run = slice(10, 10 + length)

    def copy(hands):
        hands[run, side] = hands[run, 1 - side] + np.array([1, -1, 0])

    def follow(body):
        body[run, (7, 4)[side], :2] = clip.hands[run, 1 - side, 0, :2] + [1, -1]

    result = believe(changed(clip, hands=copy, body=follow), FPS)
    assert (result.keypoints.hands[run, side, :, 2] == 0).all()
    assert (result.keypoints.hands[run, 1 - side, :, 2] == 1).all()
    assert (result.keypoints.body[run, (7, 4)[side], 2] == 0).all()


def test_clasped_hands_are_two(clip):
    def meet(body):
        body[:, [3, 6], :2] = body[:, [2, 5], :2] + [0, 30]
        body[:, [4, 7], :2] = body[:, [1, 1], :2] + np.array([[-3, 45], [3, 45]])

    def clasp(hands):
        hands[:, 1, :, :2] += body[:, 4:5, :2] - hands[:, 1, :1, :2]
        hands[:, 0] = hands[:, 1]
        hands[:, 0, :, 0] *= -1
        hands[:, 0, :, 0] += body[:, 7:8, 0] - hands[:, 0, :1, 0]

    body = clip.body.copy()
    meet(body)
    clasped = changed(dataclasses.replace(clip, body=body), hands=clasp)
    np.testing.assert_allclose(clasped.hands[:, 0, 0], body[:, 7], atol=1e-4)
    assert (confidences(believe(clasped, FPS).keypoints) == 1).all()


def test_faces_that_leap_or_swell_are_dropped(clip):
    def leap(face):
        face[20, :, 0] += SHOULDERS

    def swell(face):
        middle = face[30:32].mean(axis=1, keepdims=True)
        face[30:32, :, :2] = middle[..., :2] + 2 * (face[30:32, :, :2] - middle[..., :2])

    result = believe(changed(changed(clip, face=leap), face=swell), FPS)
    assert (result.keypoints.face[[20, 30, 31], :, 2] == 0).all()
    assert (result.keypoints.body[20, [0, 14, 15], 2] == 0).all()
    assert (np.delete(result.keypoints.face[..., 2], [20, 30, 31], axis=0) == 1).all()
    assert result.rejected["face"].sum() == 3


def test_a_hand_of_a_giant_is_dropped_with_the_wrist_it_placed(clip):
    def giant(hands):
        root = hands[20:26, 0, :1, :2]
        hands[20:26, 0, :, :2] = root + 3 * (hands[20:26, 0, :, :2] - root)

    result = believe(changed(clip, hands=giant), FPS)
    assert (result.keypoints.hands[20:26, 0, :, 2] == 0).all()
    assert (result.keypoints.body[20:26, 7, 2] == 0).all()
    assert list(result.notes()) == [
        "The left arm could not be believed in 6 frames.",
        "The left hand could not be believed in 6 frames.",
    ]


def test_slow_clips_allow_what_fast_ones_do_not():
    track = np.ones((9, 3))
    track[4, 0] += 30
    assert np.flatnonzero(leaps(track, np.full(9, 20.0), 30)).tolist() == [4]
    assert not leaps(track, np.full(9, 20.0), 15).any()
    track[4, 0] += 1000
    assert leaps(track, np.full(9, 20.0), 15)[4]


def test_nobody_and_one_frame_pass_through(clip):
    assert (confidences(believe(clip.frame(0), FPS).keypoints) == 1).all()
    nobody = changed(clip, **dict.fromkeys(("body", "hands", "face"), lambda points: points.__setitem__((..., 2), 0)))
    assert (confidences(believe(nobody, FPS).keypoints) == 0).all()
