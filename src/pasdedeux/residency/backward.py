"""Frozen blocks that gradients go through, carried in for each pass and, in reverse, once more for the way back.

A training step is a sequence as well known as a denoising step: the blocks forward, then from the last to the first,
each computed again from what went into it (Chen et al. 2016) right before its gradients are. So the same plans and the
same streamer serve it. What is at the turning points, the last blocks and the first, stays for both ways.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import nn

from pasdedeux.residency.plan import least_budget, plan
from pasdedeux.residency.pool import title
from pasdedeux.residency.sources import Source
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.trace import passes_of
from pasdedeux.residency.units import TRUNK, Unit


class BothWays:
    """A model's blocks for so many passes, each with gradients (True) or without: a context manager around them.

    `there` is around a block's forward, `back` around its being computed again; whatever a pass does not ask for (a
    block that no gradient reaches) is passed over. budget: bytes of weights on the device, raised to the least that
    works; the trunk stays. Passes may end early. Raises what `Streamer` raises.
    """

    def __init__(
        self, model: Streamed, source: Source, passes: Sequence[bool], budget: int, device: torch.device | str
    ) -> None:
        self._units = {id(block): Unit(0, k) for k, block in enumerate(model.blocks)}
        self._ways = passes_of(passes, len(model.blocks))
        uses = [way.use for way in self._ways]
        sizes = {unit: source.layout(unit).nbytes for unit in (Unit(0, TRUNK), *self._units.values())}
        made = plan(uses, sizes, max(budget, least_budget(uses, sizes)))
        self._streamer = Streamer([model], source, made, device, hooked=False)
        self._turn = 0  # the next way, or the one that is begun
        self._open = False

    @property
    def moved(self) -> int:
        """Bytes of blocks loaded so far."""
        return self._streamer.moved

    def __enter__(self) -> Self:
        self._streamer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streamer.__exit__(kind, error, trace)

    @contextmanager
    def there(self, block: nn.Module) -> Iterator[None]:
        """The block computes; afterwards its place may be another's."""
        self._begin(block, back=False)
        yield
        self._end()

    @contextmanager
    def back(self, block: nn.Module) -> Iterator[None]:
        """The block computes again. Its weights stay until another block's turn: its gradients come after this."""
        self._begin(block, back=True)
        yield

    def _begin(self, block: nn.Module, *, back: bool) -> None:
        unit = self._units[id(block)]
        self._end()
        for _ in range(self._away(unit, back)):
            self._streamer.begin(self._ways[self._turn].use.unit)
            self._open = True
            self._end()
        self._streamer.begin(unit)
        self._open = True

    def _end(self) -> None:
        if self._open:
            self._streamer.end(self._ways[self._turn].use.unit)
            self._turn, self._open = self._turn + 1, False

    def _away(self, unit: Unit, back: bool) -> int:
        """How many turns are to be passed over. Raises RuntimeError where the turn does not come."""
        for turn in range(self._turn, len(self._ways)):
            if self._ways[turn].use.unit == unit and self._ways[turn].back == back:
                return turn - self._turn
        when = "on the way back" if back else "in a pass"
        raise RuntimeError(f"{title(unit).capitalize()} is used {when} that was not announced.")
