"""Preparation against the truth: two puppets doing the same, and conditions drawn in parts or all at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pasdedeux.animate.condition.duet import DuetStage, driver_scene, sketch, still_scene, video_tensor
from pasdedeux.animate.condition.wan import Prompts, to_video
from pasdedeux.animate.condition.wan_animate import AnimateStage
from pasdedeux.animate.condition.wan_drivers import draw_drivers
from pasdedeux.animate.inputs import CharacterImage, Keypoints, Performance, View
from pasdedeux.animate.preprocess.placement import in_place, known, unfitted
from pasdedeux.animate.preprocess.retarget import retarget
from pasdedeux.animate.preprocess.retarget_wan import retarget_wan
from pasdedeux.animate.segments import plan
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.puppets import Character, Choreography, Clip, Light, Place, Poses, render, render_still

SIDE, SEEDS = 32, range(900_000, 900_008)
Fit = Callable[[Keypoints, Keypoints], Keypoints]


def points_of(clip: Clip) -> Keypoints:
    height, width = clip.frames.shape[1:3]
    return Keypoints(body=clip.body, hands=clip.hands, face=clip.face, size=(width, height), view=View(*clip.view))


def blind(points: Keypoints) -> Keypoints:
    """The same points in a picture of which nobody knows where its floor is."""
    return replace(points, view=None)


@dataclass(frozen=True, slots=True)
class Pair:
    """A performance, the character's picture, and the character doing the same in it."""

    performance: Keypoints
    character: Keypoints
    truth: Keypoints


@cache
def pair(seed: int) -> Pair:
    who, other = Character.from_seed(2 * seed), Character.from_seed(2 * seed + 1)
    poses = Choreography.from_seed(seed).poses(25, 12.0)

    def points(puppet: Character, what: Poses) -> Keypoints:
        nowhere = np.zeros((SIDE, SIDE, 3), np.uint8)
        lit = Place.from_seed(0), Light.from_seed(0)
        return points_of(render(puppet, what, *lit, (SIDE, SIDE), background=nowhere))

    return Pair(points(who, poses), points(other, Poses.reference(seed)), points(other, poses))


def error(one: Pair, result: Keypoints, *, placed: bool) -> float:
    """Mean distance of body points in % of the character's torso; unless `placed` without the clip's mean offset."""
    torso = np.linalg.norm(one.character.body[0, 1, :2] - one.character.body[0, [8, 11], :2].mean(axis=0))
    both = (one.truth.body[..., 2] >= 0.5) & (one.performance.body[..., 2] >= 0.5)
    away = (result.body - one.truth.body)[both][:, :2]
    away = away if placed else away - away.mean(axis=0)
    return 100 * float(np.linalg.norm(away, axis=-1).mean() / torso)


def mean_error(fit: Fit, *, views: bool) -> float:
    seen = (lambda points: points) if views else blind
    pairs = [pair(seed) for seed in SEEDS]
    results = [fit(seen(one.performance), seen(one.character)) for one in pairs]
    return float(np.mean([error(one, result, placed=views) for one, result in zip(pairs, results, strict=True)]))


def test_drawn_pictures_are_retargeted_to_a_few_percent_of_the_torso():
    assert mean_error(retarget, views=True) < 6.5


def test_ours_is_nearer_to_the_truth_than_the_models_own_rule_and_both_than_none():
    ours, wan, none = (
        mean_error(fit, views=False) for fit in (retarget, retarget_wan, lambda p, c: unfitted(p, c.size)[0])
    )
    assert ours < 5.5
    assert ours < 0.6 * wan
    assert ours < 0.6 * none


def test_the_truth_itself_has_no_error():
    one = pair(SEEDS[0])
    assert error(one, one.truth, placed=True) == 0
    moved = one.truth.moved((1.0, 1.0), (5.0, 0.0), one.truth.size)
    assert error(one, moved, placed=False) < 1e-3
    assert error(one, moved, placed=True) > 10


def test_a_character_nobody_understands_leaves_the_performance_as_it_is(figure, swings):
    points = figure(swings)
    blank = replace(points.frame(0), body=points.body[:1] * np.float32([1, 1, 0]))
    assert known(points.frame(0))
    assert not known(blank)
    as_is, note = unfitted(points, (512, 256))
    assert as_is.size == (512, 256)
    np.testing.assert_allclose(as_is.body[..., :2], points.body[..., :2] + [128, 0], atol=1e-3)
    np.testing.assert_array_equal(as_is.hands[..., 2], points.hands[..., 2])
    assert "not known" in note


class Means:
    """An autoencoder whose latents are means over the pixels and pictures they stand for."""

    stride = (4, 8, 8)
    channels = 3

    def encode(self, video: Tensor) -> Tensor:
        first = functional.avg_pool3d(video[:, :, :1], (1, 8, 8))
        if video.shape[2] == 1:
            return first
        return torch.cat([first, functional.avg_pool3d(video[:, :, 1:], (4, 8, 8))], dim=2)


