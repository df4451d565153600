from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pasdedeux.checkpoints.load import load_module, shapes


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.register_buffer("kept", torch.zeros(4))


class Forgetful(Small):
    """Holds a buffer that is computed, not stored: no file can fill it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def write(path: Path, **changes: torch.Tensor | None) -> Path:
    weights = {**Small().state_dict(), **{name.replace("__", "."): t for name, t in changes.items()}}
    save_file({name: t for name, t in weights.items() if t is not None}, path)
    return path


def test_values_and_types_arrive(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", a__weight=torch.full((2, 3), 1.5, dtype=torch.float16))
    module = load_module(Small, path, dtype=torch.bfloat16)
    assert module.a.weight.dtype == torch.bfloat16
    assert torch.equal(module.a.weight, torch.full((2, 3), 1.5, dtype=torch.bfloat16))
    assert not module.training
    assert not any(p.requires_grad or p.is_meta for p in module.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"a__bias": None}, "lacks a.bias"),
        ({"extra": torch.zeros(1)}, "holds unknown extra"),
        ({"a__weight": torch.zeros(2, 4)}, "a.weight (2x4, not 2x3)"),
        ({"kept": None}, "lacks kept"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], said: str
) -> None:
    with pytest.raises(ValueError, match="does not fit a Small") as caught:
        load_module(Small, write(tmp_path / "w.safetensors", **changes), dtype=torch.float32)
    assert said in str(caught.value)


def test_only_the_first_names_are_listed(tmp_path: Path) -> None:
    many = {f"x{k}": torch.zeros(1) for k in range(9)}
    with pytest.raises(ValueError, match="x0, x1, x2 and 6 more"):
        load_module(Small, write(tmp_path / "w.safetensors", **many), dtype=torch.float32)


def test_nothing_is_left_on_meta(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no value for table"):
        load_module(Forgetful, write(tmp_path / "w.safetensors"), dtype=torch.float32)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of weights"):
        shapes(tmp_path / "absent.safetensors")
    for text in (b"", b"hello"):
        (tmp_path / "text.safetensors").write_bytes(text)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            shapes(tmp_path / "text.safetensors")


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        shapes(path)
