"""One model in every layout: the same words give the same clip, or one that is nearly it where weights are packed."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pasdedeux.apps.converting import ConvertOptions, convert_model
from pasdedeux.checkpoints.bundle import find_bundle, make_bundle
from pasdedeux.checkpoints.convert import Target, convert_pair
from pasdedeux.engine import Engine, Job, Parts

Folders = Callable[[str], Path]
JOB = Job.generate("a cat", frames=5, steps=4, size="64x64")
EXACT = (
    Target(dialect="native", container="sharded", dtype="keep", shard_bytes=400_000),
    Target(dialect="diffusers", container="sharded", dtype="keep", shard_bytes=400_000),
    Target(dialect="comfyui", container="safetensors", dtype="float32"),
    Target(dialect="native", container="gguf", dtype="F32"),
)
PACKED = (
    Target(dialect="comfyui", container="safetensors", dtype="fp8_scaled"),
    Target(dialect="comfyui", container="safetensors", dtype="fp8"),
    Target(dialect="native", container="gguf", dtype="Q8_0"),
    Target(dialect="native", container="gguf", dtype="Q4_0"),
)


def clip_of(written: list[Path], whole: Path) -> np.ndarray:
    """The clip of a model written as a folder or as two files, with the other networks of the whole one."""
    others = find_bundle(whole)
    parts = {"vae": others.vae, "text": others.text, "tokenizer": others.tokenizer, "dtype": "float32"}
    if len(written) == 1:
        name, given = written[0], Parts(**parts)
    else:
        name, given = None, Parts(high=written[0], low=written[1], **parts)
    with Engine.open(name, "cpu", given) as engine:
        return engine.run(JOB).frames


def written(target: Target, whole: Path, folder: Path) -> list[Path]:
    bundle = find_bundle(whole)
    high, low = (expert.weights for expert in bundle.experts)
    return convert_pair(high, low, target, folder / "model", bounds=bundle.bounds)


@pytest.fixture(scope="module")
def wanted(wan_folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with Engine.open(wan_folders("wan2.2-t2v-a14b"), "cpu", Parts(dtype="float32")) as engine:
            return engine.run(JOB).frames


@pytest.mark.parametrize("target", EXACT, ids=lambda t: f"{t.dialect}-{t.container}-{t.dtype}")
def test_unpacked_layouts_give_the_same_clip(
    wan_folders: Folders, tmp_path: Path, wanted: np.ndarray, target: Target
) -> None:
    whole = wan_folders("wan2.2-t2v-a14b")
    made = clip_of(written(target, whole, tmp_path), whole)
    away = np.abs(made.astype(int) - wanted)
    # Not 0: where a weight begins in its file decides in which order a processor adds up its products.
    assert away.max() <= 1, away.max()


@pytest.mark.parametrize("target", PACKED, ids=lambda t: f"{t.dialect}-{t.container}-{t.dtype}")
def test_packed_layouts_give_nearly_the_same(
    wan_folders: Folders, tmp_path: Path, wanted: np.ndarray, target: Target
) -> None:
    whole = wan_folders("wan2.2-t2v-a14b")
    made = clip_of(written(target, whole, tmp_path), whole)
    away = np.abs(made.astype(float) - wanted).mean()
    assert 0 < away < 0.5 * wanted.std()


@pytest.mark.parametrize(("suffix", "dtype"), [(".safetensors", "bfloat16"), (".gguf", "Q8_0")])
def test_experts_written_one_by_one_know_who_they_are(
    wan_folders: Folders, tmp_path: Path, suffix: str, dtype: str
) -> None:
    whole, files = wan_folders("wan2.2-t2v-a14b"), []
    for name, expert in (("a", "high"), ("b", "low")):
        files.append(tmp_path / f"{name}{suffix}")
        convert_model(files[-1], ConvertOptions(model=whole, expert=expert, dtype=dtype), Console(file=StringIO()))
    bundle = make_bundle(high=files[0], low=files[1])
    assert bundle.family.name == "wan2.2-t2v-a14b"
    with pytest.raises(ValueError, match="wrong way round"):
        make_bundle(high=files[1], low=files[0])
