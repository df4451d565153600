"""Which backends can be used, why not, where their files are looked for, and opening them by name."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess import backends
from pasdedeux.animate.preprocess.backends import (
    Backend,
    check_backend,
    find_models,
    open_finder,
    open_masker,
    open_pose,
    usable,
)
from pasdedeux.animate.preprocess.model_files import ENVIRONMENT

needs_mediapipe = pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="no mediapipe")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """No model files but those of the test."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def packages(monkeypatch):
    """Say which packages there are: `packages("onnxruntime", ...)`, beside mediapipe of this version."""

    def there(*names, mediapipe="0.10.14"):
        monkeypatch.setattr(
            backends.importlib.util, "find_spec", lambda name: object() if name in (*names, "mediapipe") else None
        )
        monkeypatch.setattr(backends.importlib.metadata, "version", lambda name: mediapipe)

    return there


def made(folder: Path, kind: str) -> Path:
    """Something that looks like a model of that kind."""
    if kind == "vitpose":
        place = folder / "vitpose_h_wholebody.onnx"
        place.mkdir(parents=True)
        (place / "end2end.onnx").write_bytes(b"onnx")
        return place
    place = folder / kind
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"model_type": {"rtdetr": "rt_detr_v2", "sam2": "sam2_video"}[kind]}))
    return place


def by_task(records, task):
    return {backend.name: backend for backend in records if backend.task == task}


def test_files_are_looked_for_in_order(tmp_path, monkeypatch):
    named, environment, beside = tmp_path / "named", tmp_path / "environment", tmp_path / "wan" / "process_checkpoint"
    found = {}
    for place in (Path("models/prepare"), beside / "pose2d"):
        found[place] = made(place, "vitpose")
    assert find_models().vitpose == found[Path("models/prepare")]
    assert find_models(beside=tmp_path / "wan").vitpose == found[Path("models/prepare")]
    (found[Path("models/prepare")] / "end2end.onnx").unlink()
    assert find_models().vitpose is None
    assert find_models(beside=tmp_path / "wan").vitpose == found[beside / "pose2d"]
    assert find_models(beside=tmp_path / "wan" / "model.safetensors").vitpose == found[beside / "pose2d"]
    found[environment] = made(environment, "vitpose")
    monkeypatch.setenv(ENVIRONMENT, str(environment))
    assert find_models(beside=tmp_path / "wan").vitpose == found[environment]
    found[named] = made(named, "vitpose")
    assert find_models(named).vitpose == found[named]


def test_each_kind_is_known_by_its_name_or_its_config(tmp_path):
    kinds = {kind: made(tmp_path, kind) for kind in ("vitpose", "rtdetr", "sam2")}
    models = find_models(tmp_path)
    assert {kind: getattr(models, kind) for kind in kinds} == kinds
    assert find_models(kinds["sam2"]).sam2 == kinds["sam2"]
    (kinds["sam2"] / "config.json").write_text("{")
    (kinds["rtdetr"] / "config.json").write_text("[]")
    models = find_models(tmp_path)
    assert (models.sam2, models.rtdetr) == (None, None)
    (tmp_path / "other.onnx").write_bytes(b"onnx")
    (tmp_path / "dw-ll_ucoco_384.onnx").write_bytes(b"onnx")
    assert find_models(tmp_path).vitpose == tmp_path / "dw-ll_ucoco_384.onnx"


def test_a_folder_that_was_named_must_be_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        find_models(tmp_path / "nowhere")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"no folder .*gone"):
        usable()


def test_reasons_say_what_would_help(packages, tmp_path):
    packages()
    records = usable()
    assert by_task(records, "pose")["vitpose"].reason == "needs onnxruntime: pip install 'pasdedeux[pose]'"
    assert by_task(records, "mask")["sam2"].reason == "needs transformers: pip install 'pasdedeux[wan]'"
    packages("onnxruntime", "transformers")
    records = usable(tmp_path)
    for name, task in (("vitpose", "pose"), ("rtdetr", "people"), ("sam2", "mask")):
        backend = by_task(records, task)[name]
        assert not backend.usable
        assert backend.reason.startswith("no file: put ")
        assert str(tmp_path) in backend.reason
        assert "licence Apache-2.0" in backend.reason
    (tmp_path / "sam2_hiera_large.pt").write_bytes(b"")
    assert "format of SAM 2's own program" in by_task(usable(tmp_path), "mask")["sam2"].reason
    packages(mediapipe="0.10.35")
    assert "too new" in by_task(usable(), "pose")["mediapipe"].reason
    assert not by_task(usable(), "people")["mediapipe"].usable


