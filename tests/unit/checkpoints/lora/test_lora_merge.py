"""What merging does to each kind of weight, and the changes that are no plain product of two matrices."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.lora import LoRA, LoRAChoice, fit_loras, merge, read_lora
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

NAME = "blocks.0.ffn.0.weight"
OUT, IN = 64, 256


def lazy(tensor: Tensor, scale: Tensor | None = None, **changes: object) -> LazyTensor:
    made = LazyTensor(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        nbytes=tensor.nbytes,
        read=lambda: tensor,
        scale=lazy(scale) if scale is not None else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def weights(tensors: Mapping[str, Tensor | LazyTensor], path: str = "model.safetensors") -> Weights:
    lazies = {name: t if isinstance(t, LazyTensor) else lazy(t) for name, t in tensors.items()}
    return Weights(tensors=lazies, paths=(Path(path),), container="safetensors")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(rank: int = 4) -> tuple[LoRA, Tensor, Tensor]:
    """A LoRA of the one layer, with its halves."""
    down, up = random(rank, IN, seed=1) / 16, random(OUT, rank, seed=2)
    tensors = {"blocks.0.ffn.0.lora_A.weight": down, "blocks.0.ffn.0.lora_B.weight": up}
    return read_lora(weights(tensors, "lora.safetensors"), {NAME: (OUT, IN)}), down, up


class Reads:
    """Counts how often a tensor is read."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.count = tensor, 0

    def __call__(self) -> Tensor:
        self.count += 1
        return self.tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_in_full(dtype: torch.dtype) -> None:
    base = random(OUT, IN).to(dtype)
    before = base.clone()
    lora, down, up = plain()
    merged = merge(weights({NAME: base}), [(lora, 0.7)])
    tensor = merged.weights[NAME]
    assert (tensor.dtype, tensor.nbytes, tensor.shape) == (str(dtype).removeprefix("torch."), base.nbytes, (OUT, IN))
    assert torch.equal(tensor.read(), (base.float() + 0.7 * (up @ down)).to(dtype))
    assert torch.equal(base, before)  # the file's memory is not written to
    assert (merged.beside, merged.notes) == ({}, ())


def test_nothing_is_read_before_it_is_needed() -> None:
    reads = Reads(random(OUT, IN))
    other = Reads(random(3))
    lora, *_ = plain()
    model = {NAME: lazy(reads.tensor, read=reads), "other": lazy(other.tensor, read=other)}
    merged = merge(weights(model), [(lora, 1.0), (lora, 0.5)])
    assert (reads.count, other.count) == (0, 0)
    merged.weights[NAME].read()
    assert (reads.count, other.count) == (1, 0)


@pytest.mark.parametrize("scale", [None, torch.tensor(0.01), 0.01 + 0.01 * torch.rand(OUT, 1)])
@pytest.mark.parametrize("scale_first", [False, True])
def test_eight_bit_floats_are_packed_again_from_one_reading(scale: Tensor | None, scale_first: bool) -> None:
    base = random(OUT, IN)
    stored = (base / (1 if scale is None else scale)).to(torch.float8_e4m3fn)
    reads = Reads(stored)
    lora, down, up = plain()
    merged = merge(weights({NAME: lazy(stored, scale, read=reads)}), [(lora, 1.0)])
    tensor = merged.weights[NAME]
    assert (tensor.dtype, tensor.nbytes, tensor.shape) == ("float8_e4m3fn", OUT * IN, (OUT, IN))
    assert (tensor.scale is None) == (scale is None)
    if scale_first and tensor.scale is not None:
        tensor.scale.read()
    values = tensor.read().float()
    if tensor.scale is not None:
        written = tensor.scale.read()
        assert written.numel() == tensor.scale.size
        values = values * (written.reshape(-1, 1) if written.numel() > 1 else written)
    assert reads.count == 1
    want = stored.float() * (1 if scale is None else scale) + up @ down
    assert (values - want).abs().max() <= want.abs().max() / 16  # half a step of three bits of mantissa
    assert torch.allclose(values, want, rtol=1 / 15, atol=1e-2)
    assert merged.notes == ("1 weight of float8_e4m3fn: merged, and rounded to float8_e4m3fn again.",)
    assert merged.beside == {}


