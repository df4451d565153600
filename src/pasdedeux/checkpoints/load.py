"""A safetensors file into a module, strictly.

The module is built on the meta device, so nothing is allocated twice, and the file's tensors are assigned to
it. Every name and shape is compared first, and afterwards nothing may be left on meta: a file that does not
fit is refused with the names that do not.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 3


def load_module(build: Callable[[], Module], path: Path, *, dtype: torch.dtype, device: str = "cpu") -> Module:
    """`build()` with the weights of `path` in `dtype` on `device`, in eval mode and without gradients.

    Raises ValueError naming the first keys that are missing, unexpected, misshaped or left without a value.
    """
    module = on_meta(build)
    check(module, shapes(path), path)
    module.load_state_dict(_tensors(path, dtype, device), strict=True, assign=True)
    left = [name for name, t in chain(module.named_parameters(), module.named_buffers()) if t.is_meta]
    if left:
        raise ValueError(f"{path} gives no value for {_first(left)}, which no file can hold.")
    return module.eval().requires_grad_(False)


def on_meta(build: Callable[[], Module]) -> Module:
    """The module with shapes and types, but no memory behind them."""
    with torch.device("meta"):
        return build()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header. Raises ValueError if it is no such file."""
    if not path.is_file():
        raise ValueError(f"There is no file of weights at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error


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


def _tensors(path: Path, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device=device) as file:
        named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in named.items()}


def _first(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(islice(every, SHOWN)) + more


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
