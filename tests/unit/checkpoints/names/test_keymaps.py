"""The tables against the real lists of keys, both ways, and what they do with names that make no sense."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.checkpoints.names.keymaps import KeyMap, split, transformer_keys, vae_keys, vae_version

Shapes = dict[str, tuple[int, ...]]
Listed = Callable[[str], Shapes]
TRANSFORMERS = ("wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-animate-14b")


def translated(native: Shapes, keys: KeyMap) -> Shapes:
    """Native names and shapes as diffusers has them."""
    theirs: Shapes = {}
    for name, shape in native.items():
        stem, rest = split(name, keys.native) or ("", "")
        if stem in keys.kernels:
            continue
        if stem in keys.halved:
            theirs |= dict.fromkeys((half + rest for half in keys.halved[stem]), (shape[0] // 2, *shape[1:]))
        else:
            theirs[keys.renamed[stem] + rest] = (shape[1],) if stem in keys.flattened else shape
    return theirs


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_of_each_dialect_gives_one_table(listed: Listed, family: str) -> None:
    native, theirs = listed(f"{family}.native"), listed(f"{family}.diffusers")
    keys = transformer_keys(native)
    assert keys == transformer_keys(theirs)
    assert translated(native, keys) == theirs
    assert len(keys.kernels) == (14 if "animate" in family else 0)


def test_the_5b_and_vace_are_known_whole(listed: Listed) -> None:
    five, vace = listed("wan2.2-ti2v-5b.native"), listed("wan-vace-14b.diffusers")
    assert all(split(name, transformer_keys(five).native) for name in five)
    keys = transformer_keys(vace)
    assert all(split(name, keys.theirs) for name in vace)
    assert keys.back["vace_blocks.0.proj_in"] == "vace_blocks.0.before_proj"
    assert keys.back["vace_blocks.7.proj_out"] == "vace_blocks.7.after_proj"


def test_the_norms_are_swapped() -> None:
    keys = transformer_keys(["blocks.0.norm3.weight"])
    assert keys.renamed["blocks.0.norm3"] == "blocks.0.norm2"
    assert "blocks.0.norm3" not in keys.theirs
    assert "blocks.0.norm2" not in keys.native


def test_the_vae_of_each_dialect_gives_one_table(listed: Listed) -> None:
    native, theirs = listed("wan2.1-vae.native"), listed("wan2.1-vae.diffusers")
    assert vae_version(native) == vae_version(theirs) == "wan2.1"
    assert vae_keys(native) == vae_keys(theirs)
    assert translated(native, vae_keys(native)) == theirs


def test_the_newer_vae_comes_back_as_it_was(listed: Listed) -> None:
    native = listed("wan2.2-vae.native")
    theirs = translated(native, vae_keys(native))
    assert vae_version(native) == vae_version(theirs) == "wan2.2"
    assert vae_keys(theirs) == vae_keys(native)
    assert len(theirs) == 196
    assert theirs["decoder.up_blocks.0.upsampler.time_conv.weight"] == (2048, 1024, 3, 1, 1)
    assert theirs["encoder.down_blocks.3.resnets.1.conv2.weight"] == (640, 640, 3, 3, 3)


@pytest.mark.parametrize(
    "name",
    ["blocks.0.self_attn.q.lora_A", "blocks.0.self_attn.qkv.weight", "blocks.0", "weight", "blocks.x.norm3.weight"],
)
def test_strange_names_are_in_no_table(name: str) -> None:
    keys = transformer_keys([name, "blocks.0.self_attn.q.weight"])
    assert split(name, keys.native) is None
    assert split(name, keys.theirs) is None


def test_a_header_cannot_make_the_tables_long() -> None:
    names = [
        f"blocks.{10**30}.norm3.weight",
        f"vace_blocks.{10**30}.norm3.weight",
        f"motion_encoder.enc.fc.{10**30}.bias",
    ]
    assert len(transformer_keys(names).native) < 200
    vae = [f"decoder.upsamples.{i}.resample.1.weight" for i in range(3)] + [f"decoder.upsamples.{10**9}.conv1.weight"]
    assert len(vae_keys(vae).native) < 200
    assert len(vae_keys(["decoder.up_blocks.0.resnets.0.norm1.gamma"] * 3).native) < 200


@given(
    blocks=st.sets(st.integers(0, 60), max_size=4),
    vaces=st.sets(st.integers(0, 9), max_size=3),
    faces=st.sets(st.integers(0, 9), max_size=3),
    steps=st.integers(0, 4),
)
@settings(max_examples=50, deadline=None)
def test_no_two_native_stems_share_a_name(blocks: set[int], vaces: set[int], faces: set[int], steps: int) -> None:
    names = [f"blocks.{i}.norm3.weight" for i in blocks] + [f"vace_blocks.{i}.norm3.weight" for i in vaces]
    names += [f"face_adapter.{i}.to_q.weight" for i in faces]
    names += [f"motion_encoder.res_blocks.{i}.conv1.weight" for i in range(steps)]
    keys = transformer_keys(names)
    assert len(set(keys.renamed.values())) == len(keys.renamed)
    assert len(keys.theirs) == len(keys.renamed) + 2 * len(keys.halved)
    assert not keys.half_of.keys() & keys.back.keys()
