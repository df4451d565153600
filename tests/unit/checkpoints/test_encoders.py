"""Text and image encoders from files of every dialect."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pasdedeux.checkpoints.encoders import bare_text_encoder, fill, load_image_encoder, load_text_encoder
from pasdedeux.checkpoints.formats.files import open_weights
from pasdedeux.checkpoints.names.encoder_keymaps import image_from_ours, image_to_ours, text_from_ours, text_to_ours
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor

PIECES = ["<pad>", "</s>", "<s>", "<unk>", "▁", "▁a", "b", "c", "▁cat", "d", "e"]
Tensors = dict[str, Tensor]


def text_tensors(blocks: int = 2, dim: int = 16, attention: int = 24, hidden: int = 32, heads: int = 3) -> Tensors:
    """A tiny text encoder as the Wan release names it."""
    draw = torch.Generator().manual_seed(3)
    shapes = {"token_embedding.weight": (len(PIECES), dim), "norm.weight": (dim,)}
    for i in range(blocks):
        shapes |= {f"blocks.{i}.norm{k}.weight": (dim,) for k in (1, 2)}
        shapes |= {f"blocks.{i}.attn.{k}.weight": (attention, dim) for k in "qkv"}
        shapes |= {f"blocks.{i}.attn.o.weight": (dim, attention)}
        shapes |= {f"blocks.{i}.ffn.{k}.weight": (hidden, dim) for k in ("gate.0", "fc1")}
        shapes |= {f"blocks.{i}.ffn.fc2.weight": (dim, hidden)}
        shapes |= {f"blocks.{i}.pos_embedding.embedding.weight": (8, heads)}
    return {name: torch.randn(shape, generator=draw) * 0.3 for name, shape in shapes.items()}


def hf_text(native: Tensors) -> Tensors:
    renames = (
        (r"^token_embedding", "shared"),
        (r"^norm\.", "encoder.final_layer_norm."),
        (r"^blocks\.(\d+)\.norm1", r"encoder.block.\1.layer.0.layer_norm"),
        (r"^blocks\.(\d+)\.norm2", r"encoder.block.\1.layer.1.layer_norm"),
        (r"^blocks\.(\d+)\.attn", r"encoder.block.\1.layer.0.SelfAttention"),
        (
            r"^blocks\.(\d+)\.pos_embedding\.embedding",
            r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias",
        ),
        (r"^blocks\.(\d+)\.ffn\.gate\.0", r"encoder.block.\1.layer.1.DenseReluDense.wi_0"),
        (r"^blocks\.(\d+)\.ffn\.fc1", r"encoder.block.\1.layer.1.DenseReluDense.wi_1"),
        (r"^blocks\.(\d+)\.ffn\.fc2", r"encoder.block.\1.layer.1.DenseReluDense.wo"),
    )
    return renamed(native, renames)


def renamed(tensors: Tensors, renames: tuple[tuple[str, str], ...]) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def image_tensors(layers: int = 3, dim: int = 32, hidden: int = 48, patch: int = 4, side: int = 8) -> Tensors:
    """A tiny image tower as the Wan release names it."""
    draw = torch.Generator().manual_seed(4)
    shapes = {
        "visual.cls_embedding": (1, 1, dim),
        "visual.pos_embedding": (1, (side // patch) ** 2 + 1, dim),
        "visual.patch_embedding.weight": (dim, 3, patch, patch),
        "visual.head": (dim, 12),
    }
    weights = {f"visual.{norm}_norm": (dim,) for norm in ("pre", "post")}
    for i in range(layers):
        at = f"visual.transformer.{i}."
        weights |= {at + "norm1": (dim,), at + "norm2": (dim,)}
        weights |= {at + "attn.to_qkv": (3 * dim, dim), at + "attn.proj": (dim, dim)}
        weights |= {at + "mlp.0": (hidden, dim), at + "mlp.2": (dim, hidden)}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=draw) * 0.3 for name, shape in shapes.items()}


def write(folder: Path, tensors: Tensors, name: str = "encoder.safetensors") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / name)
    return folder / name


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A folder with a tiny tokenizer.json."""
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(PIECES)], unk_id=3))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.enable_padding(length=20)
    made.enable_truncation(3)
    folder = tmp_path / "umt5"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def embedded(path: Path, tokens: Path) -> Tensor:
    return load_text_encoder(path, tokens, dtype=torch.float32).encode("a cat bcd ?").values


