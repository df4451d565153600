"""The text and the image encoder from a file or a folder, in any dialect, checked name by name.

What shapes cannot tell comes from the folder's config.json, or else is what the Wan models use.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pasdedeux.checkpoints.formats.files import INDEX, open_weights
from pasdedeux.checkpoints.formats.mapped import name_of
from pasdedeux.checkpoints.load import Value, load_weights, skeleton
from pasdedeux.checkpoints.names.encoder_keymaps import PROJECTION, image_to_ours, text_to_ours
from pasdedeux.checkpoints.packing.quantized import dequantize, join_scales
from pasdedeux.checkpoints.tensors import LazyTensor, Weights
from pasdedeux.checkpoints.tokenizer import FILES, Encode, beside, from_gguf, from_sentencepiece, read_tokenizer
from pasdedeux.models.image import ImageConfig, ImageEncoder, build_image_tower
from pasdedeux.models.text import TextConfig, TextEncoder, TokenRows, build_text_stack

EMBEDDED = "spiece_model"
"""The sentencepiece model as bytes, inside ComfyUI's text encoder files."""
_EMBEDDING = "embed_tokens.weight"
_FIRST = 1024
"""Rows of the token embedding that are looked at, to see whether it was lost."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BareTextEncoder:
    """An encoder whose stack is on meta, and by name the values that it is to hold.

    The token embedding is not among them: its rows are read from the file when a prompt needs them. mapped: names of
    the values that a processor computes with where they lie in the file, so that they take no memory of their own.
    """

    encoder: TextEncoder
    values: Mapping[str, Value]
    mapped: frozenset[str]


def load_text_encoder(
    path: Path, tokenizer: Path | None = None, *, dtype: torch.dtype, device: str = "cpu"
) -> TextEncoder:
    """umT5 from `path`, whole; raises as `bare_text_encoder`."""
    bare = bare_text_encoder(path, tokenizer, dtype=dtype, device=device)
    fill(bare, device)
    return bare.encoder


def fill(bare: BareTextEncoder, device: str) -> None:
    """Give the stack all its values, on `device`."""
    values = {name: value.make(device) for name, value in bare.values.items()}
    bare.encoder.stack.load_state_dict(values, assign=True)


def bare_text_encoder(
    path: Path, tokenizer: Path | None = None, *, dtype: torch.dtype, device: str = "cpu"
) -> BareTextEncoder:
    """umT5 from `path`, to be computed on `device`, of which hardly anything is read yet.

    Without a tokenizer of its own it takes the one inside the file, or the one lying beside it.
    Raises ValueError if the file does not fit, or if no tokenizer is found.
    """
    weights = join_scales(open_weights(path))
    named = text_to_ours(weights)
    tokenize = _tokenizer(path, tokenizer, weights)
    config = text_config(named.weights.shapes, _settings(path))
    ready = named.weights.with_tensors({n: _usable(n, t, dtype) for n, t in named.weights.items()})
    bare = skeleton(lambda: build_text_stack(config), ready, dtype=dtype)
    bare.module.set_submodule("embed_tokens", _embedding(ready[_EMBEDDING], path, dtype, device))
    encoder = TextEncoder(stack=bare.module, tokenize=tokenize, notes=named.notes)
    values = {name: value for name, value in bare.values.items() if name != _EMBEDDING}
    plain = {name for name, t in named.weights.items() if t.dtype == name_of(dtype) and t.scale is None}
    mapped = frozenset(name for name, value in values.items() if value.stored is not None or name in plain)
    return BareTextEncoder(encoder=encoder, values=values, mapped=mapped)


def load_image_encoder(path: Path, *, dtype: torch.dtype, device: str = "cpu") -> ImageEncoder:
    """CLIP's image half from `path`, without its last layer and its projection, which no Wan model looks at.

    Raises ValueError if the file does not fit.
    """
    named = image_to_ours(join_scales(open_weights(path)))
    config = image_config(named.weights.shapes, _settings(path))
    last = f"encoder.layers.{config.layers - 1}."
    kept = {name: t for name, t in named.weights.items() if name != PROJECTION and not name.startswith(last)}
    weights = named.weights.with_tensors(kept)
    tower = load_weights(lambda: build_image_tower(config), weights, dtype=dtype, device=device, packed=False)
    return ImageEncoder(tower=tower.to(device), side=config.side, notes=named.notes)


def text_config(shapes: Shapes, settings: Mapping[str, Any]) -> TextConfig:
    """Sizes read off our names' shapes; `settings` is config.json, or empty.

    Raises ValueError for another kind of layer than umT5's.
    """
    kind = settings.get("feed_forward_proj", "gated-gelu")
    if kind != "gated-gelu":
        raise ValueError(f"config.json asks for feed_forward_proj {kind}, but umT5 has gated-gelu.")
    vocabulary, dim = _sides(shapes, _EMBEDDING, 2)
    buckets, heads = _sides(shapes, "block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2)
    return TextConfig(
        vocabulary=vocabulary,
        dim=dim,
        attention=_sides(shapes, "block.0.layer.0.SelfAttention.q.weight", 2)[0],
        hidden=_sides(shapes, "block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        layers=sum(name.endswith(".0.layer_norm.weight") for name in shapes),
        heads=heads,
        buckets=buckets,
        **_given(settings, relative_attention_max_distance="reach", layer_norm_epsilon="eps"),
    )


def image_config(shapes: Shapes, settings: Mapping[str, Any]) -> ImageConfig:
    """Sizes read off our names' shapes; `settings` is config.json, of the image half or of both, or empty.

    Raises ValueError if the patches make no square, or if layers were taken out of the file.
    """
    inner = settings.get("vision_config", settings)
    settings = inner if isinstance(inner, dict) else settings
    dim, _, patch, _ = _sides(shapes, "embeddings.patch_embedding.weight", 4)
    tokens = _sides(shapes, "embeddings.position_embedding.weight", 2)[0]
    edge = math.isqrt(max(tokens - 1, 0))
    if edge**2 + 1 != tokens:
        raise ValueError(f"An image encoder of {tokens} tokens has no square of patches and one token for the whole.")
    layers = sum(name.endswith(".layer_norm1.weight") for name in shapes)
    whole = settings.get("num_hidden_layers", ImageConfig().layers if dim == ImageConfig().dim else layers)
    if layers != whole:
        raise ValueError(f"The image encoder has {layers} layers, but should have {whole}: its last ones were cut off.")
    return ImageConfig(
        dim=dim,
        hidden=_sides(shapes, "encoder.layers.0.mlp.fc1.weight", 2)[0],
        layers=layers,
        patch=patch,
        side=edge * patch,
        **_given(settings, num_attention_heads="heads", hidden_act="activation", layer_norm_eps="eps"),
    )


def _usable(name: str, tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """Packed weights stay packed, but for the layer whose weight's type umT5 looks at before it uses it."""
    if not (tensor.packed and name.endswith(".wo.weight")):
        return tensor
    kind, nbytes = str(dtype).removeprefix("torch."), tensor.size * dtype.itemsize
    return replace(tensor, dtype=kind, nbytes=nbytes, read=lambda: dequantize(tensor, dtype), scale=None)


