"""A plan carried out: blocks are copied into slots beside the compute, and computed where they lie.

One thread copies, in the order of the plan, and never waits for anything but the end of the use whose place it needs.
On a GPU it only issues: the copy stream and the stream that computes wait for each other by events, so neither host nor
device stands still. Elsewhere it reads from the source straight into the slot while the block before computes.

All changes to modules happen in the thread that computes, in hooks around each block's forward.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from pasdedeux.residency.copies import copies_for
from pasdedeux.residency.homes import Home, Homes, homes_of
from pasdedeux.residency.pool import Pool, Progress, Slot, route, title
from pasdedeux.residency.sources import Source
from pasdedeux.residency.units import TRUNK, Plan, Unit

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """A module and those of its submodules that move, in the order of their units; the rest is its trunk."""

    module: nn.Module
    blocks: Sequence[nn.Module]

    def units(self, number: int, tensors: Mapping[str, T]) -> dict[Unit, dict[str, T]]:
        """The module's tensors, or what stands for them, by unit of model `number`, under their names in the unit."""
        prefixes = {id(module): f"{name}." for name, module in self.module.named_modules()}
        index = {prefixes[id(block)]: k for k, block in enumerate(self.blocks)}
        found: dict[Unit, dict[str, T]] = {Unit(number, k): {} for k in (*index.values(), TRUNK)}
        for name, tensor in tensors.items():
            prefix = next((p for p in _prefixes(name) if p in index), "")
            found[Unit(number, index.get(prefix, TRUNK))][name.removeprefix(prefix)] = tensor
        return found


