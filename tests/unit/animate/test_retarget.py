"""Retargeting: identity on oneself, other lengths reached exactly, angles and expression kept."""

import dataclasses

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError, Keypoints, View
from pasdedeux.animate.preprocess.draw import LIMBS
from pasdedeux.animate.preprocess.retarget import nearest_frame, retarget

LONGER = {
    3: 36,
    4: 26,
    6: 36,
    7: 26,
    8: 16,
    11: 16,
    9: 28,
    12: 28,
    10: 30,
    13: 30,
    2: 26,
    5: 26,
    20: 48,
    0: 24,
}
LEGS, ARMS = [9, 10, 12, 13, 18, 19], [3, 4, 6, 7]


def unseen(keypoints: Keypoints, joints: list[int]) -> Keypoints:
    body = keypoints.body.copy()
    body[:, joints, 2] = 0
    return dataclasses.replace(keypoints, body=body)


def close(a: np.ndarray, b: np.ndarray, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(a, b, atol=atol)


def test_oneself_is_left_as_is(figure, swings):
    clip = figure(swings)
    result = retarget(clip, clip.frame(0))
    for part in ("body", "hands", "face"):
        close(getattr(result, part), getattr(clip, part))
    assert result.size == clip.size


def test_a_frame_in_the_middle_serves_as_well(figure, swings):
    clip = figure(swings)
    assert nearest_frame(clip, clip.frame(7)) == 7
    close(retarget(clip, clip.frame(7)).body, clip.body)
    close(retarget(clip, clip.frame(0), reference_frame=0).body, clip.body)


def test_other_lengths_are_reached_exactly(figure, swings):
    clip = figure(swings)
    expected = figure(swings, lengths=LONGER, scale=1.2, head=30, neck=(150, 90), size=(320, 300))
    result = retarget(clip, expected.frame(0))
    shift = result.body[:, 1:2] - expected.body[:, 1:2]
    close(result.body - shift, expected.body, 2e-3)
    close(result.hands - shift[:, None], expected.hands, 2e-3)
    close(result.face - shift, expected.face, 2e-3)
    assert result.size == (320, 300)


def test_the_lower_foot_stays_on_the_ground(figure, swings):
    clip = figure(swings)
    ground = clip.body[:, [10, 13], 1].max(axis=1)
    standing = clip.body.copy()
    standing[..., 1] += (200 - ground)[:, None]
    character = figure(swings, lengths=LONGER, size=(300, 300)).frame(0)
    result = retarget(dataclasses.replace(clip, body=standing), character)
    close(result.body[:, [10, 13], 1].max(axis=1), character.body[0, [10, 13], 1].max())


def test_known_views_say_where_it_stands_and_legs_how_far_it_steps(figure, swings):
    clip = figure(swings, neck=(160, 70))
    walk = clip.body.copy()
    walk[..., 0] += np.linspace(-20, 30, len(clip))[:, None]
    performer = dataclasses.replace(clip, body=walk, view=View(x=128, y=210, unit=100))
    longer = {9: 60, 12: 60, 10: 57, 13: 57}
    character = dataclasses.replace(
        figure(swings, lengths=longer, neck=(190, 90), size=(400, 400)).frame(0), view=View(x=200, y=300, unit=100)
    )
    result = retarget(performer, character)
    hips, theirs = (k.body[:, [8, 11], 0].mean(axis=1) for k in (result, performer))
    close(hips - 200, 1.5 * (theirs - 128), 1e-2)
    ground, their_ground = (k.body[:, [10, 13], 1].max(axis=1) for k in (result, performer))
    close(ground - 300, 1.5 * (their_ground - 210), 1e-2)
    assert result.view == character.view


@pytest.mark.parametrize("view", [None, View(128, 210, 100)])
def test_nodding_does_not_change_how_far_the_head_is_from_the_neck(figure, swings, view):
    clip = dataclasses.replace(figure(swings), view=view)
    bowed = clip.body.copy()
    bowed[:, [0, 14, 15, 16, 17], 1] += 9
    face = clip.face.copy()
    face[..., 1] += 9
    performer = dataclasses.replace(clip, body=bowed, face=face)
    result = retarget(performer, clip.frame(0))
    close(result.body[:, 0] - result.body[:, 1], bowed[:, 0] - bowed[:, 1])


def test_a_drawn_face_on_a_real_neck_does_not_stretch_it(figure, swings):
    """Twice as large a head for the body is another kind of head: it sits where the character's neck holds it."""
    character = figure(swings[:1], head=44)
    result = retarget(figure(swings), character)
    close(np.linalg.norm(result.body[:, 0] - result.body[:, 1], axis=1), 20)


def test_steps_are_as_long_as_the_legs(figure, swings):
    clip = figure(np.zeros((12, 21)))
    walk = clip.body.copy()
    walk[..., 0] += np.linspace(0, 20, 12)[:, None]
    character = figure(np.zeros((1, 21)), lengths={9: 60, 12: 60, 10: 57, 13: 57}, size=(400, 400))
    result = retarget(dataclasses.replace(clip, body=walk), character)
    close(np.ptp(result.body[:, [8, 11], 0].mean(axis=1)), 30, 1e-2)


def test_hands_that_come_and_go_are_the_performers_while_they_are_seen(figure, swings):
    clip = figure(swings)
    body = clip.body.copy()
    body[2:, ARMS, 2] = 0
    character = figure(swings, lengths={3: 36, 6: 36}).frame(0)
    result = retarget(dataclasses.replace(clip, body=body), character)
    expected = figure(swings, lengths={3: 36, 6: 36})
    close((result.body - result.body[:, 1:2])[:2, ARMS, :2], (expected.body - expected.body[:, 1:2])[:2, ARMS, :2], 0.5)
    assert (result.body[2:, ARMS, 2] == 0).all()


def test_a_hand_is_followed_where_its_elbow_leaves_the_picture(figure, swings):
    clip = unseen(figure(swings), [3, 6])
    result = retarget(clip, figure(swings).frame(0))
    close(result.body[:, [4, 7]], clip.body[:, [4, 7]])
    assert (result.body[:, [3, 6], 2] == 0).all()


def test_a_forearm_that_points_at_us_is_not_taken_for_a_short_one(figure, swings):
    character = figure(np.zeros((1, 21)), lengths={4: 3, 7: 3})
    result = retarget(figure(swings), character)
    for elbow, wrist in ((3, 4), (6, 7)):
        forearm = np.linalg.norm((result.body[:, wrist] - result.body[:, elbow])[:, :2], axis=1)
        close(forearm, 0.7 * 30)


def test_feet_are_as_long_as_they_mostly_look(figure, swings):
    """In one frame of twelve they are seen from the side, where the character's are not."""
    clip, body = figure(swings), figure(swings).body.copy()
    for ankle, toe in ((10, 19), (13, 18)):
        body[3, toe, :2] = body[3, ankle, :2] + (40, 0)
    result = retarget(dataclasses.replace(clip, body=body), clip.frame(0))
    close(np.linalg.norm((result.body - clip.body)[[0, 7], 19, :2], axis=1), 0, 0.5)


def test_a_frame_that_stands_as_the_character_does_tells_lengths(figure, swings):
    """All but that frame show arms that look a third longer, as no frame of a picture plane could, but a lens can."""
    clip = figure(swings)
    body = clip.body.copy()
    for shoulder, elbow, wrist in ((2, 3, 4), (5, 6, 7)):
        away = clip.body[:, [elbow, wrist], :2] - clip.body[:, [shoulder], :2]
        body[1:, [elbow, wrist], :2] = body[1:, [shoulder], :2] + 4 / 3 * away[1:]
    result = retarget(dataclasses.replace(clip, body=body), clip.frame(0))
    close(result.body, body)


def test_limb_angles_are_kept(figure, swings):
    clip = figure(swings)
    result = retarget(clip, figure(swings, lengths=LONGER, head=26).frame(0))
    for a, b in LIMBS:
        if (a, b) in ((1, 8), (1, 11), (14, 16), (15, 17), (0, 14), (0, 15)):
            continue
        before, after = (k.body[:, b, :2] - k.body[:, a, :2] for k in (clip, result))
        cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        close(cross / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1), 0, 1e-4)