def test_every_dialect_of_the_text_encoder_gives_the_same(tmp_path: Path, tokens: Path) -> None:
    native = text_tensors()
    wanted = embedded(write(tmp_path, native), tokens)
    assert wanted.shape == (1, 9, 16)
    shared = hf_text(native)
    only_copy = {**shared, "encoder.embed_tokens.weight": shared["shared.weight"]}
    del only_copy["shared.weight"]
    files = {
        "hf": shared,
        "twice": {**shared, "encoder.embed_tokens.weight": torch.zeros(len(PIECES), 16)},
        "copy": only_copy,
        "whole": {**shared, "decoder.final_layer_norm.weight": torch.ones(16), "lm_head.weight": torch.ones(3, 16)},
    }
    for name, tensors in files.items():
        assert torch.equal(embedded(write(tmp_path, tensors, f"{name}.safetensors"), tokens), wanted), name
    torch.save(native, tmp_path / "native.pth")
    assert torch.equal(embedded(tmp_path / "native.pth", tokens), wanted)


def test_what_is_left_unread_is_said(tmp_path: Path, tokens: Path) -> None:
    tensors = {**hf_text(text_tensors()), "decoder.a": torch.ones(1), "decoder.b": torch.ones(1)}
    encoder = load_text_encoder(write(tmp_path, tensors), tokens, dtype=torch.float32)
    assert encoder.notes == ("decoder (2 tensors) of the file is not used",)


@pytest.mark.parametrize("dialect", ["native", "hf", "gguf"])
def test_text_names_go_there_and_back(tmp_path: Path, dialect: str) -> None:
    native = open_weights(write(tmp_path, text_tensors()))
    there = text_from_ours(text_to_ours(native).weights, dialect)
    named = text_to_ours(there)
    assert named.dialect == dialect
    back = text_from_ours(named.weights, "native")
    assert back.shapes == native.shapes
    assert all(torch.equal(back[name].read(), native[name].read()) for name in native)


def test_gguf_names_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    hf = hf_text(text_tensors())
    theirs = {name: names.get_name(name, try_suffixes=(".weight",)) for name in hf}
    ours = text_from_ours(text_to_ours(as_weights(hf)).weights, "gguf")
    back = text_from_ours(text_to_ours(ours).weights, "hf")
    assert set(ours) == set(theirs.values())
    assert {name: back[name] for name in hf} == {name: ours[theirs[name]] for name in hf}


