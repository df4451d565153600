"""Models found in every layout they come in, and what is said where something is missing, doubled or mixed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints import bundle as bundle_module
from pasdedeux.checkpoints.bundle import Bundle, find_bundle, make_bundle, open_expert
from pasdedeux.checkpoints.families import FAMILIES
from pasdedeux.checkpoints.names.dialects import from_native
from pasdedeux.checkpoints.names.swaps import KnownFile, verify_order
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan import AnimateConfig, ControlConfig, VaceConfig, WanConfig, build_wan

State = dict[str, Tensor]
Randomised = Callable[..., State]
SIZES: dict[str, Any] = {"dim": 128, "ffn_dim": 16, "heads": 1, "layers": 2, "text_dim": 8, "freq_dim": 8}
TEXT = WanConfig(**SIZES)
IMAGE = WanConfig(**SIZES, in_dim=36)
ANIMATE = AnimateConfig(
    **SIZES, image_dim=12, motion_channels=(4, 6), motion_style=6, motion_dim=3, face_dim=8, face_every=1
)
UMT5 = {
    "shared.weight": torch.zeros(4, 2),
    **{f"encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight": torch.zeros(3, 2) for i in range(2)},
}
T5 = {name: tensor for name, tensor in UMT5.items() if ".1." not in name}
T5["encoder.block.1.layer.0.SelfAttention.q.weight"] = torch.zeros(2, 2)
CLIP = {"vision_model.embeddings.class_embedding": torch.zeros(12)}
VAE = {"encoder.downsamples.0.residual.0.gamma": torch.zeros(2, 1, 1, 1), "conv2.weight": torch.zeros(16, 16, 1, 1, 1)}
NEWER_VAE = {"encoder.downsamples.0.downsamples.0.residual.0.gamma": torch.zeros(2, 1, 1, 1)}


@pytest.fixture(scope="module")
def states(randomised: Randomised) -> Callable[[WanConfig], State]:
    """A tiny model's weights, the same for the same config."""
    made: dict[WanConfig, State] = {}

    def make(config: WanConfig) -> State:
        if config not in made:
            made[config] = {name: tensor.contiguous() for name, tensor in randomised(build_wan(config)).items()}
        return made[config]

    return make


def store(path: Path, state: State, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata or None)
    return path