def test_left_and_right_come_out_alike(figure, swings):
    crooked = figure(swings[:1], lengths={3: 15})
    result = retarget(figure(swings), crooked)
    right, left = (np.linalg.norm(result.body[:, b, :2] - result.body[:, a, :2], axis=1) for a, b in ((2, 3), (5, 6)))
    close(right, left)


def test_legs_out_of_the_picture_stand_still(figure, swings):
    clip = unseen(figure(swings), LEGS)
    swayed = clip.body.copy()
    swayed[:, :, 0] += np.linspace(0, 10, len(clip))[:, None]
    character = figure(swings, lengths=LONGER).frame(0)
    result = retarget(dataclasses.replace(clip, body=swayed), character)
    feet = [10, 13, 18, 19]
    close(result.body[:, feet], np.repeat(character.body[:, feet], len(clip), axis=0), 0.5)
    assert (result.body[:, LEGS, 2] == character.body[:, LEGS, 2]).all()
    close(result.body[:, 1], character.body[:, 1] + (swayed[:, 1] - swayed[:1, 1]) * (48 / 55))


def test_unseen_arms_are_the_characters_own(figure, swings):
    clip = unseen(figure(swings), ARMS)
    character = figure(swings, lengths=LONGER).frame(3)
    result = retarget(clip, character, reference_frame=0)
    for parent, child in ((2, 3), (3, 4), (5, 6), (6, 7)):
        own = character.body[:, child] - character.body[:, parent]
        close((result.body[:, child] - result.body[:, parent])[:, :2], np.repeat(own, len(clip), 0)[:, :2])