def block_weight(kind: str) -> LazyTensor:
    gguf = pytest.importorskip("gguf")
    number = gguf.GGMLQuantizationType[kind]
    if kind == "Q4_K":  # the package reads it only: any bytes with small scales will do
        packed = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (OUT, IN // 256 * 144), dtype=np.uint8))
        packed[:, 0:4] = torch.tensor([0, 20, 0, 20], dtype=torch.uint8)
    else:
        packed = torch.from_numpy(gguf.quants.quantize(random(OUT, IN).numpy(), number))
    return LazyTensor(shape=(OUT, IN), dtype=kind, nbytes=packed.nbytes, read=lambda: packed)


def test_blocks_that_can_be_written_are_packed_again() -> None:
    base = block_weight("Q8_0")
    lora, down, up = plain()
    merged = merge(weights({NAME: base}), [(lora, 1.0)])
    tensor = merged.weights[NAME]
    assert (tensor.dtype, tensor.nbytes) == ("Q8_0", base.nbytes)
    want = dequantize(base, torch.float32) + up @ down
    assert (dequantize(tensor, torch.float32) - want).abs().max() < want.abs().max() / 200
    assert "rounded to Q8_0 again" in merged.notes[0]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"ffn": nn.Sequential(nn.Linear(IN, OUT, bias=False))})])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0]["ffn"](x)  # type: ignore[index]


def test_blocks_that_cannot_be_written_keep_the_lora_beside_them() -> None:
    base = block_weight("Q4_K")
    lora, down, up = plain()
    merged = merge(weights({NAME: base}), [(lora, 0.5), (lora, 0.25)])
    assert merged.weights[NAME] is base
    assert [scale for _, _, scale in merged.beside[NAME]] == [0.5, 0.25]
    assert merged.notes == ("1 weight of Q4_K cannot be written back; the LoRA runs beside them.",)
    module = load_weights(Layer, merged.weights, dtype=torch.float32, beside=merged.beside)
    x = random(5, IN, seed=7)
    want = x @ (dequantize(base, torch.float32) + 0.75 * (up @ down)).T
    assert torch.allclose(module(x), want, atol=1e-3 * want.abs().max().item())


@pytest.mark.parametrize("reason", ["difference", "not beside", "no plain layer"])
def test_where_nothing_can_run_beside_the_weight_becomes_bfloat16(reason: str) -> None:
    base = block_weight("Q4_K")
    name = "time_projection.1.weight" if reason == "no plain layer" else NAME
    down, up = random(4, IN, seed=1) / 16, random(OUT, 4, seed=2)
    stem = name.removesuffix(".weight")
    halves = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    tensors = {f"{stem}.diff": up @ down} if reason == "difference" else halves
    lora = read_lora(weights(tensors, "lora.safetensors"), {name: (OUT, IN)})
    merged = merge(weights({name: base}), [(lora, 1.0)], beside_ok=reason != "not beside")
    tensor = merged.weights[name]
    assert (tensor.dtype, tensor.nbytes, tensor.scale, merged.beside) == ("bfloat16", 2 * OUT * IN, None, {})
    assert torch.equal(tensor.read(), (dequantize(base, torch.float32) + up @ down).bfloat16())
    assert "bfloat16 from now on" in merged.notes[0]


