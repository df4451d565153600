"""The scales of 8-bit floats, folded into the weights they belong to.

Known are ComfyUI's `X.scale_weight` with its marker `scaled_fp8`, its newer `X.weight_scale` with `X.comfy_quant` or a
note in the header, and lightx2v's `X.weight_scale` per row. All of them multiply. What is stored in another way is
refused: applied wrongly, or not at all, it would be a model that runs and is wrong.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pasdedeux.checkpoints.tensors import LazyTensor, Weights

SCALES = (".scale_weight", ".weight_scale")
INPUT_SCALES = (".scale_input", ".input_scale")
MARKER = "scaled_fp8"
NOTE = ".comfy_quant"
HEADER = "_quantization_metadata"
SECOND = ".weight_scale_2"  # NVFP4's
FORMATS = ("float8_e4m3fn", "float8_e5m2")
FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_NOTE = 1 << 16
IN_BLOCK = re.compile(r"blocks?\.\d+\.")


def join_scales(weights: Weights) -> Weights:
    """The weights with their scales folded in, and no keys left that only say how they are stored.

    Scales of a layer's input are left out, since no product is computed in 8 bits here; how many there were is said
    in the metadata under "input_scales". Raises ValueError for a scale without a weight, of a shape that is neither a
    number nor one per row, or of a format that is not supported.
    """
    for layer, note in _notes(weights):
        _check_note(weights, layer, note)
    scales = dict(_scales(weights))
    _check_whole(weights, scales)
    inputs = [name for name in weights if name.endswith(INPUT_SCALES) and _layer(name) + ".weight" in weights]
    dropped = {*inputs, *(name for name in weights if _is_marker(name) or name.endswith((NOTE, *SCALES)))}
    tensors = {
        name: replace(tensor, scale=scales[name]) if name in scales else tensor
        for name, tensor in weights.items()
        if name not in dropped
    }
    metadata = {name: text for name, text in weights.metadata.items() if name != HEADER}
    if inputs:
        metadata["input_scales"] = str(len(inputs))
    return replace(weights, tensors=tensors, metadata=metadata)


def _scales(weights: Weights) -> Iterator[tuple[str, LazyTensor]]:
    """The name of each weight that has a scale, and that scale."""
    for name, scale in weights.items():
        if name.endswith(SECOND):
            raise ValueError(f"{weights.path} stores {_layer(name)} as NVFP4, which is not supported; fp8 is.")
        if name.endswith(SCALES):
            weight = _layer(name) + ".weight"
            _check_scale(weights, name, weight)
            yield weight, scale


def _check_whole(weights: Weights, scales: Mapping[str, LazyTensor]) -> None:
    """Raise ValueError where some layers of a block have scales and one of 8-bit floats has none: it was lost."""
    for name, tensor in weights.items():
        lost = tensor.dtype.startswith("float8") and name.endswith(".weight") and name not in scales
        if scales and lost and IN_BLOCK.search(name):
            raise ValueError(f"{weights.path} stores {name} as {tensor.dtype} without the scale that others have.")


def _check_scale(weights: Weights, name: str, weight: str) -> None:
    scale, tensor = weights[name], weights.get(weight)
    if tensor is None:
        raise ValueError(f"{weights.path} holds {name} without a {weight}.")
    if _layer(name) + SCALES[0] in weights and _layer(name) + SCALES[1] in weights:
        raise ValueError(f"{weights.path} holds two scales of {weight}.")
    if not tensor.dtype.startswith("float8") and tensor.dtype not in FLOATS:
        raise ValueError(f"{weights.path} stores {weight} as {tensor.dtype} with a scale; only fp8 is supported so.")
    rows = tensor.shape[0] if tensor.shape else 1
    if scale.dtype not in FLOATS or (scale.size != 1 and scale.shape not in ((rows,), (rows, 1))):
        raise ValueError(
            f"{weights.path} holds {name} as {scale.dtype} of shape {list(scale.shape)}; "
            f"it must be a number, or one for each of {rows} rows."
        )


def _notes(weights: Weights) -> Iterator[tuple[str, Any]]:
    """What ComfyUI's notes say of each layer, beside it or in the header."""
    for name, tensor in weights.items():
        if name.endswith(NOTE):
            if tensor.nbytes > MAX_NOTE or tensor.dtype != "uint8":
                raise ValueError(f"{weights.path} holds {name} as {tensor.nbytes} bytes of {tensor.dtype}.")
            yield _layer(name), _parsed(weights, name, bytes(tensor.read().flatten().tolist()))
    if HEADER in weights.metadata:
        noted = _parsed(weights, HEADER, weights.metadata[HEADER].encode())
        layers = noted.get("layers", {}) if isinstance(noted, Mapping) else None
        if not isinstance(layers, Mapping):
            raise ValueError(f"The {HEADER} of {weights.path} cannot be read.")
        yield from layers.items()


def _parsed(weights: Weights, name: str, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The {name} of {weights.path} cannot be read ({error}).") from error


def _check_note(weights: Weights, layer: str, note: Any) -> None:
    kind = note.get("format") if isinstance(note, Mapping) else None
    if kind not in FORMATS or note.get("convrot"):
        said = f"{kind}, rotated" if isinstance(note, Mapping) and note.get("convrot") else kind
        raise ValueError(
            f"{weights.path} stores {layer} as {said}, which is not supported; supported are {' and '.join(FORMATS)}."
        )
    tensor = weights.get(f"{layer}.weight")
    if tensor is None or tensor.dtype != kind:
        found = "is missing" if tensor is None else f"is stored as {tensor.dtype}"
        raise ValueError(f"{weights.path} says that {layer}.weight is {kind}, but it {found}.")


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _is_marker(name: str) -> bool:
    return name == MARKER or name.endswith(f".{MARKER}")
