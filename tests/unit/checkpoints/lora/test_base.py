"""A LoRA that says what it was trained beside is told apart from one for other weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.lora import fit_loras, parse_lora
from pasdedeux.checkpoints.lora.base import BASE, base_hash, other_base
from pasdedeux.checkpoints.tensors import Weights


def model(folder: Path, name: str, seed: int) -> Weights:
    draw = torch.Generator().manual_seed(seed)
    path = folder / f"{name}.safetensors"
    save_file({"block.weight": torch.randn(6, 5, generator=draw), "block.bias": torch.zeros(6)}, path)
    return open_safetensors(path)


@pytest.mark.parametrize("own", [True, False])
def test_trained_beside_these_weights_or_others(tmp_path: Path, own: bool) -> None:
    mine, other = model(tmp_path, "mine", 0), model(tmp_path, "other", 1)
    file = tmp_path / "style.safetensors"
    tensors = {"diffusion_model.block.lora_A.weight": torch.ones(2, 5)}
    tensors["diffusion_model.block.lora_B.weight"] = torch.ones(6, 2)
    save_file(tensors, file, {BASE: base_hash(mine if own else other)})
    _, notes = fit_loras([parse_lora(str(file))], {"model": mine})
    assert any("trained beside other weights" in note for note in notes) != own


def test_a_lora_that_says_nothing_is_not_doubted(tmp_path: Path) -> None:
    assert other_base({}, model(tmp_path, "mine", 0)) is None
