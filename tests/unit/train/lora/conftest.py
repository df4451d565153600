"""Tiny models, clips of drawn figures, and lists of them, for tuning."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.preprocess.wholebody import save_keypoints
from pasdedeux.animate.video_writer import VideoWriter
from pasdedeux.puppets import Clip
from pasdedeux.train.clips import ClipSpec, film, keypoints

CAPTIONS = ("a cat", "a bad cab", "dance")
FPS = 24.0


def engine_conftest() -> object:
    """The tiny Wan models of the engine's tests."""
    path = Path(__file__).parents[2] / "engine" / "conftest.py"
    spec = importlib.util.spec_from_file_location("engine_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def wan_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, written once."""
    root, write = tmp_path_factory.mktemp("wan"), engine_conftest().write_wan  # type: ignore[attr-defined]

    def find(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else write(folder, family)

    return find


def write_video(path: Path, frames: np.ndarray, fps: float = FPS) -> Path:
    """Frames [T, H, W, 3] as a file."""
    with VideoWriter(path, fps, (frames.shape[2], frames.shape[1])) as video:
        for frame in frames:
            video.write(frame)
    return path


@pytest.fixture(scope="session")
def puppet() -> Clip:
    """A short take of a drawn figure, 64 pixels wide."""
    return film(ClipSpec.from_seed(3, frames=17, size=64)).truth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips with captions, of two shapes."""
    made = tmp_path / "clips"
    made.mkdir()
    for k, caption in enumerate(CAPTIONS):
        coarse = np.random.default_rng(k).integers(0, 255, (17, 4, 4 if k else 8, 3)).astype(np.uint8)
        write_video(made / f"{k}.mp4", coarse.repeat(16, 1).repeat(16, 2))
        (made / f"{k}.txt").write_text(caption, encoding="utf-8")
    return made


@pytest.fixture
def followed(tmp_path: Path, puppet: Clip) -> Path:
    """A list with one clip whose points are known, so that nobody has to be found in it."""
    folder = tmp_path / "followed"
    folder.mkdir()
    write_video(folder / "puppet.mp4", puppet.frames, 30.0)
    write_video(folder / "mask.mp4", np.repeat(puppet.mask[..., None], 3, axis=-1), 30.0)
    save_keypoints(folder / "points.npz", keypoints(puppet), 30.0)
    line = '{"video": "puppet.mp4", "caption": "a dancer", "keypoints": "points.npz", "mask": "mask.mp4"}\n'
    (folder / "list.jsonl").write_text(line, encoding="utf-8")
    return folder / "list.jsonl"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept between runs is kept where nobody else looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
