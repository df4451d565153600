"""GGUF against the `gguf` package: the blocks decoded, the blocks written, and files its writer made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.quantized import WRITTEN, dequantize, requantize
from pasdedeux.checkpoints.tensors import LazyTensor

gguf: Any = pytest.importorskip("gguf")

HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}


def kind_of(name: str) -> Any:
    return gguf.GGMLQuantizationType[name]


def random_blocks(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Any bytes, with halves that are numbers where the type has its scales."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, BLOCKS[name].nbytes), dtype=np.uint8)
    for start in HALVES.get(name, (0,)):
        halves = rng.normal(0, 0.02, (count, 1)).astype(np.float16)
        blocks[:, start : start + 2] = halves.view(np.uint8)
    return blocks


def packed(name: str, shape: tuple[int, ...], stored: torch.Tensor) -> LazyTensor:
    return LazyTensor(shape=shape, dtype=name, nbytes=stored.nbytes, read=lambda: stored)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_decoded_bit_for_bit(name: str) -> None:
    block = BLOCKS[name]
    assert gguf.GGML_QUANT_SIZES[kind_of(name)] == (block.values, block.nbytes)
    assert int(kind_of(name)) == block.number
    stored = random_blocks(name, 300).reshape(60, -1)
    expected = torch.from_numpy(gguf.quants.dequantize(stored, kind_of(name)))
    tensor = packed(name, (60, 5 * block.values), torch.from_numpy(stored))
    assert torch.equal(dequantize(tensor, torch.float32), expected)
    assert torch.equal(dequantize(tensor, torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_requantized_is_what_gguf_writes(name: str) -> None:
    values = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    again = requantize(values, packed(name, (6, 64), torch.zeros(0)))
    assert again is not None
    expected = gguf.quants.quantize(values.numpy(), kind_of(name))
    assert np.array_equal(again.read().numpy(), expected)
    assert (again.nbytes, again.read().shape) == (expected.nbytes, expected.shape)


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - set(WRITTEN)))
def test_types_that_cannot_be_written_are_left_alone(name: str) -> None:
    assert requantize(torch.zeros(2, 256), packed(name, (2, 256), torch.zeros(0))) is None


def write(path: Path, tensors: dict[str, tuple[np.ndarray, str]], **lists: tuple[int, ...]) -> Path:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_array("words", ["one", "two"] * 100)
    writer.add_float32("rate", 0.5)
    for name, values in lists.items():
        writer.add_array(name, values)
    for name, (values, kind) in tensors.items():
        stored = values if kind in {"F32", "I32"} else gguf.quants.quantize(values, kind_of(kind))
        writer.add_tensor(name, stored, raw_dtype=kind_of(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_the_package_wrote_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = {kind: rng.normal(size=(3, 5, 64)).astype(np.float32) for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0")}
    path = write(tmp_path / "model.bin", {kind: (array, kind) for kind, array in values.items()})
    weights = open_weights(path)
    assert (weights.container, weights.metadata["general.architecture"]) == ("gguf", "wan")
    assert weights.metadata["rate"] == "0.5"
    assert "words" not in weights.metadata
    assert {name: tensor.dtype for name, tensor in weights.items()} == {
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "Q8_0": "Q8_0",
        "Q4_0": "Q4_0",
    }
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, tensor in weights.items():
        assert tensor.shape == (3, 5, 64)
        expected = gguf.quants.dequantize(read[name].data, read[name].tensor_type)
        assert np.array_equal(dequantize(tensor, torch.float32).numpy(), expected)
    assert weights["Q4_0"].read().shape == (3, 5, 36)


def test_a_tensor_that_was_reshaped_to_fill_blocks_has_its_own_shape(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(8, 16, 1, 2, 2)).astype(np.float32)
    rows = values.reshape(-1, 256)
    lists = {"comfy.gguf.orig_shape.patch.weight": values.shape}
    path = write(tmp_path / "model.gguf", {"patch.weight": (rows, "Q8_0")}, **lists)
    tensor = open_weights(path)["patch.weight"]
    assert tensor.shape == values.shape
    got = dequantize(tensor, torch.float32).numpy()
    assert np.abs(got - values).max() < 0.02
    again = requantize(torch.from_numpy(got), tensor)
    assert again is not None
    assert np.array_equal(dequantize(again, torch.float32).numpy(), got)


@pytest.mark.parametrize("shape", [(8, 16), (-8, -16, 1, 2, 2), (8, 16, 1, 2, 3)])
def test_an_original_shape_that_holds_something_else_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows = np.zeros((2, 256), np.float32)
    path = write(tmp_path / "model.gguf", {"w": (rows, "Q8_0")}, **{"comfy.gguf.orig_shape.w": shape})
    with pytest.raises(ValueError, match="original shape of w"):
        open_weights(path)


def test_a_type_that_is_not_decoded_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "wan")
    writer.add_tensor("w", np.zeros((1, 136), np.uint8), raw_dtype=kind_of("IQ4_XS"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="w is stored as IQ4_XS; supported are F32, F16, BF16, Q4_0"):
        open_weights(tmp_path / "m.gguf")
