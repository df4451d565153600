"""Weights into a module, strictly.

The module is built on the meta device, so nothing is allocated twice, and the tensors are assigned to it. Every name
and shape is compared first, and afterwards nothing may be left on meta: weights that do not fit are refused with the
names that do not. Values stored in the wanted type stay mapped from their file.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pasdedeux.checkpoints.formats.mapped import InFile
from pasdedeux.checkpoints.formats.safetensors_files import open_safetensors
from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.linear import PackedLinear, scale_bytes, stored_bytes
from pasdedeux.checkpoints.packing.quantized import dequantize
from pasdedeux.checkpoints.tensors import LazyTensor, Weights

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
Branch = tuple[Tensor, Tensor, float]  # down [rank, in], up [out, rank], what their product is multiplied by
SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor that a module is to hold: its shape and type, and `make`, which gives it on a device.

    stored: where its bytes lie in a file, if they lie there as they are to be.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[str], Tensor]
    stored: InFile | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Skeleton(Generic[Module]):
    """A module on meta, in eval mode and without gradients, and by name the values of its parameters and buffers."""

    module: Module
    values: Mapping[str, Value]


def load_weights(
    build: Callable[[], Module],
    weights: Weights,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    packed: bool = True,
    beside: Mapping[str, Sequence[Branch]] | None = None,
) -> Module:
    """`build()` with the weights in `dtype` on `device`, in eval mode and without gradients; raises as `skeleton`."""
    bare = skeleton(build, weights, dtype=dtype, packed=packed, beside=beside)
    bare.module.load_state_dict({name: value.make(device) for name, value in bare.values.items()}, assign=True)
    return bare.module.requires_grad_(False)


def skeleton(
    build: Callable[[], Module],
    weights: Weights,
    *,
    dtype: torch.dtype,
    packed: bool = True,
    beside: Mapping[str, Sequence[Branch]] | None = None,
) -> Skeleton[Module]:
    """`build()` for the weights in `dtype`, of which none is read yet.

    packed: whether a plain linear layer keeps a packed weight packed, to unpack it when it is used; everything else
    that is packed is unpacked as it is made. beside: low-rank branches by weight name, for layers that stay packed.
    Raises ValueError naming the first keys that are missing, unexpected, misshaped, of the wrong kind or left without
    a value.
    """
    module = on_meta(build)
    check(module, weights.shapes, weights.path)
    _check_kinds(module, weights)
    kept = _packable(module, weights) if packed else []
    _check_beside(beside or {}, kept, weights)
    values = {name: _value(tensor, dtype) for name, tensor in weights.items()}
    for name in kept:
        weight, bias = weights[f"{name}.weight"], dict(module.get_submodule(name).named_parameters()).get("bias")
        branches = (beside or {}).get(f"{name}.weight", ())
        del values[f"{name}.weight"]
        module.set_submodule(name, _bare_layer(weight, bias, dtype, branches))
        values |= {f"{name}.{part}": value for part, value in _packed_values(weight, dtype, branches).items()}
    every = chain(module.named_parameters(), module.named_buffers())
    left = [name for name, tensor in every if tensor.is_meta and name not in values]
    if left:
        raise ValueError(f"{weights.path} gives no value for {_first(left)}, which no file can hold.")
    return Skeleton(module=module.eval().requires_grad_(False), values=values)


def _value(tensor: LazyTensor, dtype: torch.dtype) -> Value:
    """As the module is to hold it: floats in `dtype`."""
    kind = dtype if _is_float(tensor) else getattr(torch, tensor.dtype)
    plain = isinstance(tensor.read, InFile) and tensor.scale is None and tensor.read.dtype == kind
    return Value(
        shape=tensor.shape,
        dtype=kind,
        make=lambda device: dequantize(tensor, dtype, device),
        stored=tensor.read if plain and isinstance(tensor.read, InFile) else None,
    )


def _bare_layer(
    weight: LazyTensor, bias: Tensor | None, dtype: torch.dtype, branches: Sequence[Branch]
) -> PackedLinear:
    """The layer for a packed weight, on meta."""
    layer = PackedLinear(_hollow(weight), None if bias is None else bias.to(dtype), dtype, "meta")
    for down, up, scale in branches:
        layer.add_branch(down.to("meta", dtype), up.to("meta", dtype), scale)
    return layer


def _hollow(tensor: LazyTensor) -> LazyTensor:
    """The same without values: what is read from it is on meta."""
    if tensor.dtype in BLOCKS:
        shape, kind = BLOCKS[tensor.dtype].stored_shape(tensor.shape), torch.uint8
    else:
        shape, kind = tensor.shape, getattr(torch, tensor.dtype)
    scale = None if tensor.scale is None else _hollow(tensor.scale)
    return replace(tensor, read=lambda: torch.empty(shape, dtype=kind, device="meta"), scale=scale)


def _packed_values(weight: LazyTensor, dtype: torch.dtype, branches: Sequence[Branch]) -> dict[str, Value]:
    """What a packed layer holds beside its bias."""
    values = {"packed": _bytes(weight, stored_bytes), "typed": _held(torch.empty(0, dtype=dtype))}
    if weight.scale is not None:
        values["scale"] = _bytes(weight.scale, scale_bytes)
    for k, (down, up, _) in enumerate(branches):
        values |= {f"down_{k}": _held(down.to(dtype)), f"up_{k}": _held(up.to(dtype))}
    return values


def _bytes(tensor: LazyTensor, read: Callable[[LazyTensor, str], Tensor]) -> Value:
    shape = tuple(read(_hollow(tensor), "meta").shape)
    whole = isinstance(tensor.read, InFile) and math.prod(shape) == tensor.nbytes and read is stored_bytes
    stored = tensor.read if whole and isinstance(tensor.read, InFile) else None
    return Value(shape=shape, dtype=torch.uint8, make=lambda device: read(tensor, device), stored=stored)


def _held(tensor: Tensor) -> Value:
    return Value(shape=tuple(tensor.shape), dtype=tensor.dtype, make=tensor.to)


def load_module(build: Callable[[], Module], path: Path, *, dtype: torch.dtype, device: str = "cpu") -> Module:
    """`build()` with the weights of the safetensors file `path`, as `load_weights` does, and nothing packed."""
    return load_weights(build, open_safetensors(path), dtype=dtype, device=device, packed=False)


def on_meta(build: Callable[[], Module]) -> Module:
    """The module with shapes and types, but no memory behind them."""
    with torch.device("meta"), _Undrawn():
        return build()


class _Undrawn(TorchFunctionMode):
    """Values that nobody will see are not drawn: torch would import its compiler for that, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


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
