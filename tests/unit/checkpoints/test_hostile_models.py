"""Models whose files are whole but not right: names, shapes and types changed at random.

Each is refused in a sentence, or loads as the very model it was made from. Left out is what no reader can know: two
names of one shape exchanged.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints.bundle import open_expert
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.checkpoints.names.dialects import from_native
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan import WanConfig, build_wan

CONFIG = WanConfig(dim=128, ffn_dim=96, heads=1, layers=2, text_dim=24, freq_dim=32)
Tensors = dict[str, Tensor]
Mutation = Callable[[Tensors, random.Random], None]


def native() -> Tensors:
    torch.manual_seed(1)
    return {name: torch.randn_like(t) for name, t in build_wan(CONFIG).state_dict().items()}


def packed(tensors: Tensors) -> Tensors:
    """Linear weights of the blocks as ComfyUI packs them."""
    found: Tensors = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            found[name] = (tensor / scale).to(torch.float8_e4m3fn)
            found[name.removesuffix("weight") + "scale_weight"] = scale.reshape(1)
        else:
            found[name] = tensor
    return found


@pytest.fixture(scope="module")
def made(in_memory: Callable[[Mapping[str, Tensor]], Weights]) -> dict[str, Tensors]:
    """The same model in every naming, and packed."""
    plain = native()
    diffusers = from_native(in_memory(plain), "diffusers")
    return {
        "native": plain,
        "prefixed": {f"model.diffusion_model.{name}": t for name, t in plain.items()},
        "diffusers": {name: tensor.read() for name, tensor in diffusers.items()},
        "fp8_scaled": packed(plain),
    }


def renamed(tensors: Tensors, rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    k = rng.randrange(len(name))
    tensors[name[:k] + rng.choice("abkoqv.017_") + name[k + 1 :]] = tensors.pop(name)


def moved(tensors: Tensors, rng: random.Random) -> None:
    """Another block's number: it may take the place of a tensor that is there, or of none."""
    name = rng.choice([n for n in tensors if ".0." in n])
    tensors[name.replace(".0.", rng.choice((".1.", ".2.", ".-1.", ".00.")), 1)] = tensors.pop(name)


def dropped(tensors: Tensors, rng: random.Random) -> None:
    tensors.pop(rng.choice(sorted(tensors)))


def added(tensors: Tensors, rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    tensors[rng.choice(("extra.weight", f"{name}.lora_A.weight", f"blocks.0.{name}", f"{name}_b"))] = torch.ones(2)


def prefixed(tensors: Tensors, rng: random.Random) -> None:
    """A prefix on some of the names only."""
    for name in rng.sample(sorted(tensors), 3):
        tensors[f"diffusion_model.{name}"] = tensors.pop(name)


def reshaped(tensors: Tensors, rng: random.Random) -> None:
    name = rng.choice([n for n, t in tensors.items() if t.numel() > 1])
    t = tensors[name]
    changes = [t.flatten()[:-1], t[None], t.repeat(2, *(1 for _ in t.shape[1:])), t.flatten()[:0]]
    if t.ndim == 2 and t.shape[0] != t.shape[1]:
        changes.append(t.T.contiguous())
    tensors[name] = rng.choice(changes).contiguous()


def recast(tensors: Tensors, rng: random.Random) -> None:
    name = rng.choice([n for n, t in tensors.items() if t.dtype == torch.float32])
    tensors[name] = tensors[name].to(rng.choice((torch.int8, torch.int64, torch.bool, torch.complex64)))


def scaled(tensors: Tensors, rng: random.Random) -> None:
    """Scales that are lost, doubled, or of no use."""
    scales = [n for n in tensors if n.endswith("scale_weight")]
    if not scales:
        return renamed(tensors, rng)
    name = rng.choice(scales)
    what = rng.randrange(4)
    if what == 0:
        tensors[name] = torch.ones(3, 5)
    elif what == 1:
        tensors[name.replace("scale_weight", "weight_scale")] = tensors[name].clone()
    elif what == 2:
        tensors[name.replace("blocks.0", "blocks.7")] = tensors.pop(name)
    else:
        tensors[name] = torch.ones(2, dtype=torch.int32)
    return None


MUTATIONS: tuple[Mutation, ...] = (renamed, moved, dropped, added, prefixed, reshaped, recast, scaled)


def values(path: Path) -> Tensors:
    """What the network of a file holds, unpacked."""
    expert = open_expert(path)
    net = load_weights(lambda: build_wan(expert.config), expert.weights, dtype=torch.float32, packed=False)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def values_or_refusal(path: Path) -> Tensors | str:
    try:
        return values(path)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("form", ["native", "prefixed", "diffusers", "fp8_scaled"])
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_changed_model_is_refused_or_unchanged(
    made: dict[str, Tensors], tmp_path: Path, form: str, mutation: Mutation
) -> None:
    save_file(made[form], tmp_path / "whole.safetensors")
    wanted = values(tmp_path / "whole.safetensors")
    refused = 0
    for seed in range(10):
        tensors, rng = dict(made[form]), random.Random(f"{form} {mutation.__name__} {seed}")
        mutation(tensors, rng)
        path = tmp_path / f"{seed}.safetensors"
        save_file(tensors, path)
        found = values_or_refusal(path)
        if isinstance(found, str):
            refused += 1
            assert "\n" not in found
            assert len(found) < 700
            continue
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), (mutation.__name__, seed)
    assert refused > 0
