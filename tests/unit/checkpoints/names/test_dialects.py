"""Every dialect to native names and back: real key lists unread, tiny models bit for bit, scales and blocks kept."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.dialects import from_native, to_native, vae_from_native, vae_to_native
from pasdedeux.checkpoints.names.identify import identify, shapes_of
from pasdedeux.checkpoints.names.pieces import concatenated, halves, reshaped
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.models.wan import (
    AnimateConfig,
    VaceConfig,
    WanAnimateTransformer,
    WanConfig,
    WanTransformer,
    WanVaceTransformer,
)

Shapes = dict[str, tuple[int, ...]]
Listed = Callable[[str], Shapes]
InMemory = Callable[[Mapping[str, Tensor]], Weights]
SIZES: dict[str, Any] = {"dim": 32, "ffn_dim": 48, "heads": 2, "layers": 3, "text_dim": 20, "freq_dim": 16}
ANIMATE = AnimateConfig(
    **SIZES,
    image_dim=12,
    motion_channels=(4, 6, 8),
    motion_style=10,
    motion_dim=5,
    face_dim=8,
    face_heads=2,
    face_every=2,
)
KV = "face_adapter.fuser_blocks.0.linear1_kv.weight"
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "module.", "module.model.")


@pytest.fixture(scope="module")
def animate(randomised: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    """A tiny Animate in native names."""
    return randomised(WanAnimateTransformer(ANIMATE))


def values(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor.read() for name, tensor in weights.items()}


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """The same names and bits, whatever the order."""
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def assert_whole(weights: Weights) -> None:
    """What is said of every tensor is what is read."""
    for name, tensor in weights.items():
        value = tensor.read()
        assert tuple(value.shape) == tensor.shape, name
        assert str(value.dtype) == f"torch.{tensor.dtype}", name
        assert value.nbytes == tensor.nbytes, name


@pytest.mark.parametrize("family", ["wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-animate-14b"])
def test_lists_of_diffusers_become_native_unread(
    listed: Listed, unreadable: Callable[[Shapes], Weights], family: str
) -> None:
    native, dialect = to_native(unreadable(listed(f"{family}.diffusers")))
    assert dialect == "diffusers"
    assert native.shapes == listed(f"{family}.native")
    assert to_native(native)[1] == "native"


def test_the_vae_of_diffusers_becomes_native_unread(listed: Listed, unreadable: Callable[[Shapes], Weights]) -> None:
    native, dialect = vae_to_native(unreadable(listed("wan2.1-vae.diffusers")))
    assert dialect == "diffusers"
    assert native.shapes == listed("wan2.1-vae.native")
    newer = unreadable(listed("wan2.2-vae.native"))
    theirs = vae_from_native(newer, "diffusers")
    assert vae_to_native(newer)[1] == "native"
    assert vae_to_native(theirs)[0].shapes == newer.shapes
    assert not set(theirs) & set(newer)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_come_off(animate: dict[str, Tensor], in_memory: InMemory, prefix: str) -> None:
    native, dialect = to_native(in_memory({prefix + name: tensor for name, tensor in animate.items()}))
    assert dialect == "comfyui"
    assert_equal(values(native), animate)


def test_other_models_of_a_pipeline_stay_out(animate: dict[str, Tensor], in_memory: InMemory, listed: Listed) -> None:
    vae = {f"vae.{name}": torch.zeros(1) for name in listed("wan2.1-vae.native")}
    text = {
        "text_encoders.umt5xxl.transformer.shared.weight": torch.zeros(1),
        "text_encoders.umt5xxl.scaled_fp8": torch.zeros(1),
    }
    file = in_memory({**{f"model.diffusion_model.{name}": t for name, t in animate.items()}, **vae, **text})
    assert_equal(values(to_native(file)[0]), animate)
    assert set(vae_to_native(file)[0]) == {name.removeprefix("vae.") for name in vae}


def test_animate_goes_to_diffusers_and_back(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    theirs = from_native(in_memory(animate), "diffusers")
    assert_whole(theirs)
    assert theirs.shapes["motion_encoder.res_blocks.1.conv2.act_fn.bias"] == (8,)
    assert not any("kernel" in name for name in theirs)
    back, dialect = to_native(theirs)
    assert dialect == "diffusers"
    assert_whole(back)
    assert_equal(values(back), animate)


def test_a_native_file_without_its_constants_is_given_them(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    bare = {name: tensor for name, tensor in animate.items() if not name.endswith(".kernel")}
    assert len(bare) == len(animate) - 4
    assert_equal(values(to_native(in_memory(bare))[0]), animate)


def test_a_strange_constant_is_not_dropped(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    name = next(name for name in animate if name.endswith(".kernel"))
    with pytest.raises(ValueError, match="no place for it"):
        from_native(in_memory({**animate, name: animate[name] * 2}), "diffusers")


def test_vace_goes_to_diffusers_and_back(randomised: Callable[..., dict[str, Tensor]], in_memory: InMemory) -> None:
    state = randomised(WanVaceTransformer(VaceConfig(**SIZES, vace_layers=(0, 2))))
    theirs = from_native(in_memory(state), "diffusers")
    assert {"vace_blocks.0.proj_in.weight", "vace_blocks.1.proj_out.bias", "vace_patch_embedding.bias"} <= set(theirs)
    assert_equal(values(to_native(theirs)[0]), state)


def test_comfyui_names_are_native(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    assert_equal(values(from_native(in_memory(animate), "comfyui")), animate)
    with pytest.raises(ValueError, match="native, comfyui, diffusers"):
        from_native(in_memory(animate), "kohya")
    with pytest.raises(ValueError, match="no native names"):
        from_native(in_memory({"blocks.0.attn1.to_q.weight": torch.zeros(2, 2)}), "diffusers")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("control_adapter.conv.weight", "camera-control"),
        ("casual_audio_encoder.weights", "S2V"),
        ("img_emb.emb_pos", "FLF2V"),
        ("blocks.0.self_attn.q.lora_A.weight", "LoRA"),
        ("blocks.0.self_attn.qkv.weight", r"no Wan model.*: blocks.0.self_attn.qkv.weight\."),
        ("blocks.0.attn1.to_q.weight", "mixes layouts"),
    ],
)
def test_strange_names_are_said(animate: dict[str, Tensor], in_memory: InMemory, extra: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_native(in_memory({**animate, extra: torch.zeros(2)}))


def test_nothing_and_half_a_prefix_are_refused(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    with pytest.raises(ValueError, match="no weights"):
        to_native(in_memory({}))
    mixed = {f"diffusion_model.{name}": tensor for name, tensor in animate.items()}
    with pytest.raises(ValueError, match="lack the prefix"):
        to_native(in_memory({**mixed, "blocks.0.norm3.weight": torch.zeros(2)}))


def test_half_a_projection_is_refused(animate: dict[str, Tensor], in_memory: InMemory) -> None:
    theirs = dict(from_native(in_memory(animate), "diffusers"))
    del theirs["face_adapter.1.to_v.bias"]
    with pytest.raises(ValueError, match="only one half of face_adapter"):
        to_native(in_memory({}).with_tensors(theirs))
    theirs["face_adapter.1.to_v.bias"] = LazyTensor(shape=(), dtype="float32", nbytes=4, read=lambda: torch.zeros(()))
    with pytest.raises(ValueError, match="not equally long"):
        to_native(in_memory({}).with_tensors(theirs))


def scaled(state: Mapping[str, Tensor], per_row: bool) -> dict[str, Tensor]:
    """As ComfyUI stores 8-bit floats: every matrix of a block in e4m3 beside its scale, and a marker."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in state.items():
        if tensor.ndim != 2 or "blocks" not in name:
            stored[name] = tensor
            continue
        scale = tensor.abs().amax(dim=1, keepdim=True) / 448 if per_row else tensor.abs().max() / 448
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix("weight") + "scale_weight"] = scale
    return stored


