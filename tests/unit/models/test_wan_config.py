"""Every row of the model table has the tensors of the released checkpoint: names, shapes and counts."""

import functools
import hashlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pasdedeux.models.wan import (
    WAN_MODELS,
    AnimateConfig,
    ControlConfig,
    VaceConfig,
    WanAnimateTransformer,
    WanConfig,
    WanControlTransformer,
    WanTransformer,
    WanVaceTransformer,
)

Shapes = dict[str, tuple[int, ...]]

# name: tensors, values, sha256 of the sorted lines "name shape", all from the lists of the released models.
# Wan-Animate's values are 17,274,816,884 parameters and 14 blur kernels of 4x4.
FINGERPRINTS = {
    "wan2.2-t2v-a14b": (
        1095,
        14_288_491_584,
        "7ca52b13faf083dcb17dd2de5b34a0ec72db782ec816192b9c40543a40ae3186",
    ),
    "wan2.2-i2v-a14b": (
        1095,
        14_288_901_184,
        "9dc5a4e7268a050f3708609791596e50ae93d7324592636d21090c51cb71baec",
    ),
    "wan2.2-ti2v-5b": (
        825,
        4_999_787_712,
        "e6aa5b3ad491053717cbb3af607b9d9e6e22e91bb0ae32a0c41eaeccba85787b",
    ),
    "wan2.2-animate-14b": (
        1441,
        17_274_817_108,
        "16b8b5c2c70523c3d46ce1651da24847704816f05d8aff1ea5ee714190c3d05d",
    ),
}


# The digests by which DiffSynth-Studio recognises released files: md5 of all names, and all names with shapes.
PUBLISHED = {
    "wan2.1-t2v-1.3b": "9269f8db9040a9d860eaca435be61814",
    "wan2.1-t2v-14b": "aafcfd9672c3a2456dc46e1cb6e52c70",
    "wan2.1-i2v-14b": "6bfcfb3b342cb286ce886889d519a77e",
    "wan2.1-vace-1.3b": "a61453409b67cd3246cf0c3bebad47ba",
    "wan2.1-vace-14b": "7a513e1f257a861512b1afd387a8ecd9",
    "wan2.2-t2v-a14b": "aafcfd9672c3a2456dc46e1cb6e52c70",
    "wan2.2-i2v-a14b": "5b013604280dd715f8457c6ed6d6a626",
    "wan2.2-ti2v-5b": "1f5ab7703c6fc803fdded85ff040c316",
    "wan2.2-animate-14b": "31fa352acb8a1b1d33cd8764273d80a2",
    "wan2.2-vace-fun-a14b": "7a513e1f257a861512b1afd387a8ecd9",
    "wan2.2-fun-a14b-control": "2267d489f0ceb9f21836532952852ee5",
}


def build(config: WanConfig) -> nn.Module:
    if isinstance(config, AnimateConfig):
        return WanAnimateTransformer(config)
    if isinstance(config, VaceConfig):
        return WanVaceTransformer(config)
    return WanControlTransformer(config) if isinstance(config, ControlConfig) else WanTransformer(config)


@functools.cache
def shapes(name: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = build(WAN_MODELS[name])
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}


def fingerprint(table: dict[str, list[int]]) -> tuple[int, int, str]:
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in table.items()))
    values = sum(int(torch.tensor(shape).prod()) for shape in table.values())
    return len(table), values, hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_tensors_are_those_of_the_released_checkpoint(name: str) -> None:
    assert fingerprint(shapes(name)) == FINGERPRINTS[name]


def test_every_model_has_a_published_digest() -> None:
    assert PUBLISHED.keys() == WAN_MODELS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_give_the_published_digest(name: str) -> None:
    table = shapes(name)
    lines = [f"{key}:{'_'.join(map(str, shape))}" for key, shape in table.items()]
    assert hashlib.md5(",".join(sorted([*table, *lines])).encode()).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_names_and_shapes_against_the_full_list(name: str, listed: Callable[[str], Shapes]) -> None:
    assert {key: tuple(shape) for key, shape in shapes(name).items()} == listed(f"{name}.native")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("wan2.1-t2v-1.3b", 1_418_996_800),
        ("wan2.1-t2v-14b", 14_288_491_584),
        ("wan2.1-i2v-14b", 16_394_878_784),
        ("wan2.1-vace-1.3b", 2_153_972_032),
        ("wan2.1-vace-14b", 17_337_592_896),
        ("wan2.2-vace-fun-a14b", 17_337_592_896),
        ("wan2.2-fun-a14b-control", 14_289_561_664),
    ],
)
def test_sizes_of_the_others(name: str, values: int) -> None:
    assert fingerprint(shapes(name))[1] == values


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim 50 must be 4 heads"):
        WanConfig(dim=50, heads=4)


@given(layers=st.integers(1, 8), hints=st.lists(st.integers(-2, 9), max_size=6))
def test_vace_layers_begin_with_0_ascend_and_exist(layers: int, hints: list[int]) -> None:
    fit = hints[:1] == [0] and hints == sorted(set(hints)) and hints[-1] < layers
    if fit:
        assert VaceConfig(layers=layers, vace_layers=tuple(hints)).vace_layers == tuple(hints)
        return
    with pytest.raises(ValueError, match="must start with 0, ascend, and lie below"):
        VaceConfig(layers=layers, vace_layers=tuple(hints))


def test_vace_has_no_image_branch() -> None:
    with pytest.raises(ValueError, match="VACE has no CLIP branch; image_dim is 1280"):
        VaceConfig(image_dim=1280)
