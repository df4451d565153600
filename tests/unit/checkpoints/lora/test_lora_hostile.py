"""LoRA files gone wrong, by a few hundred seeded changes: refused in a sentence, or what is lost is listed.

Whatever is still accepted makes the changes that the whole file made, or leaves the weight as it was with the keys
that named it among the unmatched: never another change.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pasdedeux.checkpoints.lora import LoRA, merge, read_lora
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

D, F = 12, 20
LAYERS = [f"blocks.{i}.{name}" for i in range(2) for name in ("self_attn.q", "cross_attn.v", "ffn.0", "ffn.2")]
MODEL = {
    **{f"{layer}.weight": (F, D) if "ffn.0" in layer else (D, F) if "ffn.2" in layer else (D, D) for layer in LAYERS},
    **{f"{layer}.bias": (F,) if "ffn.0" in layer else (D,) for layer in LAYERS},
    **{f"blocks.{i}.norm3.weight": (D,) for i in range(2)},
    "patch_embedding.weight": (D, 4, 1, 2, 2),
    "patch_embedding.bias": (D,),
    "head.modulation": (1, 2, D),
}
File = dict[str, Tensor]


def whole_file(rng: torch.Generator) -> File:
    """Kohya's, ComfyUI's and diffusers' keys, with alphas and differences."""
    tensors: File = {}

    def pair(stem: str, layer: str, down: str, up: str) -> None:
        rows, *inner = MODEL[f"{layer}.weight"]
        tensors[f"{stem}.{down}.weight"] = torch.randn(3, *inner, generator=rng)
        tensors[f"{stem}.{up}.weight"] = torch.randn(rows, 3, generator=rng)

    for layer in LAYERS[:3]:
        stem = f"lora_unet_{layer.replace('.', '_')}"
        pair(stem, layer, "lora_down", "lora_up")
        tensors[f"{stem}.alpha"] = torch.tensor(1.5)
    for layer in (LAYERS[3], LAYERS[4], "patch_embedding"):
        pair(f"diffusion_model.{layer}", layer, "lora_A", "lora_B")
    pair("transformer.blocks.1.attn2.to_v", "blocks.1.cross_attn.v", "lora_A", "lora_B")
    tensors["diffusion_model.blocks.0.norm3.diff"] = torch.randn(D, generator=rng)
    tensors["diffusion_model.patch_embedding.diff_b"] = torch.randn(D, generator=rng)
    tensors["diffusion_model.head.modulation.diff"] = torch.randn(1, 2, D, generator=rng)
    return tensors


def held(tensors: Mapping[str, Tensor]) -> Weights:
    lazies = {
        name: LazyTensor(shape=tuple(t.shape), dtype=str(t.dtype)[6:], nbytes=t.nbytes, read=lambda t=t: t)
        for name, t in tensors.items()
    }
    return Weights(tensors=lazies, paths=(Path("lora.safetensors"),), container="safetensors")


def drop(file: File, key: str, _: random.Random) -> None:
    del file[key]


def scramble(file: File, key: str, rng: random.Random) -> None:
    place = rng.randrange(len(key))
    file[key[:place] + rng.choice("#zZ._9") + key[place + 1 :]] = file.pop(key)


def extend(file: File, key: str, rng: random.Random) -> None:
    file[rng.choice((f"x{key}", f"{key}.x", f"{key}2", f"lora_te_{key}"))] = file.pop(key)


def cut(file: File, key: str, rng: random.Random) -> None:
    if file[key].ndim:
        axis = rng.randrange(file[key].ndim)
        file[key] = file[key].narrow(axis, 0, rng.randrange(file[key].shape[axis]))


def widen(file: File, key: str, rng: random.Random) -> None:
    axis = rng.randrange(file[key].ndim) if file[key].ndim else 0
    file[key] = torch.cat((torch.atleast_1d(file[key]),) * 2, dim=axis)


def turn(file: File, key: str, _: random.Random) -> None:
    file[key] = file[key].T.contiguous() if file[key].ndim == 2 else file[key].reshape(-1, 1, 1)


def flatten(file: File, key: str, _: random.Random) -> None:
    file[key] = file[key].flatten()


def to_whole_numbers(file: File, key: str, rng: random.Random) -> None:
    kinds = (torch.bool,) if key.endswith("alpha") else (torch.int8, torch.int32, torch.bool)
    file[key] = file[key].to(rng.choice(kinds))


def poison(file: File, key: str, rng: random.Random) -> None:
    file[key] = torch.full_like(file[key], rng.choice((float("nan"), float("inf"), -float("inf"))))


def empty(file: File, key: str, _: random.Random) -> None:
    file[key] = file[key].new_zeros(0, *file[key].shape[1:])


def double(file: File, key: str, _: random.Random) -> None:
    file[key.replace("diffusion_model.", "model.diffusion_model.").replace("lora_unet_", "lora_unet__")] = file[key]


def swap(file: File, key: str, rng: random.Random) -> None:
    other = rng.choice([name for name in file if file[name].shape != file[key].shape])
    file[key], file[other] = file[other], file[key]


CHANGES: list[Callable[[File, str, random.Random], None]] = [
    *(drop, scramble, extend, cut, widen, turn, flatten, to_whole_numbers, poison, empty, double, swap),
]


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=rng).bfloat16() for name, shape in MODEL.items()}


@pytest.fixture(scope="module")
def file() -> File:
    return whole_file(torch.Generator().manual_seed(2))


def merged(model: Mapping[str, Tensor], lora: LoRA) -> dict[str, Tensor]:
    weights = merge(held(model), [(lora, 1.0)]).weights
    return {name: tensor.read() for name, tensor in weights.items()}


def test_the_whole_file(model: dict[str, Tensor], file: File) -> None:
    lora = read_lora(held(file), MODEL)
    assert lora.unmatched == ()
    assert len(lora.changes) == 10
    changed = merged(model, lora)
    assert {name for name in MODEL if not torch.equal(changed[name], model[name])} == set(lora.changes)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_broken_is_refused_or_listed(
    model: dict[str, Tensor], file: File, change: Callable[[File, str, random.Random], None]
) -> None:
    reference = merged(model, read_lora(held(file), MODEL))
    refusals: list[str] = []
    listed = 0
    for seed in range(30):
        rng = random.Random(f"{change.__name__} {seed}")
        broken = dict(file)
        change(broken, rng.choice(sorted(broken)), rng)
        try:
            lora = read_lora(held(broken), MODEL)
            changed = merged(model, lora)
        except ValueError as error:
            refusals.append(str(error))
            continue
        assert set(lora.matched) | set(lora.unmatched) == set(broken)
        assert not set(lora.matched) & set(lora.unmatched)
        lost = [name for name in MODEL if not torch.equal(changed[name], reference[name])]
        for name in lost:  # as the model has it, or with a sentence that says which layer lost its alpha
            layer = name.removesuffix(".weight")
            alpha = any(layer.replace(".", "_") in one for one in lora.without_alpha)
            assert alpha or torch.equal(changed[name], model[name]), (
                f"{change.__name__} {seed} changes {name} otherwise"
            )
            assert alpha == (name in lora.changes)
        assert bool(lora.unmatched or lora.without_alpha) >= (bool(lost) and change is not drop)
        listed += bool(lost)
    assert all(said.count("lora.safetensors") and "\n" not in said and said.endswith(".") for said in refusals)
    assert len(refusals) + listed >= 24