@pytest.mark.parametrize("per_row", [False, True], ids=["one scale", "a scale per row"])
def test_eight_bit_weights_keep_their_bytes_and_scales(
    animate: dict[str, Tensor], tmp_path: Path, per_row: bool
) -> None:
    save_file(scaled(animate, per_row), tmp_path / "fp8.safetensors")
    native, dialect = to_native(open_weights(tmp_path / "fp8.safetensors"))
    assert dialect == "comfyui"
    assert native.shapes == {name: tuple(tensor.shape) for name, tensor in animate.items()}
    theirs = from_native(native, "diffusers")
    for half, rows in (("to_k", slice(0, 32)), ("to_v", slice(32, 64))):
        found = theirs[f"face_adapter.0.{half}.weight"]
        assert found.dtype == "float8_e4m3fn"
        assert torch.equal(dequantize(found, torch.float32), dequantize(native[KV], torch.float32)[rows])
    back, _ = to_native(theirs)
    for name, tensor in native.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name].read().view(torch.uint8), tensor.read().view(torch.uint8)), name
        assert (back[name].scale is None) == (tensor.scale is None)
        if tensor.scale is not None:
            assert back[name].scale.size == tensor.scale.size  # pyright: ignore[reportOptionalMemberAccess]
            assert torch.equal(dequantize(back[name], torch.float32), dequantize(tensor, torch.float32)), name


def test_halves_with_scales_of_their_own_get_one_for_every_row(in_memory: InMemory) -> None:
    torch.manual_seed(1)
    halves_ = {f"face_adapter.0.{half}.weight": torch.randn(8, 6) * size for half, size in (("to_k", 1), ("to_v", 9))}
    stored = scaled({name.replace("face_adapter", "blocks"): t for name, t in halves_.items()}, per_row=False)
    file = in_memory({name.replace("blocks", "face_adapter"): tensor for name, tensor in stored.items()})
    native, dialect = to_native(file)
    joined = native[KV]
    assert dialect == "diffusers"
    assert joined.dtype == "float8_e4m3fn"
    assert joined.scale is not None
    assert joined.scale.shape == (16, 1)
    wanted = torch.cat(list(halves_.values()))
    assert (dequantize(joined, torch.float32) - wanted).abs().max() <= wanted.abs().max() / 16
    assert torch.equal(
        dequantize(joined, torch.float32),
        torch.cat([file[n].read().float() * file[n[:-6] + "scale_weight"].read() for n in halves_]),
    )


