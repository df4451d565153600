"""The text encoder against its formulas, against transformers and against the pipelines of diffusers, float32."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pasdedeux.checkpoints.encoders import load_text_encoder
from pasdedeux.models.text import clean_prompt

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pipeline = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")

TOLERANCE = 2e-5
DIM, HEADS, WIDTH, HIDDEN, BLOCKS, BUCKETS = 24, 3, 8, 40, 3, 32
WORDS = ["<pad>", "</s>", "<s>", "<unk>", "▁a", "▁cat", "▁sits", "▁on", "▁the", "▁mat", ".", "▁"]
PROMPT = "a cat sits on the mat . the cat , on a cat"
REFERENCE_NEGATIVE = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量"


def native_weights() -> dict[str, Tensor]:
    torch.manual_seed(5)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns) / math.sqrt(columns)

    weights = {"token_embedding.weight": torch.randn(len(WORDS), DIM), "norm.weight": 1 + torch.randn(DIM) / 5}
    inner = HEADS * WIDTH
    for i in range(BLOCKS):
        weights |= {f"blocks.{i}.norm{k}.weight": 1 + torch.randn(DIM) / 5 for k in (1, 2)}
        weights |= {f"blocks.{i}.attn.{k}.weight": matrix(inner, DIM) for k in "qkv"}
        weights |= {f"blocks.{i}.attn.o.weight": matrix(DIM, inner)}
        weights |= {f"blocks.{i}.ffn.{k}.weight": matrix(HIDDEN, DIM) for k in ("gate.0", "fc1")}
        weights |= {f"blocks.{i}.ffn.fc2.weight": matrix(DIM, HIDDEN)}
        weights |= {f"blocks.{i}.pos_embedding.embedding.weight": torch.randn(BUCKETS, HEADS)}
    return weights


def by_formula(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """umT5 as its papers have it: RMS norm, unscaled dot products, a position bias per layer, gated GELU."""

    def norm(x: Tensor, name: str) -> Tensor:
        return weights[name] * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[name].T

    x = weights["token_embedding.weight"][ids]
    table = torch.tensor([[bucket(j - i) for j in range(len(ids))] for i in range(len(ids))])
    for block in (f"blocks.{i}." for i in range(BLOCKS)):
        h = norm(x, block + "norm1.weight")
        q, k, v = (linear(h, f"{block}attn.{part}.weight").view(-1, HEADS, WIDTH).transpose(0, 1) for part in "qkv")
        bias = weights[block + "pos_embedding.embedding.weight"][table].permute(2, 0, 1)
        seen = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v
        x = x + linear(seen.transpose(0, 1).flatten(1), block + "attn.o.weight")
        h = norm(x, block + "norm2.weight")
        gate = torch.nn.functional.gelu(linear(h, block + "ffn.gate.0.weight"), approximate="tanh")
        x = x + linear(gate * linear(h, block + "ffn.fc1.weight"), block + "ffn.fc2.weight")
    return norm(x, "norm.weight")


def bucket(distance: int) -> int:
    """Of 32 buckets 16 look ahead; of those 8 are one position each, and 8 grow up to a distance of 128."""
    side, far = (16 if distance > 0 else 0), abs(distance)
    if far < 8:
        return side + far
    return side + min(8 + int(math.log(far / 8) / math.log(128 / 8) * 8), 15)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    before, after = tokenizers.pre_tokenizers, tokenizers.processors
    pieces = [(word, -1.0 - i / 10) for i, word in enumerate(WORDS)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    made.pre_tokenizer = before.Sequence([before.WhitespaceSplit(), before.Metaspace(prepend_scheme="always")])
    made.post_processor = after.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def largest(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("prompt", [PROMPT, "", "a " * 300])
def test_the_native_file_gives_what_the_formulas_say(tmp_path: Path, tokenizer: Path, prompt: str) -> None:
    weights = native_weights()
    torch.save(weights, tmp_path / "t5.pth")
    encoder = load_text_encoder(tmp_path / "t5.pth", tokenizer, dtype=torch.float32)
    ids = encoder.tokenize(clean_prompt(prompt))
    found = encoder.encode(prompt).values
    assert found.shape == (1, len(ids), DIM)
    assert largest(found[0], by_formula(weights, ids)) < TOLERANCE


def reference_model() -> torch.nn.Module:
    torch.manual_seed(6)
    config = transformers.UMT5Config(
        vocab_size=len(WORDS), d_model=DIM, d_kv=WIDTH, d_ff=HIDDEN, num_layers=BLOCKS, num_heads=HEADS
    )
    model = transformers.UMT5EncoderModel(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "layer_norm" in name else 0.0, std=0.3)
    return model


def test_the_folder_gives_what_the_pipeline_of_diffusers_gives(tmp_path: Path, tokenizer: Path) -> None:
    model = reference_model()
    model.save_pretrained(tmp_path / "text_encoder")
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer / "tokenizer.json"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    stand_in = SimpleNamespace(tokenizer=hf, text_encoder=model, _execution_device=torch.device("cpu"))
    encode = pipeline.WanPipeline._get_t5_prompt_embeds
    encoder = load_text_encoder(tmp_path / "text_encoder", tokenizer, dtype=torch.float32)
    for prompt in (PROMPT, "  the   mat&amp;", "a cat " * 400):
        with torch.no_grad():
            wanted = encode(stand_in, [prompt], max_sequence_length=512, dtype=torch.float32)
        found = encoder.encode(prompt).values
        count = found.shape[1]
        assert not wanted[:, count:].any()
        assert largest(found, wanted[:, :count]) < TOLERANCE


def test_the_token_embedding_is_the_files_and_not_zero(tmp_path: Path, tokenizer: Path) -> None:
    model = reference_model()
    model.save_pretrained(tmp_path / "text_encoder")
    stack = load_text_encoder(tmp_path / "text_encoder", tokenizer, dtype=torch.float32).stack
    rows = stack.get_submodule("embed_tokens")(torch.arange(len(WORDS)))
    assert torch.equal(rows, model.shared.weight)
    again = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder")
    assert torch.equal(again.encoder.embed_tokens.weight, model.shared.weight)


@pytest.mark.parametrize(
    "prompt",
    [
        "A cat walks  on\nthe grass, realistic style.",
        "&lt;b&gt; &amp;amp; \t x",
        "视频中的人在做动作",
        "50 % à la carte",
        "",
    ],
)
def test_ordinary_prompts_are_cleaned_as_diffusers_does(prompt: str) -> None:
    assert clean_prompt(prompt) == pipeline.prompt_clean(prompt)


def test_where_the_native_cleaning_does_more_than_diffusers_without_ftfy() -> None:
    """The native code cannot run without ftfy; diffusers can, and then leaves wide commas and curly quotes."""
    if pipeline.is_ftfy_available():
        for prompt in (REFERENCE_NEGATIVE, "it\u2019s \u201cso\u201d"):
            assert clean_prompt(prompt) == pipeline.prompt_clean(prompt)
    else:
        assert clean_prompt(REFERENCE_NEGATIVE) == pipeline.prompt_clean(REFERENCE_NEGATIVE).replace("，", ",")
