"""Names of the text and image encoders' weights: what the files call them, and what our modules do.

Ours are those of `transformers` inside the encoder. The text encoder comes in three dialects: "native" (the Wan
release), "hf" (Hugging Face, and ComfyUI's single files) and "gguf" (llama.cpp). The image encoder comes in two:
"native", which keeps query, key and value in one matrix, and "hf".
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch

from pasdedeux.checkpoints.tensors import LazyTensor, Weights

SHOWN = 3

_ATTENTION, _FORWARD = "block.{}.layer.0.SelfAttention.", "block.{}.layer.1.DenseReluDense."
_TEXT = {  # ours: native, gguf
    "embed_tokens.weight": ("token_embedding.weight", "token_embd.weight"),
    "final_layer_norm.weight": ("norm.weight", "enc.output_norm.weight"),
    "block.{}.layer.0.layer_norm.weight": ("blocks.{}.norm1.weight", "enc.blk.{}.attn_norm.weight"),
    _ATTENTION + "q.weight": ("blocks.{}.attn.q.weight", "enc.blk.{}.attn_q.weight"),
    _ATTENTION + "k.weight": ("blocks.{}.attn.k.weight", "enc.blk.{}.attn_k.weight"),
    _ATTENTION + "v.weight": ("blocks.{}.attn.v.weight", "enc.blk.{}.attn_v.weight"),
    _ATTENTION + "o.weight": ("blocks.{}.attn.o.weight", "enc.blk.{}.attn_o.weight"),
    _ATTENTION + "relative_attention_bias.weight": (
        "blocks.{}.pos_embedding.embedding.weight",
        "enc.blk.{}.attn_rel_b.weight",
    ),
    "block.{}.layer.1.layer_norm.weight": ("blocks.{}.norm2.weight", "enc.blk.{}.ffn_norm.weight"),
    _FORWARD + "wi_0.weight": ("blocks.{}.ffn.gate.0.weight", "enc.blk.{}.ffn_gate.weight"),
    _FORWARD + "wi_1.weight": ("blocks.{}.ffn.fc1.weight", "enc.blk.{}.ffn_up.weight"),
    _FORWARD + "wo.weight": ("blocks.{}.ffn.fc2.weight", "enc.blk.{}.ffn_down.weight"),
}
_TEXT_NAMES: Mapping[str, Mapping[str, str]] = {
    "native": {ours: native for ours, (native, _) in _TEXT.items()},
    "hf": {ours: "encoder." + ours for ours in _TEXT} | {"embed_tokens.weight": "shared.weight"},
    "gguf": {ours: gguf for ours, (_, gguf) in _TEXT.items()},
}
_COPY = "encoder.embed_tokens.weight"
"""The token embedding's second name in Hugging Face files; some files hold only this one."""
_NOT_TEXT = re.compile(r"decoder\.|lm_head\.|encoder\.embed_tokens\.|spiece_model$|scaled_fp8$")

