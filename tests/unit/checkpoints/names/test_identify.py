"""Recognising models: released key lists against our modules name by name, families, and what is strange."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.load import on_meta
from pasdedeux.checkpoints.names.dialects import to_native
from pasdedeux.checkpoints.names.identify import (
    Hints,
    differences,
    family_of,
    hints_of,
    identify,
    nearest,
    recognise,
    shapes_of,
)
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.vae import WanVAE
from pasdedeux.models.wan import AnimateConfig, ControlConfig, VaceConfig, WanConfig, build_wan

Shapes = dict[str, tuple[int, ...]]
Listed = Callable[[str], Shapes]
COUNTS = {
    "wan2.2-t2v-a14b": 14_288_491_584,
    "wan2.2-i2v-a14b": 14_288_901_184,
    "wan2.2-ti2v-5b": 4_999_787_712,
    "wan2.2-animate-14b": 17_274_816_884,
}
TINY: dict[str, Any] = {"dim": 32, "ffn_dim": 48, "heads": 2, "layers": 4, "text_dim": 20, "freq_dim": 16}


@pytest.mark.parametrize("family", COUNTS)
def test_a_released_list_is_the_familys_and_our_modules(listed: Listed, family: str) -> None:
    shapes = listed(f"{family}.native")
    config = identify(shapes)
    assert config == FAMILIES[family].config
    assert family_of(config, experts=FAMILIES[family].experts) == FAMILIES[family]
    module = on_meta(lambda: build_wan(config))
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == shapes
    assert sum(p.numel() for p in module.parameters()) == COUNTS[family]
    kernels = [name for name in shapes if name.endswith(".kernel")]
    assert len(kernels) == (14 if family == "wan2.2-animate-14b" else 0)
    assert sum(map(prod, shapes.values())) == COUNTS[family] + 16 * len(kernels)


def test_vace_by_way_of_diffusers(listed: Listed, unreadable: Callable[[Shapes], Weights]) -> None:
    theirs = listed("wan-vace-14b.diffusers")
    native = to_native(unreadable(theirs))[0].shapes
    config = identify(native)
    assert config == VaceConfig()
    assert native == shapes_of(config)
    assert sum(map(prod, native.values())) == sum(map(prod, theirs.values())) == 17_337_592_896
    assert family_of(config, experts=2).name == "wan2.2-vace-fun-a14b"
    assert family_of(config, names=["Wan2.1-VACE-14B"]).name == "wan2.1-vace-14b"
    assert recognise(config).notes


def test_the_list_of_the_vae_is_our_modules(listed: Listed) -> None:
    module = on_meta(WanVAE)
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == listed("wan2.1-vae.native")
    assert sum(p.numel() for p in module.parameters()) == 126_892_531


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_known_by_its_shapes(family: str) -> None:
    config = FAMILIES[family].config
    assert identify(shapes_of(config)) == config
    assert nearest(shapes_of(config))[1] == differences(shapes_of(config), config)
    assert len(nearest(shapes_of(config))[1]) == 0


def test_the_two_generations_are_told_apart_by_what_is_said() -> None:
    config = WanConfig()
    alone = recognise(config)
    assert alone.family.name == "wan2.2-t2v-a14b"
    assert "wan2.1-t2v-14b" in alone.notes[0]
    assert "--family" in alone.notes[0]
    assert recognise(config, experts=2).family.name == "wan2.2-t2v-a14b"
    assert not recognise(config, experts=2).notes
    for name in (
        "Wan2.1-T2V-14B",
        "wan2.1_t2v_14B_fp16.safetensors",
        "Wan2_1-T2V-14B_fp8_e4m3fn.safetensors",
        "WAN 2.1",
    ):
        assert family_of(config, names=["home", name]).name == "wan2.1-t2v-14b"
    for name in (
        "Wan2.2-T2V-A14B",
        "Wan2_2-T2V-A14B_HIGH_fp8",
        "high_noise_model",
        "Wan2.2-T2V-A14B-LowNoise-Q8_0.gguf",
    ):
        assert family_of(config, names=["home", name]).name == "wan2.2-t2v-a14b"
        assert not recognise(config, names=["home", name]).notes
    assert family_of(config, names=["Wan2.2", "wan2.1_t2v.safetensors"]).name == "wan2.1-t2v-14b"  # the nearer name
    assert family_of(config, metadata={"general.name": "Wan2.1 T2V 14B"}).name == "wan2.1-t2v-14b"
    assert family_of(config, metadata={"wan.family": "wan2.1-t2v-14b"}).name == "wan2.1-t2v-14b"
    assert family_of(config, metadata={"wan.family": "nonsense"}).name == "wan2.2-t2v-a14b"


def test_small_models_are_of_the_family_of_their_kind() -> None:
    kinds = {
        "wan2.2-t2v-a14b": WanConfig(**TINY),
        "wan2.2-i2v-a14b": WanConfig(**TINY, in_dim=36),
        "wan2.1-i2v-14b": WanConfig(**TINY, in_dim=36, image_dim=12),
        "wan2.2-ti2v-5b": WanConfig(**TINY, in_dim=48, out_dim=48),
        "wan2.2-animate-14b": AnimateConfig(**TINY, image_dim=12, motion_channels=(4, 6, 8), face_every=2),
        "wan2.2-vace-fun-a14b": VaceConfig(**TINY, vace_layers=(0, 2)),
        "wan2.2-fun-a14b-control": ControlConfig(**TINY),
    }
    for name, config in kinds.items():
        found = recognise(identify(shapes_of(config), Hints(heads=2)))
        assert found.family.name == name
        assert found.family.config == config
        assert found.family.task == FAMILIES[name].task
        assert "not those of any released model" in found.notes[0]


def test_a_control_model_without_a_reference_is_one() -> None:
    config = ControlConfig(**TINY, ref_dim=None)
    assert identify(shapes_of(config), Hints(heads=2)) == config


def test_heads_are_read_off_a_face_block_or_told() -> None:
    shapes = shapes_of(AnimateConfig(**TINY, image_dim=12, motion_channels=(4, 6), face_every=2))
    assert identify(shapes).heads == 2
    with pytest.raises(ValueError, match="number of heads cannot be told from a width of 32"):
        identify(shapes_of(WanConfig(**TINY)))
    assert identify(shapes_of(WanConfig(**{**TINY, "dim": 256, "heads": 2}))).heads == 2
    assert hints_of({"num_heads": 5, "vace_layers": [0, 3]}) == Hints(heads=5, vace_layers=(0, 3))
    assert hints_of({"num_attention_heads": 7}) == Hints(heads=7)
    assert hints_of({"num_heads": "many", "vace_layers": [0, "x"]}) == Hints()


def test_uneven_vace_layers_must_be_told() -> None:
    shapes = shapes_of(VaceConfig(**{**TINY, "layers": 5}, vace_layers=(0, 1, 2, 4)))
    with pytest.raises(ValueError, match="4 VACE blocks cannot be spread evenly over 5 blocks"):
        identify(shapes, Hints(heads=2))
    config = identify(shapes, Hints(heads=2, vace_layers=(0, 1, 2, 4)))
    assert isinstance(config, VaceConfig)
    assert config.vace_layers == (0, 1, 2, 4)


def test_a_fault_is_named_with_the_nearest_family(listed: Listed) -> None:
    shapes = listed("wan2.2-i2v-a14b.native")
    del shapes["blocks.17.norm3.bias"]
    shapes["blocks.3.ffn.2.weight"] = (5120, 13823)
    shapes["blocks.3.extra.weight"] = (1,)
    with pytest.raises(ValueError, match="nearest to wan2") as caught:
        identify(shapes)
    for part in (
        "wan2.2-i2v-a14b, but lack blocks.17.norm3.bias",
        "unknown blocks.3.extra.weight",
        "(5120x13823, not 5120x13824)",
    ):
        assert part in str(caught.value)


def test_a_header_cannot_make_it_build_without_end() -> None:
    shapes = {**shapes_of(WanConfig(**TINY)), **{f"blocks.{i}.x": (1,) for i in range(9999)}}
    with pytest.raises(ValueError, match="9999 of blocks"):
        identify(shapes, Hints(heads=2))


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"conv1.weight": (3, 3)},
        {"patch_embedding.weight": ()},
        {"patch_embedding.weight": (0, 0, 0, 0, 0), "blocks.0.ffn.0.weight": (0, 0)},
    ],
)
def test_what_is_no_wan_model_is_refused(shapes: Shapes) -> None:
    with pytest.raises(ValueError, match="not the weights of a Wan model: they lack"):
        identify(shapes)


@given(
    name=st.sampled_from(sorted(shapes_of(AnimateConfig(**TINY, image_dim=12, motion_channels=(4, 6), face_every=2)))),
    shape=st.lists(st.integers(0, 2**62), max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_no_shape_makes_it_stumble(name: str, shape: list[int]) -> None:
    right = shapes_of(AnimateConfig(**TINY, image_dim=12, motion_channels=(4, 6), face_every=2))
    shapes = {**right, name: tuple(shape)}
    try:
        config = identify(shapes)
    except ValueError:
        return
    assert shapes_of(config) == shapes
