"""LoRA files as diffusers converts them: where its converters are right, our changes are the same.

PEFT is not needed: the change of a layer is B·A of the converted keys, whose alphas diffusers folds into them. The
folding rounds to float32, so that the comparison allows its last digits.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pasdedeux.checkpoints.lora import merge, read_lora
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.models.wan import WanConfig, WanTransformer

conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")

CONFIG = WanConfig(dim=24, ffn_dim=40, heads=2, layers=2, text_dim=16, freq_dim=8, image_dim=10, in_dim=6, out_dim=4)
Converted = Mapping[str, Tensor]


def held(tensors: Mapping[str, Tensor]) -> Weights:
    lazies = {
        name: LazyTensor(shape=tuple(t.shape), dtype=str(t.dtype)[6:], nbytes=t.nbytes, read=lambda t=t: t)
        for name, t in tensors.items()
    }
    return Weights(tensors=lazies, paths=(Path("lora.safetensors"),), container="safetensors")


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in WanTransformer(CONFIG).state_dict().items()}


def linear_layers(shapes: Mapping[str, tuple[int, ...]], *, blocks: bool) -> list[str]:
    """The linear layers inside the blocks, or those outside."""
    names = [name.removesuffix(".weight") for name, s in shapes.items() if len(s) == 2 and name.endswith(".weight")]
    return [name for name in names if name.startswith("blocks.") == blocks]


def lora_of(
    shapes: Mapping[str, tuple[int, ...]], layers: list[str], name: Callable[[str, str], str], alpha: float | None
) -> dict[str, Tensor]:
    """Halves for those layers, float32, and an alpha where one is given."""
    rng, tensors = torch.Generator().manual_seed(0), {}
    for i, layer in enumerate(layers):
        rank, (rows, columns) = 2 + i % 3, shapes[f"{layer}.weight"]
        tensors[name(layer, "down")] = torch.randn(rank, columns, generator=rng)
        tensors[name(layer, "up")] = torch.randn(rows, rank, generator=rng)
        if alpha is not None:
            tensors[name(layer, "alpha")] = torch.tensor(alpha)
    return tensors


def native(layer: str, part: str) -> str:
    return f"diffusion_model.{layer}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


def musubi(layer: str, part: str) -> str:
    ends = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
    return f"lora_unet_{layer.replace('.', '_')}.{ends[part]}"


def ours(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """What a model of zeros becomes."""
    lora = read_lora(held(tensors), shapes)
    assert lora.unmatched == ()
    zeros = held({name: torch.zeros(shape) for name, shape in shapes.items()})
    merged = merge(zeros, [(lora, 1.0)]).weights
    return {name: merged[name].read() for name in lora.changes}


def assert_same(mine: Mapping[str, Tensor], theirs: Converted, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Their converted keys, read as a file of diffusers, make the same changes, and each by its own product."""
    again = ours(theirs, shapes)
    assert set(again) == set(mine)
    products = [b @ theirs[key.replace("lora_B", "lora_A")] for key, b in theirs.items() if "lora_B.weight" in key]
    total = sum(product.double().abs().sum() for product in products)
    assert torch.isclose(total, sum(t.double().abs().sum() for name, t in mine.items() if "weight" in name))  # type: ignore[arg-type]
    largest = max(((mine[name] - again[name]).abs().max() / mine[name].abs().max()).item() for name in mine)
    assert largest < 1e-6, f"the largest relative difference is {largest:.1e}"


@pytest.mark.parametrize("alpha", [None, 1.0, 8.0])
@pytest.mark.parametrize("outside", [False, True])
def test_native_names(shapes: dict[str, tuple[int, ...]], alpha: float | None, outside: bool) -> None:
    """Of blocks with an alpha; outside of them diffusers reads none, so none is written."""
    tensors = lora_of(shapes, linear_layers(shapes, blocks=True), native, alpha)
    if outside:
        tensors |= lora_of(shapes, linear_layers(shapes, blocks=False), native, None)
    mine = ours(tensors, shapes)
    theirs = conversion._convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))
    assert_same(mine, theirs, shapes)


def test_some_layers_and_their_biases(shapes: dict[str, tuple[int, ...]]) -> None:
    layers = ["blocks.0.self_attn.q", "blocks.0.ffn.0", "blocks.1.cross_attn.o"]
    tensors = lora_of(shapes, layers, native, None)
    for layer in layers:
        tensors[f"diffusion_model.{layer}.diff_b"] = torch.randn(shapes[f"{layer}.bias"])
    theirs = conversion._convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))
    assert_same(ours(tensors, shapes), theirs, shapes)


@pytest.mark.parametrize("alpha", [1.0, 8.0])
def test_musubi(shapes: dict[str, tuple[int, ...]], alpha: float) -> None:
    tensors = lora_of(shapes, linear_layers(shapes, blocks=True), musubi, alpha)
    theirs = conversion._convert_musubi_wan_lora_to_diffusers(dict(tensors))
    assert_same(ours(tensors, shapes), theirs, shapes)


def test_what_diffusers_loses_is_kept(shapes: dict[str, tuple[int, ...]]) -> None:
    """Norms and modulation, which it drops; musubi's LoRAs of some layers and Fun's, on which it fails."""
    tensors = lora_of(shapes, ["blocks.0.self_attn.q"], native, None)
    extra = {"blocks.0.norm3.diff": "blocks.0.norm3.weight", "blocks.0.diff_m": "blocks.0.modulation"}
    tensors |= {f"diffusion_model.{key}": torch.ones(shapes[name]) for key, name in extra.items()}
    theirs = conversion._convert_non_diffusers_wan_lora_to_diffusers(dict(tensors))
    assert len(theirs) == 2
    assert set(ours(tensors, shapes)) == {"blocks.0.self_attn.q.weight", *extra.values()}
    some = lora_of(shapes, ["blocks.0.self_attn.q"], musubi, 4.0)
    with pytest.raises(KeyError):
        conversion._convert_musubi_wan_lora_to_diffusers(dict(some))
    assert set(ours(some, shapes)) == {"blocks.0.self_attn.q.weight"}