def test_one_lost_frame_does_not_move_the_rest(figure, swings):
    clip = figure(swings)
    body = clip.body.copy()
    body[5, 10] = (0, 0, 0)
    result = retarget(dataclasses.replace(clip, body=body), clip.frame(0))
    others = np.arange(len(clip)) != 5
    close(result.body[others], clip.body[others])
    assert result.body[5, 10, 2] == 0


def test_expression_is_carried_relative_to_the_face(figure, swings):
    def opened(face: np.ndarray) -> np.ndarray:
        face = face.copy()
        face[60:68, 1] = 0.25 + 3 * (face[60:68, 1] - 0.25)
        face[36:48, 1] = -0.3 + 0.2 * (face[36:48, 1] + 0.3)
        return face

    rest, act = figure(swings[:1]), figure(swings[:1], shape=opened)
    clip = Keypoints(
        **{name: np.concatenate([getattr(k, name) for k in (rest, act)]) for name in ("body", "hands", "face")},
        size=rest.size,
    )
    result = retarget(clip, figure(swings[:1], head=40))
    for part, times in ((slice(60, 68), 3), (slice(36, 42), 0.2)):
        heights = np.ptp(result.face[:, part, 1], axis=1)
        close(heights[0], 2 * np.ptp(rest.face[0, part, 1]))
        close(heights[1], times * heights[0], 1e-2)


def test_features_have_the_characters_own_shape(figure, swings):
    def toonish(face: np.ndarray) -> np.ndarray:
        face = face.copy()
        for eye in ([*range(36, 42), 68], [*range(42, 48), 69]):
            face[eye] = face[eye].mean(0) + [1.3, 1.9] * (face[eye] - face[eye].mean(0)) + [0, -0.1]
        face[48:68] = face[48:68].mean(0) + 1.5 * (face[48:68] - face[48:68].mean(0))
        return face

    character = figure(swings[3:4], head=40, shape=toonish)
    result = retarget(figure(swings), character)
    expected = figure(swings, head=40, shape=toonish)
    close(result.face - result.body[:, :1], expected.face - expected.body[:, :1], 2e-3)


def test_a_walk_is_kept_inside_the_picture(figure, swings):
    clip = figure(swings)
    body = clip.body.copy()
    body[..., 0] += np.linspace(0, 100, len(clip))[:, None]
    result = retarget(dataclasses.replace(clip, body=body), figure(swings, neck=(200, 70)).frame(0))
    assert result.body[:, 1, 0].min() >= 0
    assert result.body[:, 1, 0].max() <= 256
    close(np.ptp(result.body[:, 1, 0]), 100, 1e-2)


def test_a_face_alone_still_moves_the_head(figure, swings):
    clip = unseen(figure(swings), [1, 2, 5, 8, 11, *ARMS, *LEGS])
    character = figure(swings).frame(0)
    result = retarget(clip, character)
    close(result.body[:, 0, :2], clip.body[:, 0, :2])
    assert (result.body[:, 1] == character.body[:, 1]).all()


def test_nothing_in_common_is_an_error(figure, swings):
    clip = figure(swings)
    nobody = dataclasses.replace(clip.frame(0), body=np.zeros((1, 20, 3), np.float32))
    with pytest.raises(InputError, match="cannot be compared"):
        retarget(clip, nobody)