def test_halves_of_rows_beside_a_weight() -> None:
    """Diffusers' to_v is the lower half of a face block's keys and values: above, its branch is nothing."""
    base = block_weight("Q4_K")
    name = "face_adapter.fuser_blocks.0.linear1_kv.weight"
    down, up = random(2, IN, seed=1), random(OUT // 2, 2, seed=2)
    tensors = {"face_adapter.0.to_v.lora_A.weight": down, "face_adapter.0.to_v.lora_B.weight": up}
    lora = read_lora(weights(tensors, "lora.safetensors"), {name: (OUT, IN)})
    [(beside_down, beside_up, scale)] = merge(weights({name: base}), [(lora, 1.0)]).beside[name]
    assert scale == 1
    assert torch.equal(beside_up @ beside_down, torch.cat((torch.zeros(OUT // 2, IN), up @ down)))


def merged_values(tensors: Mapping[str, Tensor], base: Tensor, factor: float = 1.0, name: str = NAME) -> Tensor:
    lora = read_lora(weights(tensors, "lora.safetensors"), {name: tuple(base.shape)})
    assert lora.unmatched == ()
    return merge(weights({name: base}), [(lora, factor)]).weights[name].read()


@pytest.mark.parametrize("axis", ["rows", "rows of a column", "columns", "PEFT"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_dora(axis: str, factor: float) -> None:
    """Every row (or column) gets the length that the file says, whatever the product does to it."""
    base = random(OUT, IN)
    down, up = random(4, IN, seed=1), random(OUT, 4, seed=2)
    rows = axis != "columns"
    lengths = 1 + torch.rand(OUT if rows else IN)
    stored = {"rows": lengths, "rows of a column": lengths[:, None], "columns": lengths[None], "PEFT": lengths}[axis]
    key = "lora_magnitude_vector.weight" if axis == "PEFT" else "dora_scale"
    tensors = {"blocks.0.ffn.0.lora_A.weight": down, "blocks.0.ffn.0.lora_B.weight": up}
    tensors |= {"blocks.0.ffn.0.alpha": torch.tensor(2.0), f"blocks.0.ffn.0.{key}": stored}
    values = merged_values(tensors, base, factor)
    whole = base + 0.5 * (up @ down)
    norm = whole.norm(dim=1, keepdim=True) if rows else whole.norm(dim=0, keepdim=True)
    want = whole / norm * (lengths[:, None] if rows else lengths[None])
    assert torch.allclose(values, base + factor * (want - base), atol=1e-5)
    if factor == 1:
        assert torch.allclose(values.norm(dim=1 if rows else 0), lengths, atol=1e-4)


def test_two_doras_are_each_told_from_the_model() -> None:
    base = random(OUT, IN)
    down, up = random(4, IN, seed=1), random(OUT, 4, seed=2)
    keys = ("blocks.0.ffn.0.lora_A.weight", "blocks.0.ffn.0.lora_B.weight", "blocks.0.ffn.0.dora_scale")
    lora = read_lora(weights(dict(zip(keys, (down, up, torch.ones(OUT)), strict=True)), "l"), {NAME: (OUT, IN)})
    other, d2, u2 = plain()
    one_way = merge(weights({NAME: base}), [(lora, 1.0), (other, 1.0)]).weights[NAME].read()
    other_way = merge(weights({NAME: base}), [(other, 1.0), (lora, 1.0)]).weights[NAME].read()
    assert torch.allclose(one_way, other_way, atol=1e-5)
    whole = base + up @ down
    assert torch.allclose(one_way, whole / whole.norm(dim=1, keepdim=True) + u2 @ d2, atol=1e-5)


@pytest.mark.parametrize("full1", [True, False])
@pytest.mark.parametrize("full2", [True, False])
@pytest.mark.parametrize(("name", "shape"), [(NAME, (OUT, IN)), ("patch_embedding.weight", (8, 6, 1, 2, 2))])
def test_lokr(full1: bool, full2: bool, name: str, shape: tuple[int, ...]) -> None:
    """alpha / rank counts where a factor is of low rank; two full factors have no rank."""
    rank = 3
    stem = f"lycoris_{name.removesuffix('.weight').replace('.', '_')}"
    kernel = (shape[0] // 4, shape[1] // 2, *shape[2:])
    w1a, w1b, w2a = random(4, rank, seed=1), random(rank, 2, seed=2), random(kernel[0], rank, seed=3)
    w2b = random(rank, math.prod(kernel[1:]), seed=4)
    one, two = w1a @ w1b, (w2a @ w2b).reshape(kernel)
    tensors = {f"{stem}.alpha": torch.tensor(6.0)}
    tensors |= {f"{stem}.lokr_w1": one} if full1 else {f"{stem}.lokr_w1_a": w1a, f"{stem}.lokr_w1_b": w1b}
    tensors |= {f"{stem}.lokr_w2": two} if full2 else {f"{stem}.lokr_w2_a": w2a, f"{stem}.lokr_w2_b": w2b}
    base = random(*shape)
    scale = 1.0 if full1 and full2 else 2.0
    delta = torch.empty(shape)
    for i in range(4):
        for j in range(2):
            top, left = i * kernel[0], j * kernel[1]
            delta[top : top + kernel[0], left : left + kernel[1]] = one[i, j] * two
    assert torch.allclose(merged_values(tensors, base, name=name), base + scale * delta, atol=1e-5)


def test_loha() -> None:
    parts = {"hada_w1_a": random(OUT, 3, seed=1), "hada_w1_b": random(3, IN, seed=2)}
    parts |= {"hada_w2_a": random(OUT, 3, seed=3), "hada_w2_b": random(3, IN, seed=4)}
    tensors = {f"lora_unet_blocks_0_ffn_0.{part}": t for part, t in parts.items()}
    tensors["lora_unet_blocks_0_ffn_0.alpha"] = torch.tensor(1.5)
    base = random(OUT, IN)
    want = base + 0.5 * (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    assert torch.allclose(merged_values(tensors, base), want, atol=1e-5)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"other": torch.zeros(1)}, "blocks.0.ffn.0.weight is missing"),
        ({NAME: torch.zeros(OUT, 8)}, "is 64x8, not 64x256"),
        ({NAME: torch.zeros(OUT, IN, dtype=torch.int64)}, "stores as int64; that is no float"),
    ],
)
def test_another_model_than_the_lora_was_read_for(base: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=r"lora\.safetensors") as caught:
        merge(weights(base), [(plain()[0], 1.0)])
    assert said in str(caught.value)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_weights_are_finite(factor: float) -> None:
    with pytest.raises(ValueError, match="it must be a finite number"):
        merge(weights({NAME: torch.zeros(OUT, IN)}), [(plain()[0], factor)])


def test_values_that_are_not_finite_are_refused() -> None:
    lora, *_ = plain()
    base = torch.zeros(OUT, IN, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"values that float16 cannot hold"):
        merge(weights({NAME: base}), [(lora, 1e6)]).weights[NAME].read()
    broken = {"blocks.0.ffn.0.lora_A.weight": torch.full((1, IN), float("nan"))}
    broken["blocks.0.ffn.0.lora_B.weight"] = torch.ones(OUT, 1)
    lora = read_lora(weights(broken, "broken.safetensors"), {NAME: (OUT, IN)})
    with pytest.raises(ValueError, match=r"broken.safetensors gives blocks.0.ffn.0.weight values"):
        merge(weights({NAME: base}), [(lora, 1.0)]).weights[NAME].read()
    with pytest.raises(ValueError, match=r"broken.safetensors holds values"):
        merge(weights({NAME: block_weight("Q4_K")}), [(lora, 1.0)])


def test_files_are_fitted_to_each_expert(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    _, down, up = plain()
    keys = {"blocks.0.ffn.0.lora_A.weight": down, "blocks.0.ffn.0.lora_B.weight": up}
    names = ("style_high_noise.safetensors", "look.safetensors")
    for name in names:
        save_file({**keys, "lora_te_x.lora_A.weight": down.clone()}, tmp_path / name)
    model = weights({NAME: random(OUT, IN)})
    choices = [LoRAChoice(None, tmp_path / names[0], 0.5), LoRAChoice(None, tmp_path / names[1])]
    fitted, notes = fit_loras(choices, {"high": model, "low": model})
    assert [(lora.path.name, weight) for lora, weight in fitted["high"]] == [(names[0], 0.5), (names[1], 1.0)]
    assert [lora.path.name for lora, _ in fitted["low"]] == [names[1]]
    assert "goes to that one only" in notes[0]
    assert sum("changes 1 weights, 100% of the linear layers; 2 of its 3 keys" in note for note in notes) == 3
    assert sum("1 keys of" in note and "lora_te_x" in note for note in notes) == 3
    assert len(notes) == 7
