"""An autoencoder that can be reckoned by hand, and random drivers, for the stages that follow a performance."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pasdedeux.animate.condition.wan_drivers import Drivers

HEIGHT, WIDTH = 32, 48


class PoolingVAE:
    """Latents are means over the pictures and pixels they cover, every colour five times and their mean once.

    Decoding repeats the mean. `videos` are all that was encoded.
    """

    stride = (4, 8, 8)
    channels = 16

    def __init__(self) -> None:
        self.videos: list[Tensor] = []

    def encode(self, video: Tensor) -> Tensor:
        self.videos.append(video)
        first = functional.avg_pool3d(video[:, :, :1], (1, 8, 8))
        rest = [functional.avg_pool3d(part, (4, 8, 8)) for part in video[:, :, 1:].split(4, dim=2) if part.shape[2]]
        means = torch.cat([first, *rest], dim=2)
        return torch.cat([means.repeat(1, 5, 1, 1, 1), means.mean(1, keepdim=True)], dim=1)

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        for frame in range(latent.shape[2]):
            grey = latent[:, -1:, frame : frame + 1].expand(-1, 3, 4 if frame else 1, -1, -1)
            yield grey.repeat_interleave(8, 3).repeat_interleave(8, 4)


@pytest.fixture
def vae() -> PoolingVAE:
    return PoolingVAE()


@pytest.fixture
def shown() -> Callable[..., Drivers]:
    """shown(frames, replace=False): random pictures, and a person's box that moves."""

    def build(frames: int, *, replace: bool = False) -> Drivers:
        rng = np.random.default_rng(3)

        def pictures(*shape: int) -> np.ndarray:
            return rng.integers(0, 256, shape, dtype=np.uint8)

        mask = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
        for k in range(frames):
            mask[k, 3 : 20 + k % 8, k : 11 + k] = 255
        background = pictures(frames, HEIGHT, WIDTH, 3) * (mask == 0)[..., None]
        return Drivers(
            pose=pictures(frames, HEIGHT, WIDTH, 3),
            face=pictures(frames, 16, 16, 3),
            reference=pictures(HEIGHT, WIDTH, 3),
            background=background if replace else None,
            mask=mask if replace else None,
        )

    return build
