"""8-bit floats and their scales, and the layer that keeps them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pasdedeux.checkpoints.packing import linear
from pasdedeux.checkpoints.packing.linear import UNPACKED, release, scale_bytes
from pasdedeux.checkpoints.packing.quantized import PackedLinear, dequantize, join_scales, requantize
from pasdedeux.checkpoints.packing.unpack import unpack
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def lazy(stored: Tensor, scale: Tensor | None = None) -> LazyTensor:
    return LazyTensor(
        shape=tuple(stored.shape),
        dtype=str(stored.dtype).removeprefix("torch."),
        nbytes=stored.nbytes,
        read=lambda: stored,
        scale=None if scale is None else lazy(scale),
    )


def weights(metadata: dict[str, str] | None = None, **tensors: Tensor) -> Weights:
    named = {name.replace("__", "."): lazy(tensor) for name, tensor in tensors.items()}
    return Weights(tensors=named, paths=(Path("w"),), container="safetensors", metadata=metadata or {})


def note(**said: Any) -> Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


W = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(E4M3)
ROWS = torch.tensor([1.0, 2.0, 0.5, 3.0])
SCALED = W.float() * 0.25


@pytest.mark.parametrize("prefix", ["", "diffusion_model__", "model__diffusion_model__"])
@pytest.mark.parametrize(
    ("beside", "metadata"),
    [
        ({"scale_weight": torch.tensor(0.25)}, {}),
        ({"scale_weight": torch.tensor([0.25]), "scale_input": torch.tensor(2.0)}, {}),
        ({"weight_scale": torch.tensor(0.25), "comfy_quant": note(format="float8_e4m3fn")}, {}),
        ({"weight_scale": torch.tensor(0.25), "input_scale": torch.tensor(1.0)}, "float8_e4m3fn"),
        ({"weight_scale": torch.full((4, 1), 0.25)}, {}),
        ({"weight_scale": torch.full((4,), 0.25, dtype=torch.bfloat16)}, {}),
    ],
)
def test_scales_are_folded_into_their_weights(prefix: str, beside: dict[str, Tensor], metadata: Any) -> None:
    layer = prefix.replace("__", ".") + "x"
    if isinstance(metadata, str):
        metadata = {"_quantization_metadata": json.dumps({"layers": {layer: {"format": metadata}}})}
    tensors = {f"{prefix}x__{name}": tensor for name, tensor in {"weight": W, "bias": torch.zeros(4), **beside}.items()}
    joined = join_scales(weights(metadata, **tensors, **{f"{prefix}scaled_fp8": torch.zeros(0).to(E4M3)}))
    assert set(joined) == {f"{layer}.weight", f"{layer}.bias"}
    assert torch.equal(dequantize(joined[f"{layer}.weight"], torch.float32), SCALED)
    inputs = sum("input" in name for name in beside)
    assert joined.metadata == ({"input_scales": "1"} if inputs else {})
    assert join_scales(joined) == joined


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_scale_multiplies_weights_of_any_float_type(dtype: torch.dtype) -> None:
    joined = join_scales(weights(x__weight=SCALED.to(dtype), x__scale_weight=ROWS))
    assert not joined["x.weight"].packed
    expected = (SCALED.to(dtype).float() * ROWS[:, None]).bfloat16()
    assert torch.equal(dequantize(joined["x.weight"], torch.bfloat16), expected)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x__scale_weight": torch.tensor(1.0)}, "holds x.scale_weight without a x.weight"),
        ({"x__weight": W, "x__scale_weight": torch.ones(3)}, "one for each of 4 rows"),
        ({"x__weight": W, "x__weight_scale": torch.ones(1, 4)}, "one for each of 4 rows"),
        ({"x__weight": W, "x__weight_scale": torch.ones(4, 2)}, "one for each of 4 rows"),
        ({"x__weight": W, "x__weight_scale": torch.ones(4, dtype=torch.uint8)}, "as uint8 of shape"),
        ({"x__weight": W, "x__weight_scale": ROWS, "x__scale_weight": ROWS}, "two scales"),
        ({"x__weight": W.to(torch.int8), "x__weight_scale": ROWS}, "as int8 with a scale; only fp8"),
        ({"x__weight": W, "x__weight_scale": ROWS, "x__weight_scale_2": ROWS}, "stores x as NVFP4"),
        ({"x__weight": W, "x__comfy_quant": note(format="nvfp4")}, "stores x as nvfp4, which is not supported"),
        ({"x__weight": W, "x__comfy_quant": note(format="int8_tensorwise")}, "int8_tensorwise"),
        ({"x__weight": W, "x__comfy_quant": note(format="float8_e4m3fn", convrot=True)}, "rotated"),
        ({"x__weight": W, "x__comfy_quant": note(format="float8_e5m2")}, "but it is stored as float8_e4m3fn"),
        ({"x__comfy_quant": note(format="float8_e5m2")}, "but it is missing"),
        ({"x__weight": W, "x__comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "cannot be read"),
        ({"x__weight": W, "x__comfy_quant": torch.zeros(3)}, "bytes of float32"),
    ],
)
def test_what_is_stored_another_way_is_refused(tensors: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        join_scales(weights(**tensors))


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', '{"layers": {"x": {"format": "nvfp4"}}}', "[" * 99999])
def test_a_header_that_notes_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|not supported"):
        join_scales(weights({"_quantization_metadata": text}, x__weight=W))


def test_values_are_rounded_once() -> None:
    stored, scale = torch.tensor([[1.125]]).to(E4M3), torch.tensor(1.0078125 + 2**-10)
    exact = (stored.double() * scale.double()).to(torch.bfloat16)
    assert torch.equal(dequantize(lazy(stored, scale), torch.bfloat16), exact)
    assert dequantize(lazy(torch.zeros(2, dtype=torch.int64)), torch.float16).dtype == torch.int64
    kept = torch.zeros(3)
    assert dequantize(lazy(kept), torch.float32) is kept


def test_pieces_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, scale = torch.randn(37, 64).to(E4M3), torch.rand(37, 1)
    whole = unpack(stored, "float8_e4m3fn", (37, 64), scale, torch.float32)
    blocks = torch.randint(0, 100, (37, 68), dtype=torch.uint8)
    decoded = unpack(blocks, "Q8_0", (37, 64), None, torch.float32)
    monkeypatch.setattr("pasdedeux.checkpoints.packing.unpack.PIECE", 320)
    assert torch.equal(unpack(stored, "float8_e4m3fn", (37, 64), scale, torch.float32), whole)
    assert torch.equal(unpack(blocks, "Q8_0", (37, 64), None, torch.float32), decoded)
    assert torch.equal(whole, stored.float() * scale)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1 << 16),
    kind=st.sampled_from([E4M3, E5M2]),
    layout=st.sampled_from(["number", "row", "column"]),
    size=st.floats(-6, 6),
)
def test_values_come_back_within_a_quantum(seed: int, kind: torch.dtype, layout: str, size: float) -> None:
    values = torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)) * 10**size
    scale = {"number": torch.tensor(1.0), "row": torch.ones(5), "column": torch.ones(5, 1)}[layout]
    again = requantize(values, lazy(torch.zeros(5, 16).to(kind), scale))
    assert again is not None
    assert again.scale is not None
    assert (again.scale.shape, again.dtype) == (tuple(scale.shape), str(kind).removeprefix("torch."))
    got = dequantize(again, torch.float32)
    most = values.abs().amax() if layout == "number" else values.abs().amax(1, keepdim=True)
    info = torch.finfo(kind)
    smallest = 2.0**-9 / 448 if kind is E4M3 else 2.0**-16 / 57344
    assert ((got - values).abs() <= values.abs() * info.eps / 2 * 1.01 + most * smallest).all()
    once_more = requantize(got, again)
    assert once_more is not None
    assert torch.equal(dequantize(once_more, torch.float32), got)


def test_plain_formats_stay_plain() -> None:
    again = requantize(torch.tensor([[1e6, -1e6, 0.3]]), lazy(torch.zeros(1, 3).to(E4M3)))
    assert again is not None
    assert again.scale is None
    assert again.read().float().tolist() == [[448, -448, 0.3125]]
    plain = requantize(torch.tensor([1.0]), lazy(torch.zeros(1).bfloat16()))
    assert plain is not None
    assert plain.read().dtype == torch.bfloat16
    zeros = requantize(torch.zeros(4, 6), lazy(W, torch.zeros(4)))
    assert zeros is not None
    assert torch.equal(dequantize(zeros, torch.float32), torch.zeros(4, 6))
    with pytest.raises(ValueError, match="cannot take the place"):
        requantize(torch.zeros(2), lazy(torch.zeros(3)))


@pytest.mark.parametrize("scale", [None, torch.tensor(0.25), ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_what_a_plain_one_does(scale: Tensor | None, dtype: torch.dtype) -> None:
    bias = torch.randn(4)
    tensor = lazy(W, scale)
    layer = PackedLinear(tensor, bias, torch.float32)
    x = torch.randn(2, 6).to(dtype)
    assert torch.equal(layer(x), F.linear(x, dequantize(tensor, dtype), bias.to(dtype)))
    moved = layer.to(dtype)
    assert moved.packed.dtype == torch.uint8
    assert torch.equal(moved.weight, dequantize(tensor, dtype))
    assert torch.equal(moved.unpacked(torch.float32), dequantize(tensor, torch.float32))
    assert sum(b.nbytes for b in moved.buffers()) <= W.nbytes + 16


def test_branches_are_added_beside() -> None:
    layer = PackedLinear(lazy(W), None, torch.float32)
    x = torch.randn(3, 6)
    plain = layer(x)
    pairs = [(torch.randn(2, 6), torch.randn(4, 2), 0.5), (torch.randn(1, 6), torch.randn(4, 1), -2.0)]
    for down, up, scale in pairs:
        layer.add_branch(down, up, scale)
    expected = plain + sum(scale * (x @ down.T @ up.T) for down, up, scale in pairs)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    for down, up in ((torch.zeros(2, 5), torch.zeros(4, 2)), (torch.zeros(2, 6), torch.zeros(4, 3))):
        with pytest.raises(ValueError, match="does not fit beside a weight"):
            layer.add_branch(down, up, 1.0)


def test_a_packed_layer_sits_where_a_linear_one_did() -> None:
    block = nn.Sequential(nn.Linear(6, 4), nn.GELU())
    block.set_submodule("0", PackedLinear(lazy(W), torch.zeros(4), torch.float32))
    assert block(torch.zeros(1, 6)).shape == (1, 4)
    assert "stored=float8_e4m3fn" in repr(block)


@pytest.fixture
def unpackings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kinds of what is unpacked from now on."""
    made: list[str] = []

    def counted(stored: Tensor, kind: str, *more: Any) -> Tensor:
        made.append(kind)
        return unpack(stored, kind, *more)

    release()
    monkeypatch.setattr(linear, "unpack", counted)
    yield made
    release()


