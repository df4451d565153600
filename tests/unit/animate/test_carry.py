"""Carrying a character: parts go where their bones go, and nowhere else."""

import numpy as np
import pytest

from pasdedeux.animate.condition.carry import along_bone, carry, segment_distance, take_apart


def stick(size: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A standing figure whose right forearm is red: picture, mask, body and face."""
    body = np.ones((20, 3), np.float32)
    body[:, :2] = np.array(
        [
            *((64, 30), (64, 44), (52, 46), (44, 62), (40, 78), (76, 46), (84, 62), (88, 78)),
            *((57, 76), (56, 94), (55, 112), (71, 76), (72, 94), (73, 112)),
            *((61, 27), (67, 27), (58, 29), (70, 29), (76, 115), (52, 115)),
        ]
    )
    image = np.full((size, size, 3), 90, np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[20:118, 36:92] = 255
    rows, columns = np.mgrid[:size, :size]
    points = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)
    arm = segment_distance(points, body[3, :2], body[4, :2]).reshape(size, size) < 4
    image[arm] = (250, 10, 10)
    return image, mask, body, np.zeros((70, 3), np.float32)


def red(rgba: np.ndarray) -> np.ndarray:
    """Middle of the red pixels, (x, y)."""
    rows, columns = np.nonzero((rgba[..., 0] > 200) & (rgba[..., 1] < 60))
    return np.array([columns.mean(), rows.mean()])


def test_standing_still_gives_the_character_back() -> None:
    image, mask, body, face = stick()
    rgba = carry(take_apart(image, mask, body, face), body, face)
    inner = mask > 0
    assert (rgba[..., 3][inner] > 200).mean() > 0.98
    assert np.abs(rgba[..., :3][inner].astype(int) - image[inner]).mean() < 4
    assert rgba[..., 3][:10].max() == 0


def test_a_raised_forearm_takes_its_colour_along() -> None:
    image, mask, body, face = stick()
    parts = take_apart(image, mask, body, face)
    raised = body.copy()
    raised[4, :2] = (30, 50)
    middle = (raised[3, :2] + raised[4, :2]) / 2
    assert np.linalg.norm(red(carry(parts, raised, face)) - middle) < 4
    assert np.linalg.norm(red(carry(parts, body, face)) - middle) > 8


def test_a_missing_joint_leaves_its_part_out() -> None:
    image, mask, body, face = stick()
    hidden = body.copy()
    hidden[4, 2] = 0
    parts = take_apart(image, mask, body, face)
    with_it, without = (carry(parts, pose, face) for pose in (body, hidden))
    reds = [((rgba[..., 0] > 200) & (rgba[..., 1] < 60)).sum() for rgba in (with_it, without)]
    assert reds[1] < 0.5 * reds[0]


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0])
def test_along_bone_takes_ends_to_ends(scale: float) -> None:
    a, b, a2, b2 = (np.array(p, np.float32) for p in ((3, 4), (10, 9), (40, 20), (41, 35)))
    affine = along_bone(a, b, a2, b2, scale)
    np.testing.assert_allclose(affine @ [*a, 1], a2, atol=1e-4)
    np.testing.assert_allclose(affine @ [*b, 1], b2, atol=1e-4)
    across = np.array([-(b - a)[1], (b - a)[0]])
    moved = affine[:, :2] @ across
    assert np.linalg.norm(moved) == pytest.approx(scale * np.linalg.norm(across), rel=1e-4)