def _prefixes(name: str) -> Iterator[str]:
    """ "a.b.c" -> "a.b.", "a."."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield f"{name}."


class Streamer:
    """Carries a plan out, once: a context manager around the whole run.

    models: in the order of the units' numbers. Inside, forwards of the blocks have to come in the plan's order, each as
    many times as its use has passes; unless `hooked` is False: then whoever computes says so, by `begin` and `end`.
    Torch's compiled blocks work if they are compiled before this is entered. Trunks
    are loaded on entering and stay. At the end, whatever way it comes, everything is given back: the tensors that the
    source has are on meta again, and what was raised first, in this thread or the other, is raised.
    moved: bytes of the blocks loaded so far; waited: seconds the host has waited for loads.
    """

    def __init__(
        self,
        models: Sequence[Streamed],
        source: Source,
        plan: Plan,
        device: torch.device | str,
        *,
        hooked: bool = True,
    ) -> None:
        self._source, self._hooked = source, hooked
        self._device = torch.device(device)
        self._units = {id(block): Unit(m, b) for m, model in enumerate(models) for b, block in enumerate(model.blocks)}
        if len(self._units) != sum(len(model.blocks) for model in models):
            raise ValueError("One block is given twice; each block has to be a module of its own.")
        self._blocks = {self._units[id(block)]: block for model in models for block in model.blocks}
        for use in plan.uses:
            if use.unit.index != TRUNK and use.unit not in self._blocks:
                raise ValueError(f"The plan uses {title(use.unit)}, which no model has.")
        self._route = route(plan, lambda unit: source.layout(unit).nbytes)
        self._homes = {unit: Homes(unit, block, (), source.layout(unit)) for unit, block in self._blocks.items()}
        for number, model in enumerate(models):
            unit = Unit(number, TRUNK)
            if homes_of(model.module, model.blocks):
                self._homes[unit] = Homes(unit, model.module, model.blocks, source.layout(unit))
        self._values: dict[tuple[Unit, int], list[tuple[Home, Tensor]]] = {}
        self._bound: dict[Unit, int] = {}  # the number of the load that a unit's tensors are of
        self._passed = 0
        self._progress = Progress()
        self._stack = ExitStack()
        self._entered = False
        self.moved = 0

    @property
    def waited(self) -> float:
        """Seconds."""
        return self._progress.waited

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("A streamer carries its plan out once; make another one.")
        self._entered = True
        with ExitStack() as stack:
            stack.callback(self._empty)
            trunks = [unit for unit in self._homes if unit.index == TRUNK]
            sizes = [self._source.layout(unit).nbytes for unit in trunks]
            self._pool = stack.enter_context(Pool([*self._route.slots, *sizes], self._device))
            self._copies = copies_for(self._source, [load.unit for load in self._route.loads], self._device)
            stack.callback(self._copies.close)
            for unit, slot in zip(trunks, self._pool.slots[len(self._route.slots) :], strict=True):
                self._copies.fill(unit, slot)
                self._bind(unit, slot)
            before, after = self._hooks()
            for block in self._blocks.values() if self._hooked else ():
                stack.callback(block.register_forward_pre_hook(before).remove)
                stack.callback(block.register_forward_hook(after).remove)
            thread = threading.Thread(target=self._carry_out, name="residency", daemon=True)
            stack.callback(self._stop, thread)
            thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        first = error or self._progress.error
        # What CUDA says while all is given back is only an echo of what was raised first.
        with suppress(*((RuntimeError,) if first else ())):
            self._stack.close()
        if error is None and self._progress.error is not None:
            raise self._progress.error

    def begin(self, unit: Unit) -> None:
        """The unit is about to compute: wait for it. Raises RuntimeError where it is not its turn by the plan."""
        turn = self._checked_turn(unit)
        if self._passed:
            return
        number = self._route.needs[turn]
        self._progress.wait_filled(number)
        slot = self._pool.slots[self._route.loads[number].slot]
        self._copies.arrive(slot)
        if self._bound.get(unit) != number:
            self._bind(unit, slot)
            self._bound[unit] = number

    def end(self, unit: Unit) -> None:
        """The unit has computed; after its last pass its place may be another's."""
        turn = self._checked_turn(unit)
        self._passed += 1
        if self._passed < self._route.uses[turn].passes:
            return
        self._passed = 0
        if turn in self._route.leaving:
            self._copies.leave(self._pool.slots[self._route.loads[self._bound.pop(unit)].slot])
            self._homes[unit].empty()
        self._progress.one_over()

    @contextmanager
    def using(self, unit: Unit) -> Iterator[None]:
        """A pass of a unit that is not its block's forward: what the block's parts are asked for from outside."""
        self.begin(unit)
        yield
        self.end(unit)

    def _checked_turn(self, unit: Unit) -> int:
        turn, uses = self._progress.over, self._route.uses
        if turn == len(uses):
            raise RuntimeError(f"{title(unit).capitalize()} is used after the last of the plan's {len(uses)} uses.")
        if uses[turn].unit != unit:
            raise RuntimeError(
                f"{title(unit).capitalize()} is used where the plan has {title(uses[turn].unit)} (use {turn}, "
                f"in step {uses[turn].step})."
            )
        return turn

    def _bind(self, unit: Unit, slot: Slot) -> None:
        """The module's tensors become views of the slot."""
        key = unit, id(slot)
        if key not in self._values:
            self._values[key] = self._homes[unit].values(slot.buffer)
        for home, value in self._values[key]:
            home.put(value)

    def _hooks(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The same two for all blocks, so that a compiled block is not compiled again for another's hooks."""

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.begin(self._units[id(module)])

        def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                raise RuntimeError("A streamed block's weights are gone before a backward pass; use torch.no_grad().")
            self.end(self._units[id(module)])

        # Importing torch's compiler takes a second, and it is there already if anything has been compiled.
        if "torch._dynamo" not in sys.modules:
            return before, after
        disable: Callable[[Callable[..., Any]], Callable[..., Any]] = torch.compiler.disable
        return disable(before), disable(after)

    def _carry_out(self) -> None:
        """What the copying thread does."""
        with self._progress.reported():
            for load in self._route.loads:
                free = partial(self._progress.wait_over, load.after)
                if not self._copies.bring(load.unit, self._pool.slots[load.slot], free):
                    return
                self.moved += self._source.layout(load.unit).nbytes
                self._progress.one_filled()

    def _stop(self, thread: threading.Thread) -> None:
        self._progress.end()
        if thread.is_alive():
            thread.join()

    def _empty(self) -> None:
        """Nothing of a slot is left in a module."""
        self._values.clear()
        self._bound.clear()
        for homes in self._homes.values():
            homes.empty()