def store_shards(folder: Path, state: State, stem: str = "diffusion_pytorch_model") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    placed: dict[str, str] = {}
    for i in range(2):
        file = f"{stem}-0000{i + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in names[i::2]}, folder / file)
        placed |= dict.fromkeys(names[i::2], file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def store_around(folder: Path) -> None:
    """What a native release has beside its transformers; what is in there matters to nobody yet."""
    for name in (
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "models_clip_open-clip.pth",
        "relighting_lora.ckpt",
    ):
        (folder / name).write_bytes(b"")
    (folder / "google" / "umt5-xxl").mkdir(parents=True)


def names_of(bundle: Bundle) -> list[str]:
    return [expert.name for expert in bundle.experts]


def test_a_native_pair(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    for name in ("low_noise_model", "high_noise_model"):
        store_shards(tmp_path / name, states(TEXT))
        (tmp_path / name / "config.json").write_text(json.dumps({"num_heads": 4}))
    store_around(tmp_path)
    bundle = find_bundle(tmp_path)
    assert bundle.family == replace(FAMILIES["wan2.2-t2v-a14b"], config=replace(TEXT, heads=4))
    assert names_of(bundle) == ["high", "low"]
    assert [expert.path.name for expert in bundle.experts] == ["high_noise_model", "low_noise_model"]
    assert bundle.bounds == (0.875,)
    assert bundle.vae == tmp_path / "Wan2.1_VAE.pth"
    assert bundle.text == tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    assert bundle.tokenizer == tmp_path / "google" / "umt5-xxl"
    assert bundle.experts[0].dialect == "native"
    assert set(bundle.experts[0].weights) == set(states(TEXT))


def test_a_native_folder_of_one(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    store_shards(tmp_path, states(ANIMATE))
    store_around(tmp_path)
    bundle = find_bundle(tmp_path)
    assert bundle.family.name == "wan2.2-animate-14b"
    assert names_of(bundle) == ["model"]
    assert bundle.bounds == ()
    assert bundle.image == tmp_path / "models_clip_open-clip.pth"
    assert bundle.relight == tmp_path / "relighting_lora.ckpt"


@pytest.mark.parametrize(
    ("config", "family", "bound"),
    [
        (VaceConfig(**SIZES, vace_layers=(0, 1)), "wan2.2-vace-fun-a14b", 0.875),
        (ControlConfig(**SIZES), "wan2.2-fun-a14b-control", 0.9),
        (IMAGE, "wan2.2-i2v-a14b", 0.9),
    ],
)
def test_other_native_pairs(
    tmp_path: Path, states: Callable[[WanConfig], State], config: WanConfig, family: str, bound: float
) -> None:
    for name in ("low_noise_model", "high_noise_model"):
        store(tmp_path / name / "diffusion_pytorch_model.safetensors", states(config))
    bundle = find_bundle(tmp_path)
    assert bundle.family.name == family
    assert bundle.bounds == (bound,)
    assert bundle.vae is None


def test_one_of_two_native_folders(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    store(tmp_path / "low_noise_model" / "diffusion_pytorch_model.safetensors", states(TEXT))
    bundle = find_bundle(tmp_path)
    assert names_of(bundle) == ["low"]
    assert bundle.bounds == ()
    assert "Only the low-noise expert of wan2.2-t2v-a14b is here" in bundle.notes[-1]
    assert names_of(find_bundle(tmp_path / "low_noise_model")) == ["low"]


def as_diffusers(state: State, in_memory: Callable[[State], Weights]) -> State:
    theirs = from_native(in_memory(state), "diffusers")
    return {name: tensor.read().contiguous() for name, tensor in theirs.items()}


def test_a_pair_of_diffusers(
    tmp_path: Path, states: Callable[[WanConfig], State], in_memory: Callable[[State], Weights]
) -> None:
    theirs = as_diffusers(states(IMAGE), in_memory)
    store_shards(tmp_path / "transformer", theirs)
    store(tmp_path / "transformer_2" / "diffusion_pytorch_model.safetensors", theirs)
    for folder in ("transformer", "transformer_2"):
        (tmp_path / folder / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    for folder in ("vae", "text_encoder", "tokenizer"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"boundary_ratio": 0.8}))
    bundle = find_bundle(tmp_path)
    assert bundle.family.name == "wan2.2-i2v-a14b"
    assert bundle.family.config.heads == 2
    assert bundle.bounds == (0.8,)
    assert names_of(bundle) == ["high", "low"]
    assert [expert.dialect for expert in bundle.experts] == ["diffusers"] * 2
    assert bundle.experts[0].path.name == "transformer"
    assert set(bundle.experts[1].weights) == set(states(IMAGE))
    found = (bundle.vae, bundle.text, bundle.tokenizer, bundle.image)
    assert found == (tmp_path / "vae", tmp_path / "text_encoder", tmp_path / "tokenizer", None)
    (tmp_path / "model_index.json").write_text("{}")
    assert find_bundle(tmp_path).bounds == (0.9,)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="not whole JSON"):
        find_bundle(tmp_path)


def test_folders_of_comfyui(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    for expert in ("low", "high"):
        prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in states(TEXT).items()}
        store(tmp_path / "diffusion_models" / f"wan2.2_t2v_{expert}_noise_14B.safetensors", prefixed)
    store(tmp_path / "vae" / "wan2.2_vae.safetensors", NEWER_VAE)
    store(tmp_path / "vae" / "wan_2.1_vae.safetensors", VAE)
    store(tmp_path / "text_encoders" / "t5xxl.safetensors", T5)
    store(tmp_path / "text_encoders" / "umt5_xxl.safetensors", UMT5)
    store(tmp_path / "clip_vision" / "clip_vision_h.safetensors", CLIP)
    store(
        tmp_path / "loras" / "high_noise_lora.safetensors",
        {"diffusion_model.blocks.0.ffn.0.lora_A.weight": torch.zeros(2)},
    )
    (tmp_path / "vae" / "broken.safetensors").write_bytes(b"no weights")
    bundle = find_bundle(tmp_path)
    assert bundle.family.name == "wan2.2-t2v-a14b"
    assert names_of(bundle) == ["high", "low"]
    assert bundle.experts[0].path.name == "wan2.2_t2v_high_noise_14B.safetensors"
    assert bundle.experts[0].dialect == "comfyui"
    assert bundle.vae == tmp_path / "vae" / "wan_2.1_vae.safetensors"
    assert bundle.text == tmp_path / "text_encoders" / "umt5_xxl.safetensors"
    assert bundle.image is None  # the family has no use for it


def test_files_side_by_side(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    store(tmp_path / "animate.safetensors", states(ANIMATE))
    store(tmp_path / "a_clip.safetensors", {"vision_model.embeddings.class_embedding": torch.zeros(7)})
    store(tmp_path / "b_clip.safetensors", CLIP)
    for name in ("one.safetensors", "two.safetensors"):
        store(tmp_path / name, VAE)
    bundle = find_bundle(tmp_path)
    assert bundle.family.name == "wan2.2-animate-14b"
    assert bundle.image == tmp_path / "b_clip.safetensors"
    assert bundle.vae == tmp_path / "one.safetensors"
    assert "one.safetensors was taken over two.safetensors" in bundle.notes[-1]


def test_one_that_tells_is_enough_for_a_pair(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    store(tmp_path / "a.safetensors", states(TEXT))
    store(tmp_path / "b_high.safetensors", states(TEXT))
    assert [expert.path.name for expert in find_bundle(tmp_path).experts] == ["b_high.safetensors", "a.safetensors"]


def test_transformers_that_cannot_be_told_apart(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        store(tmp_path / name, states(TEXT))
    with pytest.raises(ValueError, match=r"2 Wan transformers \(a.safetensors, b.safetensors\).*--high and --low"):
        find_bundle(tmp_path)


def test_a_single_file(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    bundle = find_bundle(store(tmp_path / "wan2.1_t2v.safetensors", states(TEXT)))
    assert bundle.family.name == "wan2.1-t2v-14b"
    assert names_of(bundle) == ["model"]
    assert (bundle.vae, bundle.text, bundle.tokenizer, bundle.image) == (None,) * 4
    whole = {
        **{f"model.diffusion_model.{n}": t for n, t in states(TEXT).items()},
        **{f"vae.{n}": t for n, t in VAE.items()},
    }
    path = store(tmp_path / "whole_high_noise.safetensors", whole)
    bundle = find_bundle(path)
    assert bundle.vae == path
    assert names_of(bundle) == ["high"]


def test_the_family_can_be_said(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    path = store(tmp_path / "t2v.safetensors", states(TEXT))
    assert find_bundle(path).family.name == "wan2.2-t2v-a14b"
    assert find_bundle(path, family="wan2.1-t2v-14b").family.name == "wan2.1-t2v-14b"
    assert make_bundle(high=path, family="wan2.1-t2v-1.3b").notes == ()
    with pytest.raises(ValueError, match="text-to-video model, but that is an Animate model"):
        find_bundle(path, family="wan2.2-animate-14b")
    with pytest.raises(ValueError, match='"wan3" is not known'):
        find_bundle(path, family="wan3")


def test_files_given_one_by_one(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    high = store(tmp_path / "one_high_noise.safetensors", states(TEXT))
    low = store(tmp_path / "one_low_noise.safetensors", states(TEXT))
    vae = tmp_path / "vae.pth"
    bundle = make_bundle(high=high, low=low, vae=vae, bounds=(0.6,))
    assert (bundle.vae, bundle.bounds, names_of(bundle)) == (vae, (0.6,), ["high", "low"])
    assert names_of(make_bundle(low=low)) == ["low"]
    with pytest.raises(ValueError, match="wrong way round"):
        make_bundle(high=low, low=high)
    with pytest.raises(ValueError, match="both experts"):
        make_bundle(high=high, low=high)
    with pytest.raises(ValueError, match="at least one"):
        make_bundle(vae=vae)
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_bundle(high=high, low=low, bounds=(1.5,))
    with pytest.raises(ValueError, match="There is no"):
        make_bundle(high=tmp_path / "nothing")


def test_a_pair_must_be_alike(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    text = store(tmp_path / "text.safetensors", states(TEXT))
    image = store(tmp_path / "image.safetensors", states(IMAGE))
    with pytest.raises(
        ValueError, match="are no pair: they have the weights of a text-to-video model and of an image-to-video"
    ):
        make_bundle(high=text, low=image)
    animate = store(tmp_path / "animate.safetensors", states(ANIMATE))
    with pytest.raises(ValueError, match="text-to-video model and of an Animate model"):
        make_bundle(high=text, low=animate)


def test_a_second_animate_takes_over_where_it_is_said(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    high, low = (store(tmp_path / f"{name}.safetensors", states(ANIMATE)) for name in ("a_high", "a_low"))
    assumed = make_bundle(high=high, low=low)
    assert assumed.bounds == (0.9,)
    assert any("released as one expert" in note for note in assumed.notes)
    told = make_bundle(high=high, low=low, bounds=(0.8,))
    assert told.bounds == (0.8,)
    assert not any("released as one expert" in note for note in told.notes)


def test_heads_come_from_the_header_too(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    state = states(TEXT)
    assert open_expert(store(tmp_path / "a" / "a.safetensors", state, num_heads="4")).config.heads == 4
    config = json.dumps({"num_attention_heads": 2})
    assert open_expert(store(tmp_path / "b" / "b.safetensors", state, config=config)).config.heads == 2
    assert open_expert(store(tmp_path / "c" / "c.safetensors", state, config="mine")).config.heads == 1


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_where_there_is_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no weights|There is no model"):
        find_bundle(tmp_path / name)


def test_a_broken_model_says_why(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    state = {name: tensor for name, tensor in states(TEXT).items() if name != "blocks.1.norm3.bias"}
    path = store(tmp_path / "model.safetensors", state)
    with pytest.raises(ValueError, match=r"model.safetensors cannot be used.*blocks.1.norm3.bias"):
        find_bundle(path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "half.safetensors").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"no weights of a Wan transformer.*half.safetensors"):
        find_bundle(tmp_path / "sub")
    (tmp_path / "sub" / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="neither of the folders"):
        find_bundle(tmp_path / "sub")


def test_a_kind_that_is_no_family_is_refused_by_name(tmp_path: Path, states: Callable[[WanConfig], State]) -> None:
    path = store(tmp_path / "fun.safetensors", states(WanConfig(**SIZES, in_dim=48)))
    with pytest.raises(ValueError, match=r"fun.safetensors cannot be used.*a model of 48 input channels"):
        find_bundle(path)


def test_files_whose_names_tell_nothing_are_told_by_hash(
    tmp_path: Path, states: Callable[[WanConfig], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (store(tmp_path / name, states(TEXT)) for name in ("one.safetensors", "other.safetensors"))
    state = states(TEXT)
    state["head.head.bias"] = state["head.head.bias"] + 1
    store(tmp_path / "other.safetensors", state)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    known = KnownFile(sha256=digest, nbytes=other.stat().st_size, family="wan2.2-t2v-a14b", expert="low")
    monkeypatch.setattr(bundle_module, "verify_order", partial(verify_order, known=[known]))
    assert [expert.path for expert in make_bundle(high=one, low=other).experts] == [one, other]
    with pytest.raises(ValueError, match=r"wrong way round: .* by its hash"):
        make_bundle(high=other, low=one)
