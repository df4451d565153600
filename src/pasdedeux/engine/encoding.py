"""The text encoder around a run's prompts: whole where it fits, else a block at a time, and the same values either way.

umT5 is 11.4 GB in bfloat16, 2.1 GB of which are the token embedding, whose rows are read from the file one by one. The
other 9.3 GB are 24 equal blocks, each needed once per prompt: two of them at a time are enough.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from pasdedeux.checkpoints.encoders import BareTextEncoder, bare_text_encoder, fill
from pasdedeux.models.text import TextEncoder
from pasdedeux.residency.placing import PROMPT
from pasdedeux.residency.plan import least_budget, plan
from pasdedeux.residency.sources import source_of
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.trace import Step, trace


@contextmanager
def open_text_encoder(
    path: Path,
    tokenizer: Path | None,
    prompts: int,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    room: int | None = None,
    pages: bool = False,
) -> Iterator[TextEncoder]:
    """The encoder of `path` for exactly so many prompts (at least one); its memory is given back whatever way it ends.

    room: bytes of the device that it may take with all that computes; None: as many as it likes. Where they are too
    few even for two blocks, it takes two blocks. pages: whether, on a processor, what can be read where it lies in its
    file counts too, though the system may take those pages back. Raises as `bare_text_encoder`.
    """
    bare = bare_text_encoder(path, tokenizer, dtype=dtype, device=device)
    with loaded(bare, prompts, device=device, room=room, pages=pages):
        yield bare.encoder


def loaded(
    bare: BareTextEncoder, prompts: int, *, device: str, room: int | None, pages: bool = False
) -> AbstractContextManager[object]:
    """What gives an encoder its weights while it is entered: whole, or a block at a time."""
    weights = None if room is None else max(room - PROMPT, 0)
    if weights is None or held_bytes(bare, device, pages=pages) <= weights:
        return _whole(bare, device)
    return _streamer(bare, prompts, weights, device)


def held_bytes(bare: BareTextEncoder, device: str, *, pages: bool = False) -> int:
    """Bytes of the device that the encoder's values take."""
    free = bare.mapped if device == "cpu" and not pages else frozenset[str]()
    taken = (value for name, value in bare.values.items() if name not in free)
    return sum(math.prod(value.shape) * value.dtype.itemsize for value in taken)


@contextmanager
def _whole(bare: BareTextEncoder, device: str) -> Iterator[None]:
    try:
        fill(bare, device)
        yield
    finally:
        bare.encoder.stack.to("meta")  # an error that is kept keeps the stack, but not its weights


def _streamer(bare: BareTextEncoder, prompts: int, room: int, device: str) -> Streamer:
    """Within `room` bytes of weights, or the fewest that are enough."""
    stack = bare.encoder.stack
    blocks = list(stack.get_submodule("block").children())
    streamed = Streamed(stack, blocks)
    units = streamed.units(0, bare.values)
    source = source_of(units)
    uses = trace([Step(0)] * prompts, [len(blocks)])
    sizes = {unit: source.layout(unit).nbytes for unit in units}
    return Streamer([streamed], source, plan(uses, sizes, max(room, least_budget(uses, sizes))), device)
