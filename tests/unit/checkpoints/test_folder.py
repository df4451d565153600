import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pasdedeux.checkpoints.folder import Manifest, load_codec, load_expert, read_manifest, save_model


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_what_is_saved_is_read_back(tmp_path: Path, make_tiny: Callable[[Path, int], Manifest], experts: int) -> None:
    written = make_tiny(tmp_path, experts)
    manifest = read_manifest(tmp_path)
    assert manifest == written
    loaded = [load_expert(tmp_path, manifest, expert) for expert in manifest.experts]
    assert len(loaded) == experts
    assert load_codec(tmp_path, manifest).config == manifest.codec
    if experts > 1:
        assert not torch.equal(loaded[0].head.later.weight, loaded[1].head.later.weight)


def test_weights_are_stored_in_the_type_that_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny)
    states = {e.name: load_expert(tiny, manifest, e).state_dict() for e in manifest.experts}
    save_model(tmp_path, manifest, states, load_codec(tiny, manifest).state_dict(), torch.bfloat16)
    high = manifest.experts[0]
    assert (tmp_path / high.file).stat().st_size < 0.7 * (tiny / high.file).stat().st_size
    expected = states["high"]["head.later.weight"].bfloat16().float()
    assert torch.equal(load_expert(tmp_path, manifest, high).head.later.weight, expected)
    assert not list(tmp_path.glob("*.partial"))


def test_weights_must_be_given_for_each_expert(tiny: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny)
    with pytest.raises(ValueError, match="but the manifest names"):
        save_model(tmp_path, manifest, {"high": {}}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "wan"}, 'only "duet"'),
        ({"bounds": []}, "need 1 bounds, not 0"),
        ({"colour": "red"}, "colour is not known"),
        ({"dtype": "int8"}, "one of bfloat16"),
        ({"experts": [{"name": "x", "file": "../x.safetensors"}], "bounds": []}, "plain name"),
        ({"experts": [{"name": "x", "file": "a"}, {"name": "x", "file": "b"}]}, "same name"),
        ({"codec": {"channels": 3}}, "takes 16 channels"),
        ({"bounds": None}, "cannot be used"),
    ],
)
def test_a_broken_manifest_is_refused(tiny: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    record = {**json.loads((tiny / "duet.json").read_text()), **changes}
    (tmp_path / "duet.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"duet\.json cannot be used") as caught:
        read_manifest(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '"duet"'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="not a model folder"):
        read_manifest(tmp_path)
    (tmp_path / "duet.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be used"):
        read_manifest(tmp_path)