FRAMES, LENGTH, OVERLAP, PICTURE = 30, 13, 5, 64
SEGMENTS = [segment.source_indices(FRAMES) for segment in plan(FRAMES, LENGTH, OVERLAP)]


@pytest.fixture(scope="module")
def performance() -> Performance:
    poses = Choreography.from_seed(3).poses(FRAMES, 12.0)
    clip = render(Character.from_seed(6), poses, Place.from_seed(1), Light.from_seed(1), (PICTURE, PICTURE))
    return Performance(keypoints=points_of(clip), fps=12.0, frames=clip.frames, mask=clip.mask)


@pytest.fixture(scope="module")
def character() -> CharacterImage:
    clip = render_still(Character.from_seed(7), Place.from_seed(2), Light.from_seed(2), (PICTURE, PICTURE))
    return CharacterImage(image=clip.frames[0], mask=clip.mask[0], keypoints=points_of(clip))


@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_segments_of_a_wan_job_are_cut_from_what_is_drawn_at_once(performance, character, mode):
    fitted = performance.keypoints if mode == "replace" else retarget(performance.keypoints, character.keypoints)
    drivers = draw_drivers(character, performance, fitted, mode, face_side=16)
    everything = list(range(FRAMES))
    pose, face, around = drivers.pose[everything], drivers.face[everything], drivers.surroundings(everything)
    assert face.any()
    vae = Means()
    prompts = Prompts(wanted=torch.ones(1, 3, 4), unwanted=None)
    stage = AnimateStage(vae=vae, drivers=drivers, prompts=prompts, features=torch.ones(1, 257, 1280))
    handed = None
    for index in SEGMENTS:
        what = stage.condition(index, handed)
        assert torch.equal(what.cond.prepare["pose"], vae.encode(to_video(pose[index])))
        assert torch.equal(what.cond.prepare["face"], to_video(face[index]))
        scene = np.full((LENGTH, PICTURE, PICTURE, 3), 127.5) if around is None else around[0][index].astype(np.float64)
        if handed is not None:
            scene[: len(handed)] = handed
        wanted = vae.encode(torch.from_numpy(scene / 127.5 - 1).float().permute(3, 0, 1, 2)[None])
        torch.testing.assert_close(what.cond.channels[:, 4:, 1:], wanted, atol=1e-5, rtol=0)
        given = what.cond.channels[0, :4, 1:]
        known_latents = 0 if handed is None else 1 + (OVERLAP - 1) // 4
        assert (given[:, :known_latents] == 1).all()
        if around is not None:
            outside = (around[1][index][:, ::8, ::8] == 0).astype(np.float32)
            frames = np.concatenate([outside[:1]] * 4 + [outside[1:]]).reshape(-1, 4, PICTURE // 8, PICTURE // 8)
            np.testing.assert_array_equal(given[:, known_latents:], frames.transpose(1, 0, 2, 3)[:, known_latents:])
        handed = pose[index][-OVERLAP:]  # any pictures will do for frames already made


@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_segments_of_the_built_in_pair_are_cut_from_what_is_drawn_at_once(performance, character, mode):
    torch.manual_seed(0)
    codec = PatchCodec(CodecConfig(channels=16, width=8, depth=1))
    for projection in (codec.first, codec.later):
        projection.basis.copy_(torch.linalg.qr(torch.randn_like(projection.basis))[0])
    fitted = retarget(performance.keypoints, character.keypoints)
    if mode == "replace":
        fitted = in_place(fitted, performance.keypoints)
        scene = driver_scene(performance.frames, performance.mask)
    else:
        scene = still_scene(character)
    sketches = sketch(character, fitted, scene)
    planes = sketches.frames(range(FRAMES))
    at_once = np.concatenate([planes.scene, planes.carried, planes.pose, planes.face], axis=-1)
    stage = DuetStage(planes=sketches, codec=codec, dtype=torch.float32)
    handed = None
    for index in SEGMENTS:
        inputs = stage.condition(index, handed).cond.inputs
        assert torch.equal(inputs.planes, video_tensor(at_once[index]))
        if handed is not None:
            count = 1 + (OVERLAP - 1) // 4
            assert torch.equal(inputs.base[:, :, :count], codec.encode(video_tensor(handed)))
            assert inputs.known.flatten().tolist() == [1] * count + [0] * (inputs.known.shape[2] - count)
        handed = planes.pose[index][-OVERLAP:]


def test_a_prepared_stretch_is_drawn_like_its_place_in_the_whole(performance, character):
    """Drawing frame by frame leaves no trace of what else is drawn with it."""
    fitted = retarget(performance.keypoints, character.keypoints)
    drivers = draw_drivers(character, performance, fitted, "animate", face_side=16)
    together = drivers.pose[list(range(FRAMES))], drivers.face[list(range(FRAMES))]
    for k in (0, 13, 29):
        for clip, whole in zip((drivers.pose, drivers.face), together, strict=True):
            np.testing.assert_array_equal(clip[[k]][0], whole[k])
