from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file

from pasdedeux.apps.converting import ConvertOptions, convert_model
from pasdedeux.checkpoints.bundle import find_bundle
from pasdedeux.models.wan import WanConfig, build_wan

TINY = WanConfig(dim=128, ffn_dim=160, heads=1, layers=2, text_dim=64, freq_dim=32)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    folder = tmp_path / "pair"
    for seed, name in enumerate(("high_noise_model", "low_noise_model")):
        torch.manual_seed(seed)
        weights = {key: torch.randn_like(t).to(torch.bfloat16) for key, t in build_wan(TINY).state_dict().items()}
        (folder / name).mkdir(parents=True)
        save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
    return folder


def converted(output: Path, **options: Any) -> str:
    out = StringIO()
    convert_model(output, ConvertOptions(**options), Console(file=out, width=200))
    return out.getvalue()


def test_a_pair_to_diffusers_and_back(pair: Path, tmp_path: Path) -> None:
    said = converted(tmp_path / "there", model=pair, layout="diffusers")
    assert "both experts" in said
    assert "written in" in said
    bundle = find_bundle(tmp_path / "there")
    assert [expert.name for expert in bundle.experts] == ["high", "low"]
    assert bundle.bounds == find_bundle(pair).bounds
    converted(tmp_path / "back", model=tmp_path / "there", container="safetensors")
    for name in ("high_noise_model", "low_noise_model"):
        file = Path(name) / "diffusion_pytorch_model.safetensors"
        got, want = load_file(tmp_path / "back" / file), load_file(pair / file)
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key], want[key]) for key in want)


def test_the_suffix_chooses_the_container(pair: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    converted(tmp_path / "wan.gguf", model=pair, dtype="Q8_0")
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == ["wan_high_noise.gguf", "wan_low_noise.gguf"]
    bundle = find_bundle(tmp_path / "wan_high_noise.gguf")
    assert bundle.experts[0].name == "high"


def test_one_expert_alone(pair: Path, tmp_path: Path) -> None:
    said = converted(tmp_path / "low.safetensors", model=pair, expert="low", layout="comfyui", dtype="fp8_scaled")
    assert "the low-noise expert" in said
    assert load_file(tmp_path / "low.safetensors")["blocks.0.ffn.0.weight"].dtype == torch.float8_e4m3fn


def test_experts_given_one_by_one(pair: Path, tmp_path: Path) -> None:
    high, low = pair / "high_noise_model", pair / "low_noise_model"
    converted(tmp_path / "wan.safetensors", high=high, low=low, layout="comfyui")
    assert (tmp_path / "wan_low_noise.safetensors").is_file()
    with pytest.raises(ValueError, match="the wrong way round"):
        converted(tmp_path / "no.safetensors", high=low, low=high, layout="comfyui")


def test_the_model_is_not_written_into(pair: Path) -> None:
    before = sorted(pair.rglob("*"))
    with pytest.raises(ValueError, match="lies inside"):
        converted(pair / "out", model=pair)
    with pytest.raises(ValueError, match="is where the model is read from"):
        converted(pair, model=pair, overwrite=True)
    assert sorted(pair.rglob("*")) == before


def test_ctrl_c_leaves_nothing(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pasdedeux.checkpoints.convert.write_sharded", press)
    with pytest.raises(typer.Exit) as caught:
        converted(tmp_path / "out", model=pair)
    assert caught.value.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["pair"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Give a model, or its experts"),
        ({"model": Path("a"), "high": Path("b")}, "not both"),
        ({"model": Path("a"), "expert": "middle"}, "must be high or low"),
        ({"model": Path("a"), "shard_gb": 0}, "more than 0"),
        ({"model": Path("a"), "layout": "kohya"}, "one of native, comfyui, diffusers"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        converted(tmp_path / "out", **options)


def test_an_expert_that_is_not_there(pair: Path, tmp_path: Path) -> None:
    file = pair / "high_noise_model" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match="no low-noise expert to convert; the model has: high"):
        converted(tmp_path / "x.safetensors", model=file, expert="low")