_LAYER = "encoder.layers.{}."
_IMAGE = {  # ours: native, of what has a bias too
    "pre_layrnorm": "pre_norm",
    "post_layernorm": "post_norm",
    _LAYER + "layer_norm1": "transformer.{}.norm1",
    _LAYER + "self_attn.out_proj": "transformer.{}.attn.proj",
    _LAYER + "layer_norm2": "transformer.{}.norm2",
    _LAYER + "mlp.fc1": "transformer.{}.mlp.0",
    _LAYER + "mlp.fc2": "transformer.{}.mlp.2",
}
_QKV = tuple(_LAYER + f"self_attn.{part}_proj" for part in "qkv")
_FUSED = "transformer.{}.attn.to_qkv"
_CLASS, _POSITIONS = "embeddings.class_embedding", "embeddings.position_embedding.weight"
_PATCHES, PROJECTION = "embeddings.patch_embedding.weight", "visual_projection.weight"
_NOT_IMAGE = re.compile(r"(textual|text_model|text_projection)\.|(log|logit)_scale$|.*position_ids$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """Weights under our names, the dialect they came in, and a sentence on what was left out on purpose."""

    weights: Weights
    dialect: str
    notes: tuple[str, ...] = ()


def text_to_ours(weights: Weights) -> Named:
    """A text encoder's weights, scales joined, under our names.

    Raises ValueError if the file is no umT5, or if a name is missing or unknown.
    """
    dialect = _text_dialect(weights)
    if dialect == "hf" and "shared.weight" not in weights and _COPY in weights:
        tensors = dict(weights.tensors)
        weights = weights.with_tensors({"shared.weight": tensors.pop(_COPY)} | tensors)
    rows = _TEXT_NAMES[dialect]
    count = _layers(weights, rows["block.{}.layer.0.layer_norm.weight"])
    names = _filled(rows, count)
    bias = _ATTENTION + "relative_attention_bias.weight"
    if names.get(bias.format(0)) in weights and count > 1 and names[bias.format(1)] not in weights:
        raise ValueError(
            f"{weights.path} is a T5 text encoder, but Wan needs umT5: only its first block knows positions "
            f"({names[bias.format(1)]} is missing)."
        )
    left = _strict(weights, names.values(), _NOT_TEXT, "umT5 text encoder")
    tensors = {ours: weights[theirs] for ours, theirs in names.items()}
    return Named(weights=weights.with_tensors(tensors), dialect=dialect, notes=_unread(left, "decoder", "lm_head"))


def text_from_ours(weights: Weights, dialect: str) -> Weights:
    """The way back: our names into "native", "hf" or "gguf"."""
    if dialect not in _TEXT_NAMES:
        raise ValueError(f"A text encoder is written as {', '.join(_TEXT_NAMES)}, not {dialect}.")
    rows = _TEXT_NAMES[dialect]
    names = _filled(rows, _layers(weights, "block.{}.layer.0.layer_norm.weight"))
    return weights.with_tensors({theirs: weights[ours] for ours, theirs in names.items()})


def image_to_ours(weights: Weights) -> Named:
    """An image encoder's weights under our names: the picture's tower and, if there, its projection.

    Raises ValueError if the file is no CLIP image encoder, or if a name is missing or unknown.
    """
    for prefix in ("visual.", ""):
        if prefix + "cls_embedding" in weights:
            return _native_image(weights, prefix)
    for prefix in ("vision_model.", ""):
        if prefix + _CLASS in weights:
            return _hf_image(weights, prefix)
    raise ValueError(
        f"{weights.path} is no CLIP image encoder: it has neither visual.cls_embedding nor vision_model.{_CLASS}, but "
        f"{listed(weights)}."
    )


def image_from_ours(weights: Weights, dialect: str) -> Weights:
    """The way back: our names into "native" or "hf". The text half of a native file is not made up again."""
    if dialect == "hf":
        return weights.with_tensors({_hf_name(name, "vision_model."): tensor for name, tensor in weights.items()})
    if dialect != "native":
        raise ValueError(f"An image encoder is written as native or hf, not {dialect}.")
    count = _layers(weights, _LAYER + "layer_norm1.weight")
    tensors = {theirs: weights[ours] for ours, theirs in _same(count).items()}
    dim = weights[_CLASS].shape[0]
    tensors["cls_embedding"] = reshaped(weights[_CLASS], (1, 1, dim))
    tensors["pos_embedding"] = reshaped(weights[_POSITIONS], (1, *weights[_POSITIONS].shape))
    for ours, theirs in _fused(count).items():
        tensors[theirs] = stacked([weights[name] for name in ours])
    if PROJECTION in weights:
        tensors["head"] = transposed(weights[PROJECTION])
    return weights.with_tensors({"visual." + name: tensor for name, tensor in tensors.items()})


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(islice(every, SHOWN)) + more if every else "nothing"


def rows(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Some rows of a stored tensor, with what belongs to them of its scale."""
    scale = tensor.scale
    if scale is not None and scale.shape[:1] == tensor.shape[:1] and scale.size > 1:
        scale = rows(scale, start, stop)
    shape = (stop - start, *tensor.shape[1:])
    nbytes = tensor.nbytes * (stop - start) // tensor.shape[0]
    return replace(tensor, shape=shape, nbytes=nbytes, read=lambda: tensor.read()[start:stop], scale=scale)


def stacked(parts: list[LazyTensor]) -> LazyTensor:
    """Tensors of one type and width, one below the other.

    Raises ValueError where they differ in type or each have a scale of their own.
    """
    first = parts[0]
    if any(part.dtype != first.dtype or part.shape[1:] != first.shape[1:] for part in parts):
        raise ValueError(f"Query, key and value must be of one type and width to share a matrix, not {_kinds(parts)}.")
    if any(part.scale is not None for part in parts):
        raise ValueError("Query, key and value with scales of their own cannot share a matrix; dequantise them first.")
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    nbytes = sum(part.nbytes for part in parts)
    return replace(first, shape=shape, nbytes=nbytes, read=lambda: torch.cat([part.read() for part in parts]))


def reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The same values in another shape."""
    if math.prod(shape) != tensor.size:
        raise ValueError(f"{tensor.size} values cannot have the shape {list(shape)}.")
    return replace(tensor, shape=shape, read=lambda: tensor.read().reshape(shape))


def transposed(tensor: LazyTensor) -> LazyTensor:
    """A matrix with rows and columns exchanged."""
    return replace(tensor, shape=tensor.shape[::-1], read=lambda: tensor.read().T.contiguous())


def _text_dialect(weights: Weights) -> str:
    for dialect, names in _TEXT_NAMES.items():
        if names["embed_tokens.weight"] in weights:
            return dialect
    if _COPY in weights:
        return "hf"
    wanted = " nor ".join(names["embed_tokens.weight"] for names in _TEXT_NAMES.values())
    raise ValueError(f"{weights.path} is no umT5 text encoder: it has neither {wanted}, but {listed(weights)}.")


def _native_image(weights: Weights, prefix: str) -> Named:
    bare = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    count = _layers(bare, "transformer.{}.norm1.weight")
    same, fused = _same(count), _fused(count)
    wanted = [*same.values(), *fused.values(), "cls_embedding", "pos_embedding"]
    kept = {prefix + name for name in wanted}
    optional = {prefix + "head"}
    left = _strict(weights, kept, _NOT_IMAGE, "CLIP image encoder", optional)
    tensors = {ours: bare[theirs] for ours, theirs in same.items()}
    tensors[_CLASS] = reshaped(bare["cls_embedding"], (bare["cls_embedding"].size,))
    tensors[_POSITIONS] = reshaped(bare["pos_embedding"], bare["pos_embedding"].shape[-2:])
    for ours, theirs in fused.items():
        tensors |= _thirds(ours, bare[theirs], prefix + theirs)
    if "head" in bare:
        tensors[PROJECTION] = transposed(bare["head"])
    return Named(weights=weights.with_tensors(tensors), dialect="native", notes=_unread(left, "textual", "log_scale"))


def _hf_image(weights: Weights, prefix: str) -> Named:
    count = _layers(weights, prefix + _LAYER + "layer_norm1.weight")
    ours = [*_same(count), *(name for names in _fused(count) for name in names), _CLASS, _POSITIONS]
    names = {name: _hf_name(name, prefix) for name in ours}
    left = _strict(weights, names.values(), _NOT_IMAGE, "CLIP image encoder", {PROJECTION})
    if PROJECTION in weights:
        names[PROJECTION] = PROJECTION
    tensors = {name: weights[theirs] for name, theirs in names.items()}
    notes = _unread(left, "text_model", "text_projection", "logit_scale")
    return Named(weights=weights.with_tensors(tensors), dialect="hf", notes=notes)


def _thirds(ours: tuple[str, ...], fused: LazyTensor, name: str) -> dict[str, LazyTensor]:
    if not fused.shape or fused.shape[0] % 3:
        raise ValueError(f"{name} holds query, key and value, but its shape {list(fused.shape)} is not of three parts.")
    each = fused.shape[0] // 3
    return {part: rows(fused, i * each, (i + 1) * each) for i, part in enumerate(ours)}


def _same(count: int) -> dict[str, str]:
    table = {f"{ours}.{kind}": f"{native}.{kind}" for ours, native in _IMAGE.items() for kind in ("weight", "bias")}
    return _filled(table, count) | {_PATCHES: "patch_embedding.weight"}


def _fused(count: int) -> dict[tuple[str, ...], str]:
    kinds = [(i, kind) for i in range(count) for kind in ("weight", "bias")]
    return {tuple(f"{name.format(i)}.{kind}" for name in _QKV): f"{_FUSED.format(i)}.{kind}" for i, kind in kinds}


def _hf_name(ours: str, prefix: str) -> str:
    return ours if ours == PROJECTION else prefix + ours


def _filled(table: Mapping[str, str], count: int) -> dict[str, str]:
    one = {ours: theirs for ours, theirs in table.items() if "{}" not in ours}
    each = [(i, ours) for i in range(count) for ours in table if "{}" in ours]
    return one | {ours.format(i): table[ours].format(i) for i, ours in each}


def _layers(names: Iterable[str], row: str) -> int:
    """How many names there are of this form; that they are numbered without a gap is seen when they are looked up."""
    pattern = re.compile(r"(\d+)".join(map(re.escape, row.split("{}"))))
    return sum(pattern.fullmatch(name) is not None for name in names)


def _strict(
    weights: Weights, wanted: Iterable[str], ignored: re.Pattern[str], what: str, optional: Iterable[str] = ()
) -> list[str]:
    """The names that are left out on purpose. Raises ValueError naming the first that are missing or unknown."""
    needed = set(wanted)
    lacking = [name for name in needed if name not in weights]
    known = needed.union(optional)
    left = [name for name in weights if name not in known]
    unknown = [name for name in left if not ignored.match(name)]
    faults = {"lacks": sorted(lacking), "holds unknown": unknown}
    said = [f"{fault} {listed(names)}" for fault, names in faults.items() if names]
    if said:
        raise ValueError(f"{weights.path} is not a whole {what}: it {' and '.join(said)}.")
    return left


def _unread(left: list[str], *parts: str) -> tuple[str, ...]:
    counts = {part: sum(name.startswith(part) for name in left) for part in parts}
    said = [f"{part} ({n} tensor{'s' if n > 1 else ''})" for part, n in counts.items() if n]
    return (f"{' and '.join(said)} of the file {'is' if len(said) == 1 else 'are'} not used",) if said else ()


def _kinds(parts: list[LazyTensor]) -> str:
    return ", ".join(f"{part.dtype} {list(part.shape)}" for part in parts)
