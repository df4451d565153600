"""Weights into a module, strictly.

The module is built on the meta device, so nothing is allocated twice, and the tensors are assigned to it. Every name
and shape is compared first, and afterwards nothing may be left on meta: weights that do not fit are refused with the
names that do not. Values stored in the wanted type stay mapped from their file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.packing.linear import PackedLinear
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
Branch = tuple[Tensor, Tensor, float]  # down [rank, in], up [out, rank], what their product is multiplied by
SHOWN = 3


def load_weights(
    build: Callable[[], Module],
    weights: Weights,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    packed: bool = True,
    beside: Mapping[str, Sequence[Branch]] | None = None,
) -> Module:
    """`build()` with the weights in `dtype` on `device`, in eval mode and without gradients.

    packed: whether a plain linear layer keeps a packed weight packed, to unpack it at every use; everything else that
    is packed is unpacked here. beside: low-rank branches by weight name, for layers that stay packed.
    Raises ValueError naming the first keys that are missing, unexpected, misshaped, of the wrong kind or left without
    a value.
    """
    module = on_meta(build)
    check(module, weights.shapes, weights.path)
    _check_kinds(module, weights)
    kept = _packable(module, weights) if packed else []
    _check_beside(beside or {}, kept, weights)
    held = {f"{name}.{part}" for name in kept for part in ("weight", "bias")}
    rest = {name: dequantize(tensor, dtype, device) for name, tensor in weights.items() if name not in held}
    module.load_state_dict(rest, strict=False, assign=True)
    for name in kept:
        bias = dequantize(weights[f"{name}.bias"], dtype, device) if f"{name}.bias" in weights else None
        layer = PackedLinear(weights[f"{name}.weight"], bias, dtype, device)
        for down, up, scale in (beside or {}).get(f"{name}.weight", ()):
            layer.add_branch(down.to(dtype), up.to(dtype), scale)
        module.set_submodule(name, layer)
    left = [name for name, t in chain(module.named_parameters(), module.named_buffers()) if t.is_meta]
    if left:
        raise ValueError(f"{weights.path} gives no value for {_first(left)}, which no file can hold.")
    return module.eval().requires_grad_(False)


def load_module(build: Callable[[], Module], path: Path, *, dtype: torch.dtype, device: str = "cpu") -> Module:
    """`build()` with the weights of the safetensors file `path`, as `load_weights` does, and nothing packed."""
    return load_weights(build, open_safetensors(path), dtype=dtype, device=device, packed=False)


def on_meta(build: Callable[[], Module]) -> Module:
    """The module with shapes and types, but no memory behind them."""
    with torch.device("meta"):
        return build()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header. Raises ValueError if it is no such file."""
    return open_safetensors(path).shapes


def check(module: nn.Module, found: Shapes, path: Path) -> None:
    """Raise ValueError unless `found` has exactly the module's names and shapes."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    misshaped = [n for n in wanted if n in found and wanted[n] != found[n]]
    faults = {
        "lacks": [n for n in wanted if n not in found],
        "holds unknown": [n for n in found if n not in wanted],
        "has the wrong shape for": [f"{n} ({_by(found[n])}, not {_by(wanted[n])})" for n in misshaped],
    }
    said = [f"{fault} {_first(names)}" for fault, names in faults.items() if names]
    if said:
        raise ValueError(f"{path} does not fit a {type(module).__name__}: it {' and '.join(said)}.")


def _check_kinds(module: nn.Module, weights: Weights) -> None:
    """Whole numbers in the place of floats, or the other way round, are another model's, or a file gone wrong."""
    wanted = module.state_dict()
    strange = [
        f"{name} ({tensor.dtype}, not {str(wanted[name].dtype).removeprefix('torch.')})"
        for name, tensor in weights.items()
        if wanted[name].is_floating_point() != _is_float(tensor)
    ]
    if strange:
        raise ValueError(
            f"{weights.path} does not fit a {type(module).__name__}: it has the wrong type for {_first(strange)}."
        )


def _is_float(tensor: LazyTensor) -> bool:
    return tensor.packed or getattr(torch, tensor.dtype).is_floating_point


def _packable(module: nn.Module, weights: Weights) -> list[str]:
    """The plain linear layers whose weights are packed; a subclass may do more with its weight than multiply."""
    linear = [name for name, m in module.named_modules(remove_duplicate=False) if type(m) is nn.Linear]
    return [name for name in linear if name and weights[f"{name}.weight"].packed]


def _check_beside(beside: Mapping[str, Sequence[Branch]], kept: Sequence[str], weights: Weights) -> None:
    loose = [name for name in beside if name.removesuffix(".weight") not in kept or not name.endswith(".weight")]
    if loose:
        raise ValueError(
            f"A branch can lie beside a packed linear weight only; {_first(loose)} of {weights.path} is none."
        )


def _first(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(islice(every, SHOWN)) + more


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
