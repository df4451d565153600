"""Where modules hold the tensors of a unit, and what they hold while the unit is away."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from pasdedeux.residency.pool import title
from pasdedeux.residency.sources import Layout
from pasdedeux.residency.units import Unit

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Home:
    """Where a module holds a tensor, and what it holds while the tensor is away."""

    owner: nn.Module
    name: str
    away: Tensor

    def put(self, value: Tensor) -> None:
        """A parameter has to be put where a parameter was."""
        setattr(self.owner, self.name, value)


class Homes:
    """The homes of a unit's tensors. A tensor that a module holds under two names has two, and may have either name.

    Raises ValueError unless the layout has all that is on meta, nothing unknown, and the module's shapes.
    """

    def __init__(self, unit: Unit, module: nn.Module, without: Sequence[nn.Module], layout: Layout) -> None:
        self._layout = layout
        self._homes = homes_of(module, without)
        placed = {tensor.name: tensor.shape for tensor in layout.tensors}
        known = {name: homes[0].away for name, homes in self._homes.items()}
        given = {id(known[name]) for name in placed if name in known}
        faults = {
            "unknown": [name for name in placed if name not in known],
            "missing": [name for name, away in known.items() if away.is_meta and id(away) not in given],
            "misshaped": [name for name, shape in placed.items() if name in known and known[name].shape != shape],
        }
        said = [f"{fault}: {', '.join(names[:SHOWN])}" for fault, names in faults.items() if names]
        if said:
            raise ValueError(f"The source's tensors do not fit {title(unit)}; {'; '.join(said)}.")

    def values(self, buffer: Tensor) -> list[tuple[Home, Tensor]]:
        """What lies in a buffer, for each home."""
        pairs = list[tuple[Home, Tensor]]()
        for name, view in self._layout.views(buffer).items():
            homes = self._homes[name]
            value = nn.Parameter(view, requires_grad=False) if isinstance(homes[0].away, nn.Parameter) else view
            pairs.extend((home, value) for home in homes)
        return pairs

    def empty(self) -> None:
        """What the source has is put back to meta."""
        for tensor in self._layout.tensors:
            for home in self._homes[tensor.name]:
                home.put(home.away)


def homes_of(module: nn.Module, without: Sequence[nn.Module]) -> dict[str, list[Home]]:
    """By name, all homes of the tensor that has the name; `without` are the submodules that are left out."""
    hidden = {id(inner) for block in without for inner in block.modules()}
    by_tensor: dict[int, list[Home]] = {}
    found: dict[str, list[Home]] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        if id(owner) in hidden:
            continue
        own = owner.named_parameters(recurse=False, remove_duplicate=False)
        for name, tensor in chain(own, owner.named_buffers(recurse=False, remove_duplicate=False)):
            homes = by_tensor.setdefault(id(tensor), [])
            homes.append(Home(owner, name, homes[0].away if homes else _on_meta(tensor)))
            found[f"{path}.{name}" if path else name] = homes
    return found


def _on_meta(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor
    away = torch.empty_like(tensor, device="meta")
    return nn.Parameter(away, requires_grad=False) if isinstance(tensor, nn.Parameter) else away