def _embedding(matrix: LazyTensor, path: Path, dtype: torch.dtype, device: str) -> TokenRows:
    count, rows = matrix.shape[0], partial(_rows, matrix, dtype)
    if not rows(torch.arange(min(_FIRST, count))).any():
        raise ValueError(f"{path} holds a token embedding of zeros: it was saved by a program that had lost it.")
    return TokenRows(count, rows, device)


def _rows(matrix: LazyTensor, dtype: torch.dtype, ids: Tensor) -> Tensor:
    """Those rows of a matrix [rows, width]: ids [n] -> [n, width] in `dtype`. Only they are read and unpacked."""

    def picked(tensor: LazyTensor, scale: LazyTensor | None) -> LazyTensor:
        shape, nbytes = (len(ids), *tensor.shape[1:]), tensor.nbytes * len(ids) // tensor.shape[0]
        return replace(tensor, shape=shape, nbytes=nbytes, read=lambda: tensor.read()[ids], scale=scale)

    scale = matrix.scale
    return dequantize(picked(matrix, picked(scale, None) if scale is not None and scale.size > 1 else scale), dtype)


def tokenizer_of(path: Path) -> Path | None:
    """Where the tokenizer is that a text encoder's file is used with: in the file itself, or in a folder beside it.

    Raises ValueError if the file cannot be opened.
    """
    weights = open_weights(path)
    inside = EMBEDDED in weights or "tokenizer.ggml.model" in weights.metadata
    return path if inside else _beside(path)


def _beside(path: Path) -> Path | None:
    return next((folder for folder in beside(path) if any((folder / name).is_file() for name in FILES)), None)


def _tokenizer(path: Path, given: Path | None, weights: Weights) -> Encode:
    """The one named, else the one in the file, else the one lying beside it."""
    if given is not None:
        return read_tokenizer(given)
    if EMBEDDED in weights:
        return from_sentencepiece(_bytes(weights[EMBEDDED], path), f"{EMBEDDED} in {path}")
    if "tokenizer.ggml.model" in weights.metadata:
        return from_gguf(weights.path)
    folder = _beside(path)
    if folder is not None:
        return read_tokenizer(folder)
    raise ValueError(
        f"{path} needs the tokenizer of google/umt5-xxl: name a folder that holds {' or '.join(FILES)}, or put that "
        "folder beside it."
    )


def _bytes(tensor: LazyTensor, path: Path) -> bytes:
    if tensor.dtype != "uint8":
        raise ValueError(f"{path} holds {EMBEDDED} as {tensor.dtype}, but a file's bytes must be uint8.")
    return tensor.read().contiguous().numpy().tobytes()


def _settings(path: Path) -> dict[str, Any]:
    """The folder's config.json. A single file may lie beside the config of another model."""
    file = (path.parent if path.name.endswith(INDEX) else path) / "config.json"
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds a {type(settings).__name__}, not the settings of a model.")
    return settings


def _given(settings: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """What the settings say, under our names; nothing is made up for what they do not."""
    said = {ours: settings[theirs] for theirs, ours in names.items() if theirs in settings}
    for name, value in said.items():
        if not isinstance(value, str if name == "activation" else (int, float)):
            raise ValueError(f"config.json gives {value!r} for {name}, which is of the wrong kind.")
    return said


def _sides(shapes: Shapes, name: str, count: int) -> tuple[int, ...]:
    shape = shapes[name]
    if len(shape) != count:
        raise ValueError(f"{name} has the shape {list(shape)}, but must have {count} sides.")
    return shape