def test_a_usable_backend_has_no_reason_and_licences_are_said(packages, tmp_path):
    packages("onnxruntime", "transformers")
    for kind in ("vitpose", "rtdetr", "sam2"):
        made(tmp_path, kind)
    records = usable(tmp_path)
    assert all(backend.usable and not backend.reason for backend in records)
    assert "research" in by_task(records, "pose")["vitpose"].licence
    text = " ".join(backend.licence for backend in records).lower()
    assert "agpl" not in text
    assert [backend.name for backend in records if backend.task == "pose"] == ["vitpose", "mediapipe"]


def test_auto_takes_the_best_that_is_usable(packages, tmp_path, monkeypatch):
    packages("transformers", "onnxruntime")
    opened = []
    for name in ("_finder", "_watcher", "_masker"):
        monkeypatch.setattr(backends, name, lambda backend: opened.append((backend.task, backend.name)) or object())
    open_finder(), open_pose(), open_masker()
    for kind in ("vitpose", "rtdetr", "sam2"):
        made(tmp_path, kind)
    open_finder("auto", tmp_path), open_pose("auto", tmp_path), open_masker("auto", tmp_path)
    open_pose("mediapipe", tmp_path)
    assert opened == [
        *(("people", "mediapipe"), ("pose", "mediapipe"), ("mask", "mediapipe")),
        *(("people", "rtdetr"), ("pose", "vitpose"), ("mask", "sam2"), ("pose", "mediapipe")),
    ]


def test_what_cannot_be_opened_is_one_sentence(packages, monkeypatch):
    packages("onnxruntime")
    assert open_finder("none") is None
    assert open_masker("none") is None
    with pytest.raises(InputError, match="A pose detector is needed"):
        open_pose("none")
    with pytest.raises(InputError, match='Nothing called "yolo" finds people; auto, rtdetr, mediapipe, none are known'):
        open_finder("yolo")
    with pytest.raises(InputError, match="vitpose cannot be used here: no file: put vitpose"):
        open_pose("vitpose")
    packages(mediapipe="0.10.35")
    with pytest.raises(
        InputError, match=r"Nothing here can find poses .*vitpose: needs onnx.*mediapipe: this mediapipe"
    ):
        open_pose()


@needs_mediapipe
def test_the_offline_ones_open_and_run():
    from pasdedeux.animate.preprocess.holistic import HolisticDetector
    from pasdedeux.animate.preprocess.people import BlazeFinder

    assert isinstance(open_finder("mediapipe"), BlazeFinder)
    watcher = open_pose("mediapipe")
    assert isinstance(watcher, HolisticDetector)
    assert open_masker("mediapipe", watcher=watcher) is None
    assert isinstance(open_masker("mediapipe"), backends.HolisticMasker)
    for backend in usable():
        if backend.name == "mediapipe":
            assert check_backend(backend) == backend


@needs_mediapipe
def test_nobody_is_masked_where_nobody_is_seen(figure):
    keypoints = figure(np.zeros((2, 21)), size=(256, 256))
    keypoints.body[..., 2] = 0
    masks = list(backends.HolisticMasker().masks([np.full((256, 256, 3), 90, np.uint8)] * 2, keypoints))
    assert [mask.shape for mask in masks] == [(256, 256)] * 2
    assert max(mask.max() for mask in masks) == 0


def test_a_trial_finds_out_what_a_look_cannot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    backend = Backend(name="vitpose", task="pose", usable=True, reason="", licence="", path=made(tmp_path, "vitpose"))
    tried = check_backend(backend)
    assert not tried.usable
    assert "pasdedeux[pose]" in tried.reason
    assert check_backend(tried) == tried