def layers_of(count: int) -> list[PackedLinear]:
    """Of different weights."""
    drawn = (torch.randn(4, 6, generator=torch.Generator().manual_seed(k)).to(E4M3) for k in range(count))
    return [PackedLinear(lazy(values, ROWS), None, torch.float32) for values in drawn]


def test_two_layers_in_turn_are_unpacked_once(unpackings: list[str]) -> None:
    first, second, third = layers_of(3)
    with torch.no_grad():
        spans = [(x, (first(x), second(x))) for x in torch.randn(5, 3, 6)]
        assert len(unpackings) == 2
        assert UNPACKED.nbytes == 2 * 4 * 6 * 4
        third(torch.zeros(1, 6))
        second(torch.zeros(1, 6))
        assert len(unpackings) == 3
        first(torch.zeros(1, 6))
        assert len(unpackings) == 4
        assert UNPACKED.nbytes == 2 * 4 * 6 * 4
    for x, (one, other) in spans:
        assert torch.equal(one, first(x).detach())
        assert torch.equal(other, second(x).detach())
    release()
    assert UNPACKED.nbytes == 0


def test_kept_values_give_what_unpacked_ones_do(unpackings: list[str]) -> None:
    x = torch.randn(5, 3, 6)
    for layer in layers_of(2):
        expected = [layer(part).detach() for part in x]
        assert len(unpackings) == 5  # gradients might be wanted, so nothing was kept
        assert UNPACKED.nbytes == 0
        with torch.no_grad():
            assert all(torch.equal(layer(part), one) for part, one in zip(x, expected, strict=True))
        with torch.inference_mode():
            assert all(torch.equal(layer(part), one) for part, one in zip(x, expected, strict=True))
        assert len(unpackings) == 6
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        unpackings.clear()
        release()


