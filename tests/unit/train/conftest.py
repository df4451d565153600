"""Clips and a codec that cost nothing, and trainers of a small model on them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer
from pasdedeux.train.bands import Levels
from pasdedeux.train.codec import measure
from pasdedeux.train.loop import TrainConfig, Trainer

SMALL = DuetConfig(dim=32, depth=2, heads=2, ffn=64, channels=8, frequency=16, pyramid=(8, 8, 16))

MakeTrainer = Callable[[TrainConfig, Levels], Trainer]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Experts side by side would each have a team of threads that wait for each other's cores, spinning.

    For whole modules, since what is compared bit for bit has to be trained by as many threads.
    """
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def stored_pictures(folder: Path) -> list[Path]:
    """Stored clips of smooth random pictures, 9 frames of 32x32."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.npy" for i in range(4)]
    for path in paths:
        coarse = rng.integers(0, 255, (9, 4, 4, 18)).astype(np.uint8)
        np.save(path, coarse.repeat(8, 1).repeat(8, 2))
        np.save(path.with_suffix(".ref.npy"), rng.integers(0, 255, (32, 32, 10)).astype(np.uint8))
    return paths


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four stored clips."""
    return stored_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def small_codec(pictures: list[Path]) -> PatchCodec:
    """A codec measured on them."""
    codec = PatchCodec(CodecConfig(channels=8, width=8, depth=1))
    measure(codec, pictures, 0, count=20)
    return codec


@pytest.fixture(scope="session")
def small_trainer(small_codec: PatchCodec, pictures: list[Path]) -> MakeTrainer:
    """Trainers of a small model on them; the same weights for the same seed."""

    def make(config: TrainConfig, levels: Levels) -> Trainer:
        torch.manual_seed(1 + config.seed)
        return Trainer(DuetTransformer(SMALL), small_codec, levels, config, pictures)

    return make
