"""Every dialect of LoRA file over a tiny Wan-Animate: merged weights are W + s·B·A computed apart, rounded once."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.lora import LoRA, config_beside, merge, read_lora
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.models.wan import AnimateConfig, WanAnimateTransformer, WanConfig, WanTransformer

CONFIG = AnimateConfig(
    dim=24,
    ffn_dim=40,
    heads=2,
    layers=2,
    text_dim=16,
    freq_dim=8,
    image_dim=10,
    in_dim=6,
    out_dim=4,
    pose_dim=4,
    motion_channels=(4, 6),
    motion_style=8,
    motion_dim=3,
    face_dim=8,
    face_heads=2,
    face_every=1,
)
LINEAR = {  # the model's name of a layer, and that of diffusers
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.0.self_attn.k": "blocks.0.attn1.to_k",
    "blocks.1.self_attn.v": "blocks.1.attn1.to_v",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.0.cross_attn.q": "blocks.0.attn2.to_q",
    "blocks.0.cross_attn.k": "blocks.0.attn2.to_k",
    "blocks.1.cross_attn.v": "blocks.1.attn2.to_v",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.0.cross_attn.k_img": "blocks.0.attn2.add_k_proj",
    "blocks.0.cross_attn.v_img": "blocks.0.attn2.add_v_proj",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "head.head": "proj_out",
    "patch_embedding": "patch_embedding",
    "pose_patch_embedding": "pose_patch_embedding",
    "face_adapter.fuser_blocks.1.linear1_q": "face_adapter.1.to_q",
    "face_adapter.fuser_blocks.1.linear2": "face_adapter.1.to_out",
    "face_encoder.conv1_local.conv": "face_encoder.conv1_local",
    "face_encoder.out_proj": "face_encoder.out_proj",
    "motion_encoder.enc.fc.0": "motion_encoder.motion_network.0",
    "motion_encoder.enc.net_app.convs.1.conv2.1": "motion_encoder.res_blocks.0.conv2",
    "motion_encoder.enc.net_app.convs.0.0": "motion_encoder.conv_in",
}


def native(layer: str) -> str:
    return layer


def diffusers(layer: str) -> str:
    return LINEAR[layer]


def kohya(layer: str) -> str:
    return layer.replace(".", "_")


# Prefix, name of a layer, what follows for down and up, and the word for the dialect.
DIALECTS: dict[str, tuple[str, Callable[[str], str], str, str, str]] = {
    "kohya": ("lora_unet_", kohya, "lora_down.weight", "lora_up.weight", "kohya"),
    "fun": ("lora_unet__", kohya, "lora_down.weight", "lora_up.weight", "Fun"),
    "kohya of diffusers": ("lora_unet_", lambda n: kohya(LINEAR[n]), "lora_down.weight", "lora_up.weight", "kohya"),
    "comfyui": ("diffusion_model.", native, "lora_A.weight", "lora_B.weight", "ComfyUI"),
    "comfyui down": ("diffusion_model.", native, "lora_down.weight", "lora_up.weight", "ComfyUI"),
    "bare": ("", native, "lora_A.weight", "lora_B.weight", "ComfyUI"),
    "diffusers": ("transformer.", diffusers, "lora_A.weight", "lora_B.weight", "diffusers"),
    "diffusers low": ("transformer_2.", diffusers, "lora_A.weight", "lora_B.weight", "diffusers"),
    "old diffusers": ("transformer.", diffusers, "lora.down.weight", "lora.up.weight", "diffusers"),
    "peft": ("base_model.model.", native, "lora_A.weight", "lora_B.weight", "PEFT"),
    "diffsynth": ("pipe.dit.", native, "lora_A.default.weight", "lora_B.default.weight", "DiffSynth"),
    "relighting": ("", native, "lora_A.default.weight", "lora_B.default.weight", "DiffSynth"),
}


def values_of(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random bfloat16 values of those shapes."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng).to(torch.bfloat16) for name, shape in shapes.items()}


def held(tensors: Mapping[str, Tensor], path: str = "model.safetensors") -> Weights:
    """Tensors in memory, as a file's."""

    def lazy(t: Tensor) -> LazyTensor:
        return LazyTensor(
            shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."), nbytes=t.nbytes, read=lambda: t
        )

    lazies = {name: lazy(tensor) for name, tensor in tensors.items()}
    return Weights(tensors=lazies, paths=(Path(path),), container="safetensors")


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    with torch.device("meta"):
        state = WanAnimateTransformer(CONFIG).state_dict()
    return values_of({name: tuple(t.shape) for name, t in state.items()})


