from dataclasses import replace

import numpy as np
import pytest

from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints, Performance
from pasdedeux.animate.preprocess.placement import anchors, in_place, tallness
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.engine import Cast
from pasdedeux.engine.sources import joints, puppet_character
from pasdedeux.engine.staging import scene_of
from pasdedeux.puppets import Camera, Character, Choreography, Light, Place, render, render_still


def performed(scale: float, center: tuple[float, float], frames: int = 6) -> Keypoints:
    poses = Choreography.from_seed(5).poses(frames, 12.0, start=0)
    camera = Camera(scale=scale, center=center)
    who = (Character.from_seed(2), poses, Place.from_seed(2), Light.from_seed(2))
    return replace(joints(render(*who, (128, 128), camera)), view=None)


@pytest.fixture(scope="module")
def character() -> CharacterImage:
    return puppet_character(9, (128, 128))


def test_in_place_is_as_tall_as_the_performer_and_stands_there(character: CharacterImage) -> None:
    performer = performed(0.55, (0.3, 0.6))
    points = retarget(performer, character.keypoints)
    assert not np.allclose(anchors(points.body, feet=True), anchors(performer.body, feet=True), atol=8)
    placed = in_place(points, performer)
    assert np.allclose(anchors(placed.body, feet=True), anchors(performer.body, feet=True), atol=0.02)
    assert tallness(placed.body) == pytest.approx(tallness(performer.body), rel=1e-3)
    assert placed.size == performer.size


def test_in_place_keeps_angles_and_confidence(character: CharacterImage) -> None:
    performer = performed(0.8, (0.5, 0.5))
    points = retarget(performer, character.keypoints)
    placed = in_place(points, performer)
    arm, moved = (p.body[:, 3, :2] - p.body[:, 2, :2] for p in (points, placed))
    cosine = (arm * moved).sum(-1) / np.linalg.norm(arm, axis=-1) / np.linalg.norm(moved, axis=-1)
    assert cosine.min() > 0.9999
    assert np.array_equal(placed.face[..., 2], points.face[..., 2])


def test_in_place_follows_the_neck_where_feet_are_unseen(character: CharacterImage) -> None:
    performer = performed(0.6, (0.4, 0.55))
    body = performer.body.copy()
    body[:, (8, 9, 10, 11, 12, 13, 18, 19)] = 0
    half = Keypoints(body=body, hands=performer.hands, face=performer.face, size=performer.size)
    placed = in_place(retarget(half, character.keypoints), half)
    assert np.allclose(placed.body[:, 1, :2], half.body[:, 1, :2], atol=0.02)
    wide, own = (np.linalg.norm(k.body[:, 2, :2] - k.body[:, 5, :2], axis=-1).max() for k in (placed, half))
    assert wide == pytest.approx(own, rel=0.05)


@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_a_drawn_performance_lands_where_the_character_would_have_danced_it(mode: str) -> None:
    size, away = (128, 128), []
    for seed in range(6):
        who, place, light = Character.from_seed(seed), Place.from_seed(seed), Light.from_seed(seed)
        poses = Choreography.from_seed(100 + seed).poses(13, 12.0)
        truth = joints(render(who, poses, place, light, size))
        performer = joints(render(Character.from_seed(50 + seed), poses, place, light, size))
        points = retarget(performer, joints(render_still(who, place, light, size, seed)))
        placed = in_place(points, performer) if mode == "replace" else points
        away.append(np.linalg.norm((placed.body - truth.body)[:, 1:14, :2], axis=-1).mean())
    assert np.mean(away) < 2.0


def test_replace_mode_needs_pictures(character: CharacterImage) -> None:
    seen = Cast(character=character, performance=Performance(keypoints=performed(1, (0.5, 0.5)), fps=12))
    with pytest.raises(InputError, match="only its keypoints"):
        scene_of(seen, "replace")
    assert scene_of(seen, "animate").at(0).shape == (128, 128, 4)
