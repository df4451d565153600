"""WanAnimateTransformer against WanAnimateTransformer3DModel of diffusers: same random weights, float32."""

from typing import Any

import pytest
import torch

GRID = (4, 8, 12)


@pytest.fixture(scope="module")
def pair(tiny: Any) -> tuple[Any, Any]:
    """Ours and theirs, with the same weights."""
    sizes = {"dim": 48, "ffn_dim": 96, "heads": 2, "layers": 4, "text_dim": 20, "freq_dim": 32, "image_dim": 12}
    return tiny.transformers(tiny.animate(**sizes), seed=1)


@torch.no_grad()
def test_motion_encoder(tiny: Any, pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    face = tiny.random(1, 3, 9, 16, 16, seed=94).clamp(-1, 1)
    tiny.assert_close(ours.motion_encoder(face)[0], theirs.motion_encoder(face[0].transpose(0, 1)))


@torch.no_grad()
def test_face_encoder(tiny: Any, pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    motion = tiny.random(2, 77, 10, seed=95)
    tiny.assert_close(ours.face_encoder(motion), theirs.face_encoder(motion))


@torch.no_grad()
def test_velocity(tiny: Any, pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    text, image = tiny.random(2, 7, 20, seed=92), tiny.random(2, 5, 12, seed=93)
    pose, face = tiny.random(2, 16, 3, 8, 12, seed=96), tiny.random(2, 3, 9, 16, 16, seed=94).clamp(-1, 1)
    x, t = tiny.random(2, 36, *GRID, seed=91), torch.tensor([991.0, 37.0])
    cond = ours.prepare(text=text, image=image, pose=pose, face=face, grid=GRID)
    # The zeros behind the text are attended to.
    want = theirs(x, t, tiny.padded(text), image, pose, face, return_dict=False)[0]
    tiny.assert_close(ours(x, t, cond), want)
    tiny.assert_close(ours(x, t, cond), want)  # a second step from the same preparation