def test_blocks_are_cut_by_rows() -> None:
    gguf = pytest.importorskip("gguf")
    values_ = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    packed = torch.from_numpy(gguf.quantize(values_.numpy(), gguf.GGMLQuantizationType.Q8_0))
    tensor = LazyTensor(shape=(8, 64), dtype="Q8_0", nbytes=packed.nbytes, read=lambda: packed)
    upper, lower = halves("linear1_kv", tensor)
    assert (upper.dtype, upper.shape, upper.nbytes) == ("Q8_0", (4, 64), packed.nbytes // 2)
    assert torch.equal(dequantize(lower, torch.float32), dequantize(tensor, torch.float32)[4:])
    whole = concatenated(upper, lower)
    assert (whole.dtype, whole.nbytes) == ("Q8_0", packed.nbytes)
    assert torch.equal(whole.read(), packed)
    mixed = concatenated(upper, LazyTensor(shape=(4, 64), dtype="float16", nbytes=512, read=lambda: values_[4:].half()))
    assert mixed.dtype == "float32"
    assert torch.equal(mixed.read(), torch.cat((dequantize(upper, torch.float32), values_[4:].half().float())))
    assert reshaped(tensor, (512,)).dtype == "float32"


def test_shards_go_every_way(animate: dict[str, Tensor], in_memory: InMemory, tmp_path: Path) -> None:
    theirs = values(from_native(in_memory(animate), "diffusers"))
    names = sorted(theirs)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, inside in shards.items():
        save_file({name: theirs[name].contiguous() for name in inside}, tmp_path / file)
    placed = {name: file for file, inside in shards.items() for name in inside}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    native, dialect = to_native(open_weights(tmp_path))
    assert dialect == "diffusers"
    assert_equal(values(native), animate)
    assert_equal(values(from_native(native, "diffusers")), theirs)


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from(["float32", "bfloat16", "float8_e4m3fn"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_halves_joined_are_the_whole(pairs: int, width: int, dtype: str, per_row: bool) -> None:
    value = torch.randn(2 * pairs, width).to(getattr(torch, dtype))
    scale = torch.rand(2 * pairs, 1) if per_row else torch.rand(1)

    def lazy(t: Tensor, scale: LazyTensor | None = None) -> LazyTensor:
        kind = str(t.dtype).removeprefix("torch.")
        return LazyTensor(shape=tuple(t.shape), dtype=kind, nbytes=t.nbytes, read=lambda: t, scale=scale)

    tensor = lazy(value, lazy(scale) if dtype.startswith("float8") else None)
    whole = concatenated(*halves("a", tensor))
    assert (whole.shape, whole.dtype, whole.nbytes) == (tensor.shape, tensor.dtype, tensor.nbytes)
    assert torch.equal(whole.read().float(), value.float())
    if tensor.scale is not None:
        assert torch.equal(dequantize(whole, torch.float32), dequantize(tensor, torch.float32))


def test_a_text_model_needs_no_change(randomised: Callable[..., dict[str, Tensor]], in_memory: InMemory) -> None:
    state = randomised(WanTransformer(WanConfig(**SIZES)))
    file = in_memory(state)
    native, dialect = to_native(file)
    assert dialect == "native"
    assert all(native[name] is file[name] for name in state)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_name_or_shape_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    """Names mangled and shapes exchanged, in either dialect: never another error, never other shapes than before."""
    right = shapes_of(ANIMATE)
    weights = stand_in(right)
    if data.draw(st.booleans(), label="diffusers"):
        weights = from_native(weights, "diffusers")
    names = sorted(weights)
    changed = dict(weights)
    name = data.draw(st.sampled_from(names))
    tensor = changed.pop(name)
    match data.draw(st.sampled_from(["rename", "reshape", "drop", "prefix", "swap"])):
        case "rename":
            position, letter = data.draw(st.integers(0, len(name) - 1)), data.draw(st.sampled_from("0129._aqk"))
            changed[name[:position] + letter + name[position + 1 :]] = tensor
        case "reshape":
            shape = tuple(data.draw(st.lists(st.integers(0, 2**40), max_size=5)))
            changed[name] = replace(tensor, shape=shape)
        case "prefix":
            changed[f"model.diffusion_model.{name}"] = tensor
        case "swap":
            other = data.draw(st.sampled_from(names))
            changed[other] = tensor
        case _:
            pass
    try:
        native, _ = to_native(weights.with_tensors(changed))
        config = identify(native.shapes)
    except ValueError:
        return
    assert config == ANIMATE
    assert native.shapes == right


def stand_in(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights of these shapes; only the constants are ever read."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    tensors = {
        n: LazyTensor(shape=s, dtype="float32", nbytes=64, read=lambda: taps.outer(taps) / 64)
        for n, s in shapes.items()
    }
    return Weights(tensors=tensors, paths=(Path("model.safetensors"),), container="safetensors")
