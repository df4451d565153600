"""An expert in training whose frozen weights do not all fit: its blocks come and go, forward and on the way back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pasdedeux.checkpoints.load import skeleton
from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan.transformer import WanTrunk
from pasdedeux.residency.backward import BothWays
from pasdedeux.residency.sources import HostSource, source_of
from pasdedeux.residency.stream import Streamed
from pasdedeux.residency.units import TRUNK, Unit
from pasdedeux.train.lora.layers import recompute


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Bytes for frozen weights: on the device (or the least that works), and in host memory, to load from."""

    device: int
    host: int = 0


@contextmanager
def streamed(
    build: Callable[[], WanTrunk],
    weights: Weights,
    passes: Sequence[bool],
    *,
    room: Room,
    dtype: torch.dtype,
    device: str,
) -> Iterator[WanTrunk]:
    """The expert for so many passes, each with gradients (True) or without, its blocks computed again on the way back.

    The least room on the device is that of two blocks and what is no block; the first blocks are kept in host memory.
    Raises as `skeleton` does, and what reading raises.
    """
    bare = skeleton(build, weights, dtype=dtype)
    model = Streamed(bare.module, bare.module.turns)
    source = source_of(model.units(0, bare.values))
    kept = [Unit(0, k) for k in range(len(model.blocks))]
    sizes = {unit: source.layout(unit).nbytes for unit in (Unit(0, TRUNK), *kept)}
    while kept and sum(sizes[unit] for unit in kept) > room.host:
        kept.pop()
    with HostSource(source, kept, pin=device != "cpu", later=True) as near:
        ways = BothWays(model, near, passes, room.device, device)
        with recompute(model.blocks, ways), ways:
            yield bare.module
