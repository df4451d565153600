from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from pasdedeux.apps.inspecting import show_model
from pasdedeux.models.wan import WanConfig, build_wan

TINY = WanConfig(dim=128, ffn_dim=160, heads=1, layers=2, text_dim=64, freq_dim=32, in_dim=36)


def shown(name: Path | str, width: int = 160) -> str:
    out = StringIO()
    show_model(str(name), Console(file=out, width=width))
    return out.getvalue()


def test_the_built_in_model_is_described_as_ever() -> None:
    said = shown("builtin")
    assert "log-SNR" in said
    assert "active in a step" in said


def test_an_expert_with_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "wan2.2_i2v_high_noise.safetensors"
    save_file({name: t.to(torch.bfloat16) for name, t in build_wan(TINY).state_dict().items()}, file)
    said = shown(file)
    for text in (
        "wan2.2-i2v-a14b, the high-noise expert",
        "bfloat16",
        "2 blocks, 128 wide, 1 heads, 36 to 16 channels",
        "note: Its sizes are not those of any released model",
        "the low-noise expert",
        "--expert low --part transformer",
        "the VAE of Wan 2.1",
        "6.74 GB",
    ):
        assert text in said, text


def test_commands_stay_whole_in_a_narrow_window(tmp_path: Path) -> None:
    file = tmp_path / "wan2.2_i2v_high_noise.safetensors"
    save_file({name: t.to(torch.bfloat16) for name, t in build_wan(TINY).state_dict().items()}, file)
    assert "--expert low --part transformer" in shown(file, width=100)


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        shown(tmp_path / "nowhere")
