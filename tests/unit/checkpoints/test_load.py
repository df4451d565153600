from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.load import load_module, load_weights, shapes
from pasdedeux.checkpoints.packing.quantized import PackedLinear, join_scales
from pasdedeux.checkpoints.tensors import Weights


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


class Layers(nn.Module):
    """A plain linear layer, one of a class of its own, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(nn.Linear(32, 4), nn.SiLU(), nn.Linear(4, 3, bias=False))
        self.own = Own(32, 4)
        self.conv = nn.Conv1d(2, 2, 1)
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


class Own(nn.Linear):
    pass


def store(path: Path, **changes: torch.Tensor) -> Weights:
    torch.manual_seed(0)
    state = Layers().state_dict()
    weights = {name: t.to(torch.float8_e4m3fn) if name.endswith("weight") else t for name, t in state.items()}
    scales = {"plain.0.scale_weight": torch.tensor(0.5), "own.scale_weight": torch.tensor([2.0])}
    save_file({**weights, **scales, **{name.replace("__", "."): t for name, t in changes.items()}}, path)
    return join_scales(open_weights(path))


def test_plain_linear_layers_stay_packed_and_all_else_is_unpacked(tmp_path: Path) -> None:
    weights = store(tmp_path / "w")
    module = load_weights(Layers, weights, dtype=torch.bfloat16)
    first, own = module.plain[0], module.own
    assert isinstance(first, PackedLinear)
    assert isinstance(module.plain[2], PackedLinear)
    assert type(own) is Own
    assert own.weight.dtype == module.conv.weight.dtype == first.bias.dtype == torch.bfloat16
    assert torch.equal(own.weight, (weights["own.weight"].read().float() * 2).bfloat16())
    assert module.count.dtype == torch.int64
    assert not module.training
    loose = load_weights(Layers, weights, dtype=torch.bfloat16, packed=False)
    assert type(loose.plain[0]) is nn.Linear
    x = torch.randn(2, 32).bfloat16()
    assert torch.equal(module.plain(x), loose.plain(x))
    assert not any(p.requires_grad or p.is_meta for m in (module, loose) for p in m.parameters())


def test_branches_go_beside_packed_layers_only(tmp_path: Path) -> None:
    weights = store(tmp_path / "w")
    branch = (torch.randn(2, 32), torch.randn(4, 2), 0.5)
    module = load_weights(Layers, weights, dtype=torch.float32, beside={"plain.0.weight": [branch]})
    x = torch.randn(1, 32)
    without = load_weights(Layers, weights, dtype=torch.float32).plain[0](x)
    torch.testing.assert_close(module.plain[0](x), without + 0.5 * x @ branch[0].T @ branch[1].T)
    for name in ("own.weight", "plain.0", "plain.0.bias", "absent.weight"):
        with pytest.raises(ValueError, match=f"packed linear weight only; {name}"):
            load_weights(Layers, weights, dtype=torch.float32, beside={name: [branch]})
    with pytest.raises(ValueError, match="packed linear weight only"):
        load_weights(Layers, weights, dtype=torch.float32, packed=False, beside={"plain.0.weight": [branch]})


def in_file(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor's memory is a mapping of the file."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not tell what is mapped")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    return any(low <= tensor.data_ptr() < high for low, high in spans)


def test_what_is_stored_in_the_wanted_type_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_file({"weight": torch.ones(8, 8), "bias": torch.ones(8)}, path)
    module = load_weights(lambda: nn.Linear(8, 8), open_weights(path), dtype=torch.float32)
    assert all(in_file(p, path) for p in module.parameters())
    other = load_weights(lambda: nn.Linear(8, 8), open_weights(path), dtype=torch.bfloat16)
    assert not any(in_file(p, path) for p in other.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv__bias": torch.zeros(2, dtype=torch.int32)}, "the wrong type for conv.bias (int32, not float32)"),
        ({"count": torch.zeros(1)}, "the wrong type for count (float32, not int64)"),
        ({"extra": torch.zeros(1)}, "holds unknown extra"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(ValueError, match="does not fit a Layers") as caught:
        load_weights(Layers, store(tmp_path / "w", **changes), dtype=torch.float32)
    assert said in str(caught.value)