def test_a_gguf_file_with_its_tokenizer(tmp_path: Path, tokens: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = text_tensors(dim=32, attention=32, hidden=64, heads=4)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "t5encoder")
    for name, tensor in text_from_ours(text_to_ours(as_weights(tensors)).weights, "gguf").items():
        values = tensor.read().numpy()
        packed = values.ndim == 2 and "rel_b" not in name
        kind = gguf.GGMLQuantizationType.Q8_0 if packed else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tokenizer_model("t5")
    writer.add_token_list(PIECES)
    writer.add_token_scores([-float(i) for i in range(len(PIECES))])
    writer.add_token_types([3, 3, 3, 2, *[1] * (len(PIECES) - 4)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed = load_text_encoder(tmp_path / "t.gguf", dtype=torch.float32).encode("a cat bcd ?").values
    whole = embedded(write(tmp_path, tensors), tokens)
    torch.testing.assert_close(packed, whole, atol=0.05, rtol=0)
    assert not torch.equal(packed, whole)


def test_scaled_fp8_stays_packed_and_gives_the_scaled_values(tmp_path: Path, tokens: Path) -> None:
    tensors = hf_text(text_tensors())
    tensors["spiece_model"] = torch.zeros(3, dtype=torch.uint8)
    stored, plain = {**tensors, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, dict(tensors)
    for name in [name for name, tensor in tensors.items() if name.startswith("encoder.block") and tensor.ndim == 2]:
        if "bias" in name:
            continue
        packed = (tensors[name] / 0.01).to(torch.float8_e4m3fn)
        stored |= {name: packed, name.replace(".weight", ".scale_weight"): torch.tensor(0.01)}
        plain[name] = packed.float() * 0.01
    path = write(tmp_path, stored, "scaled.safetensors")
    stack = load_text_encoder(path, tokens, dtype=torch.float32).stack
    assert type(stack.get_submodule("block.0.layer.0.SelfAttention.q")).__name__ == "PackedLinear"
    torch.testing.assert_close(embedded(path, tokens), embedded(write(tmp_path, plain), tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["float32", "float16", "float8_e4m3fn", "one scale", "a scale per row"])
def test_a_token_is_looked_up_as_the_whole_embedding_would_have_it(tmp_path: Path, tokens: Path, kind: str) -> None:
    stored = hf_text(text_tensors())
    scale = {"one scale": torch.tensor(0.01), "a scale per row": torch.linspace(0.01, 0.02, len(PIECES))[:, None]}
    table = (stored["shared.weight"] / scale.get(kind, 1)).to(getattr(torch, kind, torch.float8_e4m3fn))
    stored["shared.weight"] = table
    if kind in scale:
        stored["shared.scale_weight"] = scale[kind]
    rows = load_text_encoder(write(tmp_path, stored), tokens, dtype=torch.bfloat16).stack.get_submodule("embed_tokens")
    wanted = (table.float() * scale.get(kind, 1)).bfloat16()
    ids = torch.tensor([[7, 0, 10, 7]])
    assert torch.equal(rows(ids), wanted[ids])


def test_only_the_rows_of_a_prompt_are_unpacked(tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_text_encoder(write(tmp_path, text_tensors()), tokens, dtype=torch.bfloat16)
    seen: list[tuple[int, ...]] = []

    def noted(tensor: LazyTensor, dtype: torch.dtype) -> Tensor:
        seen.append(tuple(tensor.read().shape))
        return dequantize(tensor, dtype)

    monkeypatch.setattr("pasdedeux.checkpoints.encoders.dequantize", noted)
    assert encoder.encode("a cat").values.shape == (1, 3, 16)
    assert seen == [(3, 16)]
    assert "embed_tokens.weight" not in encoder.stack.state_dict()


def test_a_bare_encoder_has_read_no_block(tmp_path: Path, tokens: Path) -> None:
    bare = bare_text_encoder(write(tmp_path, text_tensors()), tokens, dtype=torch.float32)
    tensors = bare.encoder.stack.state_dict()
    assert tensors.keys() == bare.values.keys() == bare.mapped
    assert all(tensor.is_meta for tensor in tensors.values())
    assert not bare_text_encoder(tmp_path / "encoder.safetensors", tokens, dtype=torch.bfloat16).mapped
    fill(bare, "cpu")
    assert not any(tensor.is_meta for tensor in bare.encoder.stack.state_dict().values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.1.attn.q.weight": None}, "lacks blocks.1.attn.q.weight"),
        ({"blocks.0.attn.extra": torch.ones(1)}, "holds unknown blocks.0.attn.extra"),
        ({"blocks.1.ffn.fc2.weight": torch.ones(16, 31)}, "wrong shape for block.1.layer.1.DenseReluDense.wo"),
        ({"token_embedding.weight": None}, "is no umT5 text encoder"),
        ({"token_embedding.weight": torch.zeros(11, 16)}, "a token embedding of zeros"),
        ({"token_embedding.weight": torch.zeros(11)}, "must have 2 sides"),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_refused(
    tmp_path: Path, tokens: Path, change: dict[str, Tensor | None], says: str
) -> None:
    tensors = {name: t for name, t in {**text_tensors(), **change}.items() if t is not None}
    with pytest.raises(ValueError, match=re.escape(says)):
        load_text_encoder(write(tmp_path, tensors), tokens, dtype=torch.float32)


def test_plain_t5_is_told_from_umt5(tmp_path: Path, tokens: Path) -> None:
    tensors = hf_text(text_tensors())
    del tensors["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
    with pytest.raises(ValueError, match="is a T5 text encoder, but Wan needs umT5"):
        load_text_encoder(write(tmp_path, tensors), tokens, dtype=torch.float32)


def test_a_folder_says_what_shapes_cannot(tmp_path: Path, tokens: Path) -> None:
    path = write(tmp_path / "text_encoder", hf_text(text_tensors()), "model.safetensors")
    config = path.parent / "config.json"
    config.write_text(json.dumps({"relative_attention_max_distance": 9, "layer_norm_epsilon": 0.5}))
    stack = load_text_encoder(path.parent, tokens, dtype=torch.float32).stack
    assert stack.config.relative_attention_max_distance == 9
    assert stack.config.layer_norm_epsilon == 0.5
    alone = load_text_encoder(path, tokens, dtype=torch.float32).stack
    assert alone.config.relative_attention_max_distance == 128
    for wrong, says in ({"feed_forward_proj": "relu"}, "asks for feed_forward_proj relu"), ([1], "holds a list"):
        config.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=says):
            load_text_encoder(path.parent, tokens, dtype=torch.float32)


def test_the_tokenizer_is_found_beside_the_encoder(tmp_path: Path, tokens: Path) -> None:
    native, inside = tmp_path / "wan", tmp_path / "pipeline" / "text_encoder"
    paths = [write(native, text_tensors()), write(inside, text_tensors())]
    for path in paths:
        with pytest.raises(ValueError, match="needs the tokenizer of google/umt5-xxl"):
            load_text_encoder(path, dtype=torch.float32)
    for folder in (native / "google" / "umt5-xxl", inside.parent / "tokenizer"):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_bytes((tokens / "tokenizer.json").read_bytes())
    for path in (*paths, inside):
        assert load_text_encoder(path, dtype=torch.float32).encode("a").values.shape == (1, 2, 16)


def test_the_image_tower_of_a_whole_native_file(tmp_path: Path) -> None:
    tensors = {**image_tensors(), "textual.token_embedding.weight": torch.ones(2, 2), "log_scale": torch.tensor(1.0)}
    encoder = load_image_encoder(write(tmp_path, tensors), dtype=torch.float32)
    assert encoder.side == 8
    assert encoder.notes == ("textual (1 tensor) and log_scale (1 tensor) of the file are not used",)
    assert encoder.encode(torch.zeros(9, 5, 3, dtype=torch.uint8)).shape == (1, 5, 32)
    assert not any("layers.2." in name for name in encoder.tower.state_dict())


def test_query_key_and_value_are_taken_apart_and_put_together(tmp_path: Path) -> None:
    native = image_tensors()
    named = image_to_ours(as_weights(native))
    fused = native["visual.transformer.1.attn.to_qkv.weight"]
    for i, part in enumerate("qkv"):
        found = named.weights[f"encoder.layers.1.self_attn.{part}_proj.weight"]
        assert found.nbytes == 4 * 32 * 32
        assert torch.equal(found.read(), fused[32 * i : 32 * (i + 1)])
    through_hf = image_to_ours(image_from_ours(named.weights, "hf"))
    assert through_hf.dialect == "hf"
    back = image_from_ours(through_hf.weights, "native")
    assert back.shapes == {name: tuple(t.shape) for name, t in native.items()}
    assert all(torch.equal(back[name].read(), tensor) for name, tensor in native.items())


def test_a_scale_per_row_is_taken_apart_too(tmp_path: Path) -> None:
    native = image_tensors()
    name, scale = "visual.transformer.0.attn.to_qkv.weight", torch.linspace(0.01, 0.02, 96)[:, None]
    packed = (native[name] / scale).to(torch.float8_e4m3fn)
    stored = {**native, name: packed, name.replace(".weight", ".scale_weight"): scale}
    plain = {**native, name: packed.float() * scale}
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    values = [
        load_image_encoder(write(tmp_path, tensors), dtype=torch.float32).encode(image) for tensors in (stored, plain)
    ]
    torch.testing.assert_close(*values, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"visual.transformer.1.mlp.0.bias": None}, "lacks visual.transformer.1.mlp.0.bias"),
        ({"visual.transformer.1.mlp.1.bias": torch.ones(1)}, "holds unknown visual.transformer.1.mlp.1.bias"),
        ({"visual.transformer.0.attn.to_qkv.bias": torch.ones(95)}, "is not of three parts"),
        ({"visual.pos_embedding": torch.ones(1, 6, 32)}, "no square of patches"),
        ({"visual.cls_embedding": None}, "is no CLIP image encoder"),
    ],
)
def test_an_image_encoder_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, Tensor | None], says: str
) -> None:
    tensors = {name: t for name, t in {**image_tensors(), **change}.items() if t is not None}
    with pytest.raises(ValueError, match=re.escape(says)):
        load_image_encoder(write(tmp_path, tensors), dtype=torch.float32)


def test_a_tower_without_its_last_layers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "clip", {n: t.read() for n, t in hf_image().items()}, "model.safetensors")
    (path.parent / "config.json").write_text(json.dumps({"vision_config": {"num_hidden_layers": 4}}))
    with pytest.raises(ValueError, match="has 3 layers, but should have 4"):
        load_image_encoder(path.parent, dtype=torch.float32)


def hf_image() -> Tensors:
    return image_from_ours(image_to_ours(as_weights(image_tensors())).weights, "hf").tensors


def as_weights(tensors: Tensors):
    from pasdedeux.checkpoints.tensors import LazyTensor, Weights

    lazy = {
        name: LazyTensor(
            shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."), nbytes=t.nbytes, read=lambda t=t: t
        )
        for name, t in tensors.items()
    }
    return Weights(tensors=lazy, paths=(Path("made.safetensors"),), container="safetensors")
