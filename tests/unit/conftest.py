"""A tiny model with random weights, as a folder that the engine opens in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pasdedeux.checkpoints.folder import ExpertFile, Manifest, save_model
from pasdedeux.engine import Engine
from pasdedeux.models.codec import CodecConfig, PatchCodec
from pasdedeux.models.duet import DuetConfig, DuetTransformer

CODEC = CodecConfig(channels=16, width=8, depth=1)
MODEL = DuetConfig(dim=32, depth=2, heads=2, ffn=32, channels=16, pyramid=(8, 8, 8))
BOUNDS = {1: (), 2: (0.75,), 3: (0.85, 0.6)}


def write_tiny_model(folder: Path, experts: int = 2) -> Manifest:
    """Random experts over a codec that passes on something of the picture."""
    torch.manual_seed(0)
    codec = PatchCodec(CODEC)
    for projection in (codec.first, codec.later):
        projection.basis.copy_(torch.linalg.qr(torch.randn_like(projection.basis))[0])
    names = ("high", "low") if experts == 2 else tuple(f"expert{k}" for k in range(experts))
    manifest = Manifest(
        codec=CODEC,
        model=MODEL,
        experts=tuple(ExpertFile(name=name, file=f"{name}.safetensors") for name in names),
        bounds=BOUNDS[experts],
        steps=4,
        length=9,
        overlap=5,
        size=(64, 64),
        dtype="float32",
    )
    weights = {name: randomised(DuetTransformer(MODEL)) for name in names}
    save_model(folder, manifest, weights, codec.state_dict(), torch.float32)
    return manifest


def randomised(model: DuetTransformer) -> dict[str, torch.Tensor]:
    """Weights whose head is not zero, so that experts differ."""
    for layer in (model.head.first, model.head.later):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return model.state_dict()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pair."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def engine(tiny: Path) -> Engine:
    """An engine with the tiny pair."""
    return Engine.open(tiny, device="cpu")


@pytest.fixture
def make_tiny() -> Callable[[Path, int], Manifest]:
    """Write a tiny model of so many experts into a folder."""
    return write_tiny_model