@pytest.fixture(scope="module")
def shapes(model: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.items()}


def halves(shape: tuple[int, ...], rank: int, seed: int, flat: bool = False) -> tuple[Tensor, Tensor]:
    """Down and up of a weight of that shape; convolutions' in their own shape, or flat."""
    rng = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *shape[1:], generator=rng)
    up = torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=rng)
    down, up = (down.flatten(1), up.flatten(1)) if flat else (down, up)
    return down.to(torch.bfloat16), up.to(torch.bfloat16)


def expected(weight: Tensor, pairs: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """W + the sum of s·B·A, in float32, rounded once."""
    total = weight.float()
    for down, up, scale in pairs:
        total = total + (scale * (up.float().flatten(1) @ down.float().flatten(1))).reshape(weight.shape)
    return total.to(weight.dtype)


def read(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], **more: object) -> LoRA:
    """Through a file on disk."""
    metadata = {k: str(v) for k, v in more.items() if k not in ("config", "expert")}
    save_file(
        {key: t.clone().contiguous() for key, t in tensors.items()},
        path,
        metadata={k.replace("__", "."): v for k, v in metadata.items()},
    )
    options = {k: v for k, v in more.items() if k in ("config", "expert")}
    return read_lora(open_weights(path), shapes, **options)  # type: ignore[arg-type]


def assert_merged(model: dict[str, Tensor], lora: LoRA, want: Mapping[str, Tensor], factor: float = 1.0) -> None:
    """Exactly those weights change, to exactly those values."""
    merged = merge(held(model), [(lora, factor)])
    assert not merged.beside
    assert set(lora.changes) == set(want)
    for name, before in model.items():
        after = merged.weights[name]
        assert (after.shape, after.dtype, after.nbytes) == (tuple(before.shape), "bfloat16", before.nbytes)
        values = after.read()
        assert values.dtype == torch.bfloat16
        assert torch.equal(values, want.get(name, before)), name
    assert all(not torch.equal(want[name], model[name]) for name in want)


@pytest.mark.parametrize("alpha", [None, 2.0, 6.0])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_layer_of_every_dialect(
    tmp_path: Path, model: dict[str, Tensor], dialect: str, alpha: float | None, shapes: dict[str, tuple[int, ...]]
) -> None:
    prefix, name, down_key, up_key, word = DIALECTS[dialect]
    tensors, want = {}, {}
    for i, layer in enumerate(LINEAR):
        rank = 2 + i % 3
        weight = model[f"{layer}.weight"]
        down, up = halves(tuple(weight.shape), rank, i, flat=i % 2 == 0)
        stem = prefix + name(layer)
        tensors |= {f"{stem}.{down_key}": down, f"{stem}.{up_key}": up}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        want[f"{layer}.weight"] = expected(weight, [(down, up, 1.0 if alpha is None else alpha / rank)])
    lora = read(tmp_path / "a.safetensors", tensors, shapes)
    assert lora.dialects == (word,)
    assert (lora.unmatched, set(lora.matched)) == ((), set(tensors))
    assert (lora.ranks, lora.alphas) == ((2, 4), alpha is not None)
    assert lora.expert == ("low" if dialect == "diffusers low" else None)
    assert_merged(model, lora, want)


