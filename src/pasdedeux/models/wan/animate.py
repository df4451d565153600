"""Wan-Animate: the image-to-video transformer driven by a pose video and face crops, in native weight names.

The pose is added to the tokens once, before the blocks; the face is attended to after every few blocks. Slot
0 of the latent frames belongs to the reference picture: it receives no pose, and its face tokens are zeros.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .config import AnimateConfig
from .layers import (
    KeyValue,
    PatchEmbedding,
    RMSNorm32,
    attend,
    layer_norm,
    rope_table,
    split_heads,
    unpatchify,
)
from .motion import FaceEncoder, MotionEncoder
from .spans import add_spans
from .transformer import Grid, WanConditions, WanTrunk


@dataclass(frozen=True, kw_only=True, slots=True)
class AnimateConditions(WanConditions):
    """What a segment's steps share, the pose and the face included.

    pose: tokens [B, L - L/F, D] of latent frames 1..; faces: for each face block the keys and values [B*F, H,
    n, C] of every latent frame's face tokens.
    """

    pose: Tensor
    faces: tuple[KeyValue, ...]


class FaceBlock(nn.Module):
    """Each latent frame's tokens attend to that frame's face tokens; the result is added to the stream."""

    def __init__(self, config: AnimateConfig) -> None:
        super().__init__()
        self.head_dim, self.eps = config.head_dim, config.eps
        self.linear1_kv = nn.Linear(config.dim, 2 * config.dim)
        self.linear1_q = nn.Linear(config.dim, config.dim)
        self.linear2 = nn.Linear(config.dim, config.dim)
        self.q_norm = RMSNorm32(config.head_dim, config.eps)
        self.k_norm = RMSNorm32(config.head_dim, config.eps)

    def key_value(self, face: Tensor) -> KeyValue:
        """Face tokens [B, F, n, D] -> keys and values [B*F, H, n, C]."""
        normed = layer_norm(face.flatten(0, 1), self.eps).to(face.dtype)
        k, v = (split_heads(half, self.head_dim) for half in self.linear1_kv(normed).chunk(2, dim=-1))
        return KeyValue(self.k_norm(k).to(v.dtype), v)

    def forward(self, x: Tensor, face: KeyValue) -> Tensor:
        """x [B, L, D], frames outermost in L -> [B, L, D]; without gradients x is overwritten."""

        def attention(part: Tensor, _: slice) -> Tensor:
            q = split_heads(self.linear1_q(layer_norm(part, self.eps).to(part.dtype)), self.head_dim)
            return self.linear2(attend(self.q_norm(q).to(part.dtype), face))

        frames = x.view(face.k.shape[0], -1, x.shape[-1])
        return add_spans(frames, attention).view_as(x)


class FaceAdapter(nn.Module):
    """The face blocks."""

    def __init__(self, config: AnimateConfig) -> None:
        super().__init__()
        self.fuser_blocks = nn.ModuleList(FaceBlock(config) for _ in range(config.face_blocks))

    def key_values(self, face: Tensor) -> tuple[KeyValue, ...]:
        """Face tokens [B, F, n, D] -> for each face block, its keys and values."""
        return tuple(block.key_value(face) for block in cast(Iterable[FaceBlock], self.fuser_blocks))


class WanAnimateTransformer(WanTrunk):
    """Denoiser of a character in motion: predicts the velocity of x at timestep t."""

    def __init__(self, config: AnimateConfig) -> None:
        super().__init__(config)
        self.config: AnimateConfig = config
        self.pose_patch_embedding = PatchEmbedding(config.pose_dim, config.dim, config.patch)
        self.motion_encoder = MotionEncoder(config)
        self.face_encoder = FaceEncoder(config)
        self.face_adapter = FaceAdapter(config)

    def prepare(self, *, text: Tensor, image: Tensor, pose: Tensor, face: Tensor, grid: Grid) -> AnimateConditions:
        """Everything that does not depend on x or t.

        text [B, n, text_dim]; image [B, 257, image_dim]; pose latents [B, pose_dim, F-1, H, W]; face crops in
        [-1, 1], [B, 3, T, S, S] with T = 4 * (F-2) + 1; grid: x.shape[2:]. Raises ValueError where the sizes
        do not agree.
        """
        tokens = self.token_grid(grid)
        self.check_drivers(pose, face, grid)
        motion = self.face_encoder(self.motion_encoder(face.to(self.dtype)))
        motion = F.pad(motion, (0, 0, 0, 0, 1, 0))  # the reference slot
        return AnimateConditions(
            latents=grid,
            grid=tokens,
            rope=rope_table(tokens, self.config.head_dim, text.device),
            contexts=self.contexts(text, image),
            pose=self.pose_patch_embedding(pose),
            faces=self.face_adapter.key_values(motion),
        )

    def check_drivers(self, pose: Tensor, face: Tensor, grid: Grid) -> None:
        """Raises ValueError where pose and face are not those of a segment of this size."""
        want = (self.config.pose_dim, grid[0] - 1, *grid[1:])
        if tuple(pose.shape[1:]) != want:
            raise ValueError(f"pose latents have shape {tuple(pose.shape[1:])}; a grid of {tuple(grid)} needs {want}")
        size = self.config.face_size
        if face.shape[1] != 3 or face.shape[3:] != (size, size):
            raise ValueError(f"face crops have shape {tuple(face.shape)}; they must be [B, 3, T, {size}, {size}]")
        if (face.shape[2] + 3) // 4 != grid[0] - 1:
            frames = 4 * (grid[0] - 2) + 1
            raise ValueError(f"there are {face.shape[2]} face crops; {grid[0]} latent frames need {frames}")

    def walk(self, x: Tensor, t: Tensor, cond: AnimateConditions) -> Generator[None, None, Tensor]:
        """See `WanTrunk`; a face block has its turn with the block before it."""
        self.check(x, t, cond)
        x = self.patch_embedding(x)
        x[:, x.shape[1] - cond.pose.shape[1] :] += cond.pose  # all but the reference slot
        timestep = self.embed_time(t, x.shape[1])
        every = self.config.face_every
        for i, block in enumerate(self.blocks):
            x = block(x, timestep, cond.contexts, cond.rope)
            if i % every == 0:
                x = self.face_adapter.fuser_blocks[i // every](x, cond.faces[i // every])
            yield
        return unpatchify(self.head(x, timestep), cond.grid, self.config.patch)