@torch.no_grad()
def test_other_bytes_are_unpacked_anew(unpackings: list[str]) -> None:
    """Whether another tensor comes to the layer, its scale changes, or something is written into what it has."""
    layer, other = layers_of(2)
    x = torch.eye(6)
    before = layer(x)
    layer.packed = other.packed
    assert torch.equal(layer(x), other(x))
    assert not torch.equal(layer(x), before)
    layer.scale = scale_bytes(lazy(2 * ROWS), "cpu")
    assert torch.equal(layer(x), 2 * other(x))
    layer.scale = None
    plain = layer(x)
    layer.packed.copy_(layers_of(1)[0].packed)
    assert not torch.equal(layer(x), plain)


@torch.no_grad()
def test_values_go_with_what_they_were_unpacked_from(unpackings: list[str]) -> None:
    (layer,) = layers_of(1)
    stored = ref(layer.packed)
    layer(torch.zeros(1, 6))
    assert UNPACKED.nbytes > 0
    layer.packed = torch.empty_like(layer.packed, device="meta")  # as a streamer does, to give the place away
    assert stored() is None
    assert UNPACKED.nbytes == 0


@torch.no_grad()
def test_nothing_is_kept_while_the_compiler_traces(unpackings: list[str]) -> None:
    (layer,) = layers_of(1)
    x = torch.randn(3, 6)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
    release()
    compiled(x)
    assert UNPACKED.nbytes == 0