@pytest.mark.parametrize("factor", [-0.75, 0.3, 2.0])
def test_the_weight_multiplies_and_loras_add_up(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], factor: float
) -> None:
    name = "blocks.0.ffn.2.weight"
    (d1, u1), (d2, u2) = (halves(shapes[name], rank, rank) for rank in (2, 3))
    one = read(
        tmp_path / "1.safetensors", {"blocks.0.ffn.2.lora_A.weight": d1, "blocks.0.ffn.2.lora_B.weight": u1}, shapes
    )
    keys = {"lora_unet_blocks_0_ffn_2.lora_down.weight": d2, "lora_unet_blocks_0_ffn_2.lora_up.weight": u2}
    two = read(tmp_path / "2.safetensors", keys | {"lora_unet_blocks_0_ffn_2.alpha": torch.tensor(1.0)}, shapes)
    merged = merge(held(model), [(one, factor), (two, 0.5)])
    want = expected(model[name], [(d1, u1, factor), (d2, u2, 0.5 * 1 / 3)])
    assert torch.equal(merged.weights[name].read(), want)
    only = merge(held(model), [(one, 0.0), (two, 0.5)])
    assert torch.equal(only.weights[name].read(), expected(model[name], [(d2, u2, 0.5 / 3)]))
    assert only.notes == ("1.safetensors has the weight 0 and changes nothing.",)


