"""Tiny random weights of theirs, saved as they save them and opened as we open them; pictures; and what a row says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pasdedeux.checkpoints.bundle import open_expert
from pasdedeux.checkpoints.encoders import load_text_encoder
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.models.text import TextEncoder
from pasdedeux.models.wan import build_wan

Model = TypeVar("Model", bound=nn.Module)
WORDS = [f"word{i}" for i in range(60)]
TEXT_DIM = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: the largest difference in units of the largest value.

    It must lie below `bound`; or above `floor`, where the two are made to differ to show that they can; with neither it
    is told for information.
    """

    what: str
    difference: float
    bound: float | None = None
    floor: float | None = None

    @property
    def passes(self) -> bool | None:
        """None where nothing is asked."""
        if self.bound is not None:
            return self.difference <= self.bound
        return None if self.floor is None else self.difference > self.floor


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in units of the largest value."""
    if found.shape != wanted.shape:
        raise AssertionError(f"the shapes differ: {tuple(found.shape)} and {tuple(wanted.shape)}")
    return ((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()


def randn(*shape: int, seed: int) -> Tensor:
    """Gaussian, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: Model, seed: int) -> Model:
    """Every weight random, so that no zero or one of the initialisation hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        spread = max(weight[0].numel(), 4) ** -0.5 if weight.ndim > 1 else 1 / 3
        if "motion_encoder" in name and name.endswith("weight"):
            spread = 1.0  # the motion encoder's are scaled by their number of inputs as it runs
        weight.data = torch.randn(weight.shape, generator=generator) * spread
    return model.eval().requires_grad_(False)


def save_safetensors(model: nn.Module, path: Path) -> Path:
    """Native names, as they are."""
    save_file({name: value.contiguous().clone() for name, value in model.state_dict().items()}, path)
    return path


def save_pickle(model: nn.Module, path: Path) -> Path:
    """As .pth files are: a plain dictionary."""
    torch.save(model.state_dict(), path)
    return path


def ours(model: nn.Module, path: Path) -> Any:
    """Our network with the weights of theirs, by way of a file: its sizes are read off names and shapes."""
    expert = open_expert(save_safetensors(model, path))
    if expert.dialect != "native":
        raise AssertionError(f"{path.name} was taken for {expert.dialect}")
    return load_weights(lambda: build_wan(expert.config), expert.weights, dtype=torch.float32)


def coarse(*shape: int, seed: int) -> np.ndarray:
    """uint8 [..., H, W, C]: random squares of 8 x 8 and a little noise; an average over noise alone is always grey."""
    *front, height, width, colours = shape
    random = np.random.default_rng(seed)
    squares = random.integers(0, 256, (*front, height // 8, width // 8, colours))
    squares = squares.repeat(8, axis=-3).repeat(8, axis=-2)
    return np.uint8(squares * 3 // 4 + random.integers(0, 64, shape))


def sentence(count: int, seed: int) -> str:
    """A prompt of so many words."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def make_tokenizer(folder: Path) -> Path:
    """A tokenizer of whole words that both sides read."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def text_encoders(wan: SimpleNamespace, folder: Path) -> tuple[Any, TextEncoder]:
    """Their T5EncoderModel, made without its constructor, which builds the XXL; and ours with its weights."""
    sizes: Mapping[str, int] = {"dim": TEXT_DIM, "dim_attn": 24, "dim_ffn": 40, "num_heads": 3, "num_buckets": 32}
    model = filled(wan.t5.T5Encoder(vocab=len(WORDS) + 3, num_layers=3, shared_pos=False, **sizes), 11)
    model.norm.weight.data *= 6  # words outweigh the zeros behind them
    path, tokenizer = save_pickle(model, folder / "text.pth"), make_tokenizer(folder / "tokenizer")
    theirs = object.__new__(wan.t5.T5EncoderModel)
    theirs.model = model
    theirs.tokenizer = wan.tokenizers.HuggingfaceTokenizer(name=str(tokenizer), seq_len=512, clean="whitespace")
    return theirs, load_text_encoder(path, tokenizer, dtype=torch.float32)
