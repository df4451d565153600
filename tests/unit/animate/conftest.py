"""Stick figures with known limb lengths and angles, for every test that needs somebody to move."""

from collections.abc import Callable

import numpy as np
import pytest

from pasdedeux.animate.inputs import Keypoints

# parent, child, resting angle in degrees (0 is to the right, 90 down), length in parts of the body's scale
BONES = (
    *((1, 2, 180, 20), (2, 3, 110, 30), (3, 4, 80, 26), (1, 5, 0, 20), (5, 6, 70, 30), (6, 7, 100, 26)),
    *((20, 8, 180, 12), (8, 9, 95, 40), (9, 10, 88, 38), (10, 19, 100, 10)),
    *((20, 11, 0, 12), (11, 12, 85, 40), (12, 13, 92, 38), (13, 18, 80, 10)),
)


def features() -> np.ndarray:
    """An upright face [70, 2] about its nose, one unit wide."""
    turn = np.linspace(np.pi, 0, 17)
    jaw = np.stack([0.5 * np.cos(turn), -0.1 + 0.55 * np.sin(turn)], -1)
    brow = np.array([[x, -0.43 - 0.2 * (0.13 - abs(x + 0.25))] for x in np.linspace(-0.38, -0.12, 5)])
    bridge = np.array([[0, y] for y in np.linspace(-0.3, 0, 4)])
    base = np.array([[x, 0.05] for x in np.linspace(-0.1, 0.1, 5)])
    eye = np.array([[-0.1, 0], [-0.04, -0.06], [0.04, -0.06], [0.1, 0], [0.04, 0.06], [-0.04, 0.06]])
    outer, inner = (np.linspace(np.pi, -np.pi, n, endpoint=False) for n in (12, 8))
    lips = np.stack([0.2 * np.cos(outer), 0.25 - 0.09 * np.sin(outer)], -1)
    mouth = np.stack([0.15 * np.cos(inner), 0.25 - 0.03 * np.sin(inner)], -1)
    pupils = np.array([[-0.22, -0.3], [0.22, -0.3]])
    parts = (
        jaw,
        brow,
        brow[::-1] * [-1, 1],
        bridge,
        base,
        eye + pupils[0],
        eye + pupils[1],
        lips,
        mouth,
        pupils,
    )
    return np.concatenate(parts)


def skeleton(neck: np.ndarray, lengths: dict[int, float], swing: np.ndarray, scale: float) -> np.ndarray:
    """Body [20, 2]: each bone at rest angle + swing[child] degrees, `lengths` in place of the usual ones by
    child.
    """
    joints = np.zeros((21, 2))
    joints[1] = neck

    def reach(parent: int, child: int, angle: float, length: float) -> None:
        radians = np.radians(angle + swing[child])
        joints[child] = joints[parent] + scale * lengths.get(child, length) * np.array(
            [np.cos(radians), np.sin(radians)]
        )

    reach(1, 20, 90, 55)
    reach(1, 0, -90, 20)
    for bone in BONES:
        reach(*bone)
    return joints[:20]


@pytest.fixture
def figure() -> Callable[..., Keypoints]:
    """figure(swings [T, 21] degrees, ...) -> Keypoints of a puppet that moves in the picture plane, all of it
    seen.
    """

    def build(
        swings: np.ndarray,
        *,
        lengths: dict[int, float] | None = None,
        scale: float = 1.0,
        head: float = 20.0,
        neck: tuple[float, float] = (128.0, 70.0),
        size: tuple[int, int] = (256, 256),
        shape: Callable[[np.ndarray], np.ndarray] = lambda face: face,
    ) -> Keypoints:
        body, hands, face = [], [], []
        for swing in swings:
            joints = skeleton(np.array(neck), lengths or {}, swing, scale)
            roll = np.radians(swing[0])
            turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
            points = joints[0] + head * scale * shape(features()) @ turn.T
            joints[14], joints[15] = points[36:42].mean(0), points[42:48].mean(0)
            joints[16], joints[17] = (
                joints[14] - head * scale * turn[:, 0] * 0.3,
                joints[15] + head * scale * turn[:, 0] * 0.3,
            )
            body.append(joints)
            face.append(points)
            fan = np.stack([np.linspace(0, 8, 21), np.linspace(0, 5, 21) ** 1.1], -1)
            hands.append([joints[7] + scale * fan, joints[4] + scale * fan])
        seen = [
            np.concatenate([part, np.ones((*np.shape(part)[:-1], 1))], -1).astype(np.float32)
            for part in (body, hands, face)
        ]
        return Keypoints(body=seen[0], hands=seen[1], face=seen[2], size=size)

    return build


@pytest.fixture
def swings() -> np.ndarray:
    """Twelve frames of arms and legs swinging and a head rolling, degrees [12, 21]; the first is at rest."""
    time = np.arange(12)[:, None]
    reach = np.zeros(21)
    reach[[2, 5, 20]], reach[[3, 4, 6, 7]], reach[[9, 10, 12, 13]], reach[0] = 0, 40, 15, 12
    return reach * np.sin(time * np.linspace(0.3, 0.9, 21))