def test_differences_of_weights_biases_norms_and_modulation(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    """The keys of extracted LoRAs (lightx2v, CausVid), each added as it is, whatever alpha says."""
    targets = {
        "patch_embedding.diff": "patch_embedding.weight",
        "patch_embedding.diff_b": "patch_embedding.bias",
        "blocks.0.diff_m": "blocks.0.modulation",
        "blocks.1.modulation.diff": "blocks.1.modulation",
        "head.modulation.diff": "head.modulation",
        "head.head.diff": "head.head.weight",
        "head.head.diff_b": "head.head.bias",
        "blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm3.bias",
        "blocks.1.self_attn.norm_q.diff": "blocks.1.self_attn.norm_q.weight",
        "blocks.1.cross_attn.norm_k_img.diff": "blocks.1.cross_attn.norm_k_img.weight",
        "blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "time_projection.1.diff_b": "time_projection.1.bias",
        "img_emb.proj.0.diff": "img_emb.proj.0.weight",
        "img_emb.proj.4.w_norm": "img_emb.proj.4.weight",
        "img_emb.proj.4.b_norm": "img_emb.proj.4.bias",
        "face_encoder.padding_tokens.diff": "face_encoder.padding_tokens",
        "motion_encoder.enc.net_app.convs.0.1.diff_b": "motion_encoder.enc.net_app.convs.0.1.bias",
        "motion_encoder.dec.direction.diff": "motion_encoder.dec.direction.weight",
    }
    deltas = values_of({key: shapes[name] for key, name in targets.items()}, seed=3)
    deltas["blocks.0.diff_m"] = deltas["blocks.0.diff_m"][0]  # 6 x D as well as 1 x 6 x D
    down, up = halves(shapes["blocks.0.self_attn.q.weight"], 4, 9)
    tensors = {f"diffusion_model.{key}": delta for key, delta in deltas.items()}
    tensors |= {
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": down,
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": up,
        "diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(8.0),
    }
    want = {
        name: (model[name].float() + 0.5 * deltas[key].float().reshape(shapes[name])).bfloat16()
        for key, name in targets.items()
    }
    want["blocks.0.self_attn.q.weight"] = expected(model["blocks.0.self_attn.q.weight"], [(down, up, 0.5 * 2.0)])
    lora = read(tmp_path / "a.safetensors", tensors, shapes)
    assert lora.unmatched == ()
    assert_merged(model, lora, want, factor=0.5)


def test_norms_change_places_between_diffusers_and_here(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    delta = torch.randn(CONFIG.dim).bfloat16()
    want = {"blocks.1.norm3.weight": (model["blocks.1.norm3.weight"].float() + delta.float()).bfloat16()}
    down, up = halves((24, 24), 1, 0)
    beside = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": down,
        "transformer.blocks.0.attn1.to_q.lora_B.weight": up,
    }
    want_q = {"blocks.0.self_attn.q.weight": expected(model["blocks.0.self_attn.q.weight"], [(down, up, 1.0)])}
    theirs = read(tmp_path / "1.safetensors", {"transformer.blocks.1.norm2.diff": delta, **beside}, shapes)
    assert_merged(model, theirs, want | want_q)
    ours = {key.replace("transformer.", "").replace("attn1.to_q", "self_attn.q"): t for key, t in beside.items()}
    natively = read(tmp_path / "2.safetensors", {"blocks.1.norm3.diff": delta, **ours}, shapes)
    assert_merged(model, natively, want | want_q)
    for key, others in (("blocks.1.norm2.diff", ours), ("transformer.blocks.1.norm3.diff", beside)):
        strange = read(tmp_path / "3.safetensors", {key: delta, **others}, shapes)
        assert strange.unmatched == (key,)


def test_diffusers_face_layers_are_halves_of_one(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    (kd, ku), (vd, vu) = (halves((24, 24), rank, rank) for rank in (2, 3))
    bias = torch.randn(24).bfloat16()
    stem = "transformer.face_adapter.0"
    tensors = {f"{stem}.to_k.lora_A.weight": kd, f"{stem}.to_k.lora_B.weight": ku, f"{stem}.to_v.lora_A.weight": vd}
    tensors |= {f"{stem}.to_v.lora_B.weight": vu, f"{stem}.to_v.lora_B.bias": bias}
    name = "face_adapter.fuser_blocks.0.linear1_kv"
    key, value = model[f"{name}.weight"].chunk(2)
    weight = torch.cat((expected(key, [(kd, ku, 1.0)]), expected(value, [(vd, vu, 1.0)])))
    want_bias = (model[f"{name}.bias"].float() + torch.cat((torch.zeros(24), bias.float()))).bfloat16()
    lora = read(tmp_path / "a.safetensors", tensors, shapes)
    assert_merged(model, lora, {f"{name}.weight": weight, f"{name}.bias": want_bias})
    whole = halves((48, 24), 2, 5)
    keys = {f"{name}.lora_A.weight": whole[0], f"{name}.lora_B.weight": whole[1]}
    natively = read(tmp_path / "b.safetensors", keys, shapes)
    assert_merged(model, natively, {f"{name}.weight": expected(model[f"{name}.weight"], [(*whole, 1.0)])})
    with pytest.raises(ValueError, match=r"changes face_adapter.fuser_blocks.0.linear1_kv.weight twice"):
        read(tmp_path / "c.safetensors", {**tensors, **keys}, shapes)


def test_several_dialects_in_one_file(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    layers = ("blocks.0.self_attn.q", "blocks.0.self_attn.k", "blocks.1.self_attn.v")
    tensors, want = {}, {}
    for i, (layer, dialect) in enumerate(zip(layers, ("kohya", "comfyui", "diffusers"), strict=True)):
        prefix, name, down_key, up_key, _ = DIALECTS[dialect]
        down, up = halves((24, 24), 2, i)
        tensors |= {f"{prefix}{name(layer)}.{down_key}": down, f"{prefix}{name(layer)}.{up_key}": up}
        want[f"{layer}.weight"] = expected(model[f"{layer}.weight"], [(down, up, 1.0)])
    lora = read(tmp_path / "a.safetensors", tensors, shapes)
    assert set(lora.dialects) == {"kohya", "ComfyUI", "diffusers"}
    assert_merged(model, lora, want)


@pytest.mark.parametrize("root", [False, True])
def test_alphas_of_peft_and_of_diffusers_metadata(
    tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], root: bool
) -> None:
    """One alpha for all, others by pattern; the root of the rank if rank-stabilised; a bias scaled with its layer."""
    config = {"r": 4, "lora_alpha": 6, "alpha_pattern": {r"1\.ffn\.0": 3}, "use_rslora": root}
    tensors, want = {}, {}
    for i, (layer, alpha) in enumerate((("blocks.0.ffn.0", 6), ("blocks.1.ffn.0", 3))):
        down, up = halves(shapes[f"{layer}.weight"], 4, i)
        scale = alpha / 2 if root else alpha / 4
        bias = torch.randn(CONFIG.ffn_dim).bfloat16()
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.lora_B.bias": bias}
        want[f"{layer}.weight"] = expected(model[f"{layer}.weight"], [(down, up, scale)])
        want[f"{layer}.bias"] = (model[f"{layer}.bias"].float() + scale * bias.float()).bfloat16()
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = tmp_path / "adapter_model.safetensors"
    peft = {f"base_model.model.{key}": t for key, t in tensors.items()}
    lora = read(path, peft, shapes, config=config_beside(path))
    assert lora.alphas
    assert_merged(model, lora, want)
    theirs = {f"transformer.{key.replace('ffn.0', 'ffn.net.0.proj')}": t for key, t in tensors.items()}
    config["alpha_pattern"] = {"blocks.1.ffn.net.0.proj": 3}
    metadata = json.dumps({f"transformer.{key}": value for key, value in config.items()})
    assert_merged(model, read(tmp_path / "b.safetensors", theirs, shapes, lora_adapter_metadata=metadata), want)


def test_a_file_of_both_experts(tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    pairs = {part: halves((24, 24), 2, i) for i, part in enumerate(("transformer", "transformer_2"))}
    tensors = {
        f"{part}.blocks.0.attn1.to_q.lora_{letter}.weight": half
        for part, both in pairs.items()
        for letter, half in zip("AB", both, strict=True)
    }
    with pytest.raises(ValueError, match=r"a LoRA for each expert; say which one is meant, as high:a.safetensors"):
        read(tmp_path / "a.safetensors", tensors, shapes)
    name = "blocks.0.self_attn.q.weight"
    for expert, part in (("high", "transformer"), ("low", "transformer_2")):
        lora = read(tmp_path / "a.safetensors", tensors, shapes, expert=expert)
        assert_merged(model, lora, {name: expected(model[name], [(*pairs[part], 1.0)])})
        assert len(lora.other_expert) == 2
        assert lora.unmatched == ()


def test_a_checkpoint_of_torch(tmp_path: Path, model: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """As the relighting LoRA of Wan-Animate comes: a pickle of a state dict, rank and alpha 128."""
    down, up = halves((24, 24), 4, 0)
    stem = "blocks.0.self_attn.q"
    state = {f"{stem}.lora_A.default.weight": down, f"{stem}.lora_B.default.weight": up}
    torch.save({"state_dict": state}, tmp_path / "relighting_lora.ckpt")
    lora = read_lora(open_weights(tmp_path / "relighting_lora.ckpt"), shapes)
    assert_merged(model, lora, {f"{stem}.weight": expected(model[f"{stem}.weight"], [(down, up, 1.0)])})


def test_what_has_no_place_is_listed(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A Wan2.1 image-to-video LoRA on Wan2.2, which has no image branch, and keys that mean nothing."""
    config = WanConfig(dim=24, ffn_dim=40, heads=2, layers=2, text_dim=16, freq_dim=8, in_dim=6, out_dim=4)
    with torch.device("meta"):
        plain = {name: tuple(t.shape) for name, t in WanTransformer(config).state_dict().items()}
    tensors = {}
    for layer in ("self_attn.q", "cross_attn.k_img"):
        down, up = halves((24, 24), 2, 0)
        tensors |= {f"diffusion_model.blocks.0.{layer}.lora_A.weight": down}
        tensors |= {f"diffusion_model.blocks.0.{layer}.lora_B.weight": up}
    tensors |= {"lora_te_x.lora_down.weight": down, "step": torch.zeros(1), "blocks.0.self_attn.q.nonsense": down}
    lora = read(tmp_path / "a.safetensors", tensors, plain)
    assert set(lora.matched) == {key for key in tensors if "self_attn.q.lora" in key}
    assert set(lora.matched) | set(lora.unmatched) == set(tensors)
    assert lora.made_for == "it has layers that look at a picture (k_img): it was made for Wan2.1 image-to-video"
    report = "\n".join(lora.report())
    assert "rank 2, no alpha" in report
    assert "1 weights" in report
    assert "2 of its 7 keys" in report
    assert lora.made_for in report
    assert 0 < lora.coverage < 0.1
    only = {key: t for key, t in tensors.items() if "k_img" in key}
    with pytest.raises(
        ValueError, match=r"manner of ComfyUI, but none of its 2 keys .* made for Wan2.1 image-to-video"
    ):
        read(tmp_path / "b.safetensors", only, plain)


A, B = "blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_B.weight"
STEM = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({B: None}, f"{A} is without its other half (up)"),
        ({A: None}, f"{B} is without its other half (down)"),
        ({A: torch.zeros(3, 24)}, f"{B} is of rank 2, but {A} of rank 3"),
        ({A: torch.zeros(2, 25)}, f"{A} has shape 2x25, which does not fit the model's {STEM}.weight (24x24)"),
        ({A: torch.zeros(2, 5120)}, "a width of 5120 is that of a Wan of 14B"),
        ({B: torch.zeros(12, 2)}, f"{B} has shape 12x2"),
        ({A: torch.zeros(0, 24), B: torch.zeros(24, 0)}, "it is a matrix of rank 1 or more"),
        ({A: torch.zeros(2, 24, dtype=torch.int32)}, f"{A} holds int32; a LoRA's values are floats"),
        ({f"{STEM}.alpha": torch.tensor([1.0, 2.0])}, "an alpha is one number"),
        ({f"{STEM}.alpha": torch.tensor(float("nan"))}, "is nan; an alpha is a finite number"),
        ({f"{STEM}.alpha": torch.tensor(0.0)}, "is 0.0; an alpha is a finite number other than 0"),
        ({f"{STEM}.lora_down.weight": torch.zeros(2, 24)}, "says the same as"),
        ({"lora_unet_blocks_0_self_attn_q.diff": torch.zeros(24, 24)}, f"changes {STEM}.weight twice"),
        ({f"{STEM}.diff_b": torch.zeros(25)}, f"does not fit the model's {STEM}.bias (24)"),
        ({f"{STEM}.reshape_weight": torch.tensor([24.0, 48.0])}, "a layer made wider"),
        ({f"{STEM}.set_weight": torch.zeros(24, 24)}, "in the place of the model's"),
        ({f"{STEM}.lora_mid.weight": torch.zeros(2, 2)}, "Tucker"),
        ({f"{STEM}.dora_scale": torch.zeros(7, 1)}, "it is a number for each row or column"),
        ({f"{STEM}.hada_w1_a": torch.zeros(24, 2)}, "at once"),
        ({"blocks.1.ffn.0.dora_scale": torch.zeros(40)}, "is without the matrices it belongs to"),
        (
            {"blocks.1.norm3.lora_A.weight": torch.zeros(1, 24), "blocks.1.norm3.lora_B.weight": torch.zeros(24, 1)},
            "fit",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], changes: dict[str, Tensor | None], said: str
) -> None:
    down, up = halves((24, 24), 2, 0)
    tensors = {A: down, B: up} | changes
    with pytest.raises(ValueError, match=r"a\.safetensors") as caught:
        read(tmp_path / "a.safetensors", {key: t for key, t in tensors.items() if t is not None}, shapes)
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"blocks.0.self_attn.q.weight": torch.zeros(24, 24)}, "is no LoRA: its 1 keys"),
        ({"lora_unet_down_blocks_0_attn.lora_down.weight": torch.zeros(2, 2)}, "made for Stable Diffusion"),
        ({"diffusion_model.double_blocks.0.x.lora_A.weight": torch.zeros(2, 2)}, "made for Flux or HunyuanVideo"),
        ({"blocks.7.self_attn.q.lora_A.weight": torch.zeros(2, 2)}, "its layers are not those of this model"),
    ],
)
def test_where_nothing_fits(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], tensors: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(ValueError, match=r"a\.safetensors") as caught:
        read(tmp_path / "a.safetensors", tensors, shapes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is not a JSON object"),
        ('{"lora_alpha": "four"}', "it is a finite number other than 0"),
        ('{"lora_alpha": 1, "alpha_pattern": [1]}', "it is a table of layers and numbers"),
        ('{"lora_alpha": 1, "alpha_pattern": {"(": 1}}', "no regular expression"),
    ],
)
def test_a_broken_config_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], text: str, said: str) -> None:
    down, up = halves((24, 24), 2, 0)
    path = tmp_path / "a.safetensors"
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        read(path, {A: down, B: up}, shapes, config=config_beside(path))
    assert said in str(caught.value)
    assert config_beside(tmp_path / "other" / "a.safetensors") is None
