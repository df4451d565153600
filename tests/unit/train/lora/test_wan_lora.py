"""Every Wan family is tuned from clips alone, and what comes out is used by the engine."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pasdedeux.apps.tuning import LoraOptions, room_of, tune
from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.engine import Engine, Job
from pasdedeux.engine.memory import Memory
from pasdedeux.train.lora.layers import Shape
from pasdedeux.train.lora.learner import Course, LoraLearner
from pasdedeux.train.lora.plan import activations, state_bytes
from pasdedeux.train.lora.samples import Sample
from pasdedeux.train.lora.streaming import Room
from pasdedeux.train.lora.wan import WanSubject

MEDIA = Path(__file__).parents[4].parent / "shared/media"
SMALL = {"steps": "2", "rank": "2", "rate": "1e-2", "size": "64x64", "frames": 9, "sticky": 1, "dtype": "float32"}


def tuned(model: Path, data: Path, out: Path, **options: object) -> list[str]:
    said: list[str] = []
    tune(LoraOptions(model=str(model), data=data, out=out, **{**SMALL, **options}), said.append)  # type: ignore[arg-type]
    return said


@pytest.mark.parametrize("family", ["wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b", "wan2.1-i2v-14b"])
def test_clips_with_captions(family: str, wan_folders: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    said = tuned(wan_folders(family), folder, tmp_path / "out")
    made = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    pair = family in ("wan2.2-t2v-a14b", "wan2.2-i2v-a14b")
    assert made == (["out_high_noise.safetensors", "out_low_noise.safetensors"] if pair else ["out.safetensors"])
    assert any("noise levels" in line for line in said)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("wan2.2-animate-14b", "attention,feedforward,pose,face"),
        ("wan2.2-vace-fun-a14b", "all"),
        ("wan2.2-fun-a14b-control", "attention"),
    ],
)
@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_a_raw_clip_is_enough(
    family: str, targets: str, mode: str, wan_folders: Callable[[str], Path], followed: Path, tmp_path: Path
) -> None:
    tuned(wan_folders(family), followed, tmp_path / "out", targets=targets, mode=mode, frames=5)
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_the_engine_uses_them(wan_folders: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    model = wan_folders("wan2.2-t2v-a14b")
    tuned(model, folder, tmp_path / "out", rate="0.3", targets="all")
    files = tuple(map(str, sorted((tmp_path / "out").glob("*.safetensors"))))
    with Engine.open(str(model), device="cpu") as engine:
        job = {"prompt": "a cat", "size": "64x64", "frames": 5, "steps": 2, "guidance": "1"}
        plain = engine.run(Job.generate(**job))
        changed = engine.run(Job.generate(**job, lora=files))
    assert (plain.frames != changed.frames).any()


def test_tuned_in_little_memory(wan_folders: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    """Frozen blocks come and go, judged lessons in between, and what is learnt is the same."""
    model, how = wan_folders("wan2.2-t2v-a14b"), {"steps": "3", "held": 1, "dtype": "float32", "targets": "all"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pasdedeux.apps.tuning.Course", partial(Course, check_every=2))
        whole = tuned(model, folder, tmp_path / "whole", **how)
        said = tuned(model, folder, tmp_path / "little", memory="1MB", **how)
        dry = tuned(model, folder, tmp_path / "little", memory="1MB", dry_run=True, **how)
    assert not any("come when they are used" in line for line in whole)
    for lines in (said, dry):
        assert any("of frozen weights at a time" in line and "about 0 MB of" in line for line in lines)
        assert any("come when they are used" in line for line in lines)
    assert any("held-out" in line for line in said)
    for name in ("high", "low"):
        a, b = (load_file(tmp_path / f / f"{f}_{name}_noise.safetensors") for f in ("whole", "little"))
        assert a.keys() == b.keys()
        for key, values in a.items():
            torch.testing.assert_close(b[key], values, rtol=2e-2, atol=1e-4)  # written in bfloat16
        assert sum(float(values.abs().sum()) for key, values in a.items() if "lora_B" in key) > 0


def test_memory_that_is_no_memory(wan_folders: Callable[[str], Path], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='The memory "little" is not understood'):
        tuned(wan_folders("wan2.2-t2v-a14b"), folder, tmp_path / "out", memory="little")


@pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None or not MEDIA.exists(), reason="no mediapipe or no sample media"
)
@pytest.mark.parametrize("mode", ["animate", "replace"])
def test_a_film_of_somebody_is_enough(mode: str, wan_folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Nothing but a video: who is in it is found, with pose, face, mask and the picture of the character."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "list.jsonl").write_text(f'{{"video": "{MEDIA / "talk.mp4"}", "start": 1, "end": 1.5}}\n')
    options = {"targets": "pose,face", "mode": mode, "frames": 5, "strict": True}
    said = tuned(wan_folders("wan2.2-animate-14b"), tmp_path / "clips" / "list.jsonl", tmp_path / "out", **options)
    assert not any("left out" in line for line in said)
    made = load_file(tmp_path / "out" / "out.safetensors")
    assert any("face_adapter" in key for key in made)
    assert any("pose_patch_embedding" in key for key in made)


def test_experts_side_by_side_share_the_memory(
    wan_folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = find_bundle(wan_folders("wan2.2-t2v-a14b"))
    sample = Sample(name="a", entry=Path("a"), words=None, shape=(16, 3, 4, 4))
    subject = WanSubject(bundle=bundle, samples=[sample], dtype=torch.float32)
    course = Course(shape=Shape(rank=2, alpha=2.0, targets="attention"))
    learners = [LoraLearner(subject, k, course, 0) for k in range(2)]
    need = state_bytes(learners) + activations(subject)
    monkeypatch.setattr(Memory, "left", lambda self, device: 2 * need + (40_000 if device == "cuda:1" else 60_000))
    monkeypatch.setattr(Memory, "pinnable", lambda self, device: 1000)
    memory = Memory(main=1)
    assert room_of(memory, ("cpu",), learners, subject) == Room(device=need + 60_000, host=1000)
    assert room_of(memory, ("cpu", "cpu"), learners, subject) == Room(device=30_000, host=500)
    assert room_of(memory, ("cuda:0", "cuda:1"), learners, subject) == Room(device=need + 40_000, host=500)
    assert room_of(Memory(), ("cpu",), learners, subject) is None  # mapped
