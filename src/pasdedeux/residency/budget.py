"""A run foretold: where its weights will be, what memory it takes and how long it lasts, before anything is loaded.

Everything is computed from sizes (`arithmetic`) and a card's published figures (`cards`). What is assumed: copies run
beside the compute and a block is copied once per step, for all passes of it; weights lie in pinned host memory when
the first step begins; what the card keeps for itself is CONTEXT, what allocation loses in gaps is GAPS.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pasdedeux.residency.arithmetic import (
    UNPACKING,
    UNPACKING_ELSE,
    Codec,
    Grid,
    Network,
    activation_bytes,
    context_bytes,
    elementwise_bytes,
    forward_flop,
    length,
    spans,
    stream_bytes,
    unpacked_bytes,
)
from pasdedeux.residency.cards import Card

CONTEXT = 500_000_000
"""Bytes that a process takes on the device before its first tensor: CUDA's context and libraries."""
GAPS = 0.03
SLOTS = 2
"""Blocks that a stream needs room for: the one that computes, and the one that arrives."""
HOST = 2_000_000_000
"""Bytes of the process in host memory, torch and its libraries included."""
RING = 3
"""Blocks of host memory that reading ahead from the disk takes."""
FEW = 4
"""Steps of a distilled model."""
PHASES = {
    "text": "The text encoder",
    "image": "The image encoder",
    "encoding": "Encoding a segment",
    "denoising": "Denoising",
    "decoding": "Decoding a segment",
}

Place = Literal["all resident", "one expert resident", "streamed", "too large"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNumbers:
    """One expert, noisiest first in a run.

    steps: its steps in a segment; passes: forwards per step, 2 with guidance; nbytes: all of it as it lies on the
    device; trunk: what of it is no block; block: its largest block; blocks: their number; packed: values kept packed
    in blocks, by their type.
    """

    name: str
    steps: int
    passes: int
    nbytes: int
    trunk: int
    block: int
    blocks: int
    packed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNumbers:
    """A run as plain numbers.

    grid: tokens of a segment; size: (width, height) in pixels; frames: of a segment; encodes: whole segments that are
    encoded before each one is denoised; value: bytes of what is computed in; codec_value: the same of the autoencoder;
    text, image: bytes of the two encoders (0: none).
    """

    network: Network
    experts: tuple[ExpertNumbers, ...]
    grid: Grid
    size: tuple[int, int]
    frames: int
    codec: Codec
    segments: int = 1
    encodes: float = 0
    text: int = 0
    image: int = 0
    value: int = 2
    codec_value: int = 4

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.size[0] * self.size[1]

    @property
    def guided(self) -> bool:
        """Whether any expert has two passes."""
        return any(expert.passes > 1 for expert in self.experts)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """A step of one expert: seconds of computing, of which unpacking, and of copying; the longer counts."""

    name: str
    compute: float
    unpacking: float
    copy: float

    @property
    def seconds(self) -> float:
        """Both run at once."""
        return max(self.compute, self.copy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where weights are.

    resident: blocks of an expert that stay, of `blocks`; weights: their bytes on the device while a step runs; stays:
    whether they stay there while a segment is decoded; phases: peak device bytes of each part of the run.
    """

    place: Place
    resident: int
    blocks: int
    weights: int
    stays: bool
    phases: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What is to be expected.

    room: bytes of the device; usable: those of them that a run can count on; host: peak host bytes with the weights in
    pinned memory, host_disk with them read from disk; whole: peak device bytes if experts were loaded whole;
    moved_step, moved: bytes copied to the device in a step, and in all; steps: of each expert; stages: seconds of each
    part of the run; dollars: None without a price; advice: what would make it fit, or faster.
    """

    placement: Placement
    room: int
    usable: int
    host: int
    host_disk: int
    whole: int
    moved_step: int
    moved: int
    steps: tuple[StepTime, ...]
    stages: tuple[tuple[str, float], ...]
    dollars: float | None = None
    advice: tuple[str, ...] = ()

    @property
    def device(self) -> int:
        """Peak device bytes."""
        return max(nbytes for _, nbytes in self.placement.phases)

    @property
    def fits(self) -> bool:
        """Whether no phase needs more than there is."""
        return self.device <= self.usable

    @property
    def seconds(self) -> float:
        """The whole video."""
        return sum(seconds for _, seconds in self.stages)


def predict(run: RunNumbers, card: Card, memory: int | None = None, price: float | None = None) -> Prediction:
    """The run on a card, in `memory` bytes of it or all of them, at a price per hour or the card's own."""
    room = card.memory if memory is None else min(memory, card.memory)
    usable = int(room * (1 - GAPS))
    placement = place(run, usable)
    steps = tuple(step_time(run, expert, card, copied(expert, placement)) for expert in run.experts)
    stages = _stages(run, card, placement, steps)
    rate = card.price if price is None else price
    largest = max(expert.nbytes for expert in run.experts)
    found = Prediction(
        placement=placement,
        room=room,
        usable=usable,
        host=HOST + _video_bytes(run) + sum(expert.nbytes for expert in run.experts),
        host_disk=HOST + _video_bytes(run) + RING * max(expert.block for expert in run.experts),
        whole=max([CONTEXT + working_bytes(run) + largest, *_without_weights(run).values()]),
        moved_step=max(copied(expert, placement) for expert in run.experts),
        moved=_moved(run, placement),
        steps=steps,
        stages=tuple((name, seconds) for name, seconds in stages.items() if seconds > 0),
        dollars=None if rate is None else sum(stages.values()) / 3600 * rate,
    )
    return replace(found, advice=tuple(advice(run, card, found))[:3])


def working_bytes(run: RunNumbers) -> int:
    """What lies on the device beside the weights while a step runs: the autoencoder, which is kept, contexts of every
    prompt, latents, activations, and a matrix that is being unpacked."""
    net, passes = run.network, max(expert.passes for expert in run.experts)
    latents = 4 * length(net, run.grid) * (net.inputs + 2 * net.outputs)
    unpacked = unpacked_bytes(net) if any(expert.packed for expert in run.experts) else 0
    contexts = passes * context_bytes(net, run.grid, run.value)
    return _codec_bytes(run) + contexts + latents + unpacked + activation_bytes(net, run.grid, run.value)


def place(run: RunNumbers, usable: int) -> Placement:
    """The first that fits in `usable` bytes: every expert; one, whole; some blocks of one, the rest streamed."""
    sizes, base = [expert.nbytes for expert in run.experts], CONTEXT + working_bytes(run)
    blocks = max(expert.blocks for expert in run.experts)
    if base + sum(sizes) <= usable:
        return _placement(run, usable, "all resident", blocks, sum(sizes), base)
    if base + max(sizes) <= usable:
        return _placement(run, usable, "one expert resident", blocks, max(sizes), base)
    block, trunk = (max(getattr(expert, name) for expert in run.experts) for name in ("block", "trunk"))
    if run.guided:  # a block's second pass comes before the next block, so both streams are there
        base += stream_bytes(run.network, run.grid, run.value)
    resident = (usable - base - trunk) // block - SLOTS
    where: Place = "streamed" if resident >= 0 else "too large"
    resident = min(max(resident, 0), blocks)
    weights = trunk + min(resident + SLOTS, blocks) * block
    return _placement(run, usable, where, resident, weights, base)


def _placement(run: RunNumbers, usable: int, where: Place, resident: int, weights: int, base: int) -> Placement:
    others = _without_weights(run)
    stays = weights + max(others.get("encoding", 0), others["decoding"]) <= usable
    beside = {"encoding", "decoding"} if stays else set()
    phases = {name: nbytes + (weights if name in beside else 0) for name, nbytes in others.items()}
    phases["denoising"] = base + weights
    return Placement(
        place=where,
        resident=resident,
        blocks=max(expert.blocks for expert in run.experts),
        weights=weights,
        stays=stays,
        phases=tuple((name, phases[name]) for name in PHASES if name in phases),
    )


def _without_weights(run: RunNumbers) -> dict[str, int]:
    """Peak device bytes of the phases that need no expert."""
    scale = run.pixels * run.codec_value / 4
    found = {
        "text": CONTEXT + run.text if run.text else 0,
        "image": CONTEXT + run.image if run.image else 0,
        "encoding": CONTEXT + _codec_bytes(run) + int(run.codec.encode_peak * scale) if run.encodes else 0,
        "decoding": CONTEXT + _codec_bytes(run) + int(run.codec.decode_peak * scale),
    }
    return {name: nbytes for name, nbytes in found.items() if nbytes}


def _codec_bytes(run: RunNumbers) -> int:
    return run.codec.values * run.codec_value


def _video_bytes(run: RunNumbers) -> int:
    """A segment's pictures in host memory: 8 bits a channel, and in float32 where they are encoded."""
    return run.frames * run.pixels * 3 * (1 + (4 if run.encodes else 0))


def copied(expert: ExpertNumbers, placement: Placement) -> int:
    """Bytes that one of its steps copies to the device."""
    if placement.place not in ("streamed", "too large"):
        return 0
    return (expert.nbytes - expert.trunk) * max(expert.blocks - placement.resident, 0) // expert.blocks


def loads(run: RunNumbers, placement: Placement) -> int:
    """How often each expert comes to the device whole: once, or once per segment where another took its place."""
    alone = placement.place == "all resident" or len(run.experts) == 1
    return 1 if alone and placement.stays else run.segments


def _moved(run: RunNumbers, placement: Placement) -> int:
    times = loads(run, placement)
    streamed = [(run.segments * expert.steps - times) * copied(expert, placement) for expert in run.experts]
    return run.text + run.image + times * sum(expert.nbytes for expert in run.experts) + sum(streamed)


def step_time(run: RunNumbers, expert: ExpertNumbers, card: Card, moved: int) -> StepTime:
    """A step of an expert that copies `moved` bytes meanwhile."""
    net, grid = run.network, run.grid
    unpacked = sum(count * UNPACKING.get(kind, UNPACKING_ELSE) for kind, count in expert.packed)
    unpacking = unpacked * spans(length(net, grid)) / card.traffic
    wide = max(run.value / 2, 1)  # in float32 products run at half the rate, and twice the bytes are touched
    forward = forward_flop(net, grid) / card.rate * wide + elementwise_bytes(net, grid) / card.traffic * wide
    return StepTime(
        name=expert.name,
        compute=expert.passes * (forward + unpacking),
        unpacking=expert.passes * unpacking,
        copy=moved / card.copying,
    )


def codec_seconds(run: RunNumbers, card: Card, *, encode: bool) -> float:
    """A segment through the autoencoder, one way."""
    codec, later = run.codec, run.grid[0] - 1
    flop = codec.encode_flop if encode else codec.decode_flop
    traffic = codec.encode_traffic if encode else codec.decode_traffic
    wide = run.codec_value / 2  # TF32 runs at half of bfloat16's rate
    work = run.pixels * (flop[0] + later * flop[1]) / card.rate * wide
    return work + run.pixels * (traffic[0] + later * traffic[1]) * run.codec_value / 4 / card.traffic


def _stages(run: RunNumbers, card: Card, placement: Placement, steps: tuple[StepTime, ...]) -> dict[str, float]:
    times = loads(run, placement)
    loading = sum(
        max(expert.nbytes / card.copying - step.seconds, 0) if expert.steps else 0
        for expert, step in zip(run.experts, steps, strict=True)
    )
    denoising = sum(expert.steps * step.seconds for expert, step in zip(run.experts, steps, strict=True))
    return {
        "text": run.text / card.copying,
        "image": run.image / card.copying,
        "encoding": run.segments * run.encodes * codec_seconds(run, card, encode=True),
        "loading": times * loading,
        "denoising": run.segments * denoising,
        "decoding": run.segments * codec_seconds(run, card, encode=False),
    }


def advice(run: RunNumbers, card: Card, found: Prediction) -> Iterator[str]:
    """What would make it fit, then what would make it faster, a sentence each."""
    yield from _to_fit(run, found)
    if found.fits and found.moved_step:
        yield _copies(run, card, found)
    slowest = max(found.steps, key=lambda step: step.seconds)
    if slowest.unpacking > 0.1 * slowest.compute:
        took = f"{in_time(slowest.unpacking)} of {in_time(slowest.compute)} a step"
        yield f"Unpacking takes {took}, for every span of tokens unpacks anew; bfloat16 weights need none of it."
    forwards = sum(expert.steps * expert.passes for expert in run.experts)
    if forwards > 2 * FEW:
        few = FEW / forwards * dict(found.stages)["denoising"] + found.seconds - dict(found.stages)["denoising"]
        yield f"A distilled model or LoRA ({FEW} steps, no guidance) would take about {in_time(few)}."
    codec = sum(seconds for name, seconds in found.stages if name in ("encoding", "decoding"))
    if codec > 0.2 * found.seconds and run.codec_value == 4:
        yield f"The autoencoder takes {in_time(codec)} of {in_time(found.seconds)}; in bfloat16 it would take half."


def _to_fit(run: RunNumbers, found: Prediction) -> Iterator[str]:
    for name, nbytes in found.placement.phases:
        if nbytes <= found.usable:
            continue
        over = f"{PHASES[name]} needs {in_gb(nbytes)}, {in_gb(nbytes - found.usable)} more than can be used"
        if name in ("text", "image"):
            yield f"{over}: a packed encoder takes less, and one on the processor or an embedded prompt none."
        elif name == "denoising":
            fixed = nbytes - activation_bytes(run.network, run.grid, run.value)
            yield f"{over}: {_less(found.usable - fixed, nbytes - fixed)} pixels or frames would fit."
        else:
            fixed = CONTEXT + _codec_bytes(run)
            fits = _less(found.usable - fixed, nbytes - fixed)
            half = "; in bfloat16 it needs half of that" if run.codec_value == 4 else ""
            yield f"{over}{half}; {fits} pixels would fit."


def _less(there: int, needed: int) -> str:
    return f"{max(there, 0) / needed:.0%} of the"


def _copies(run: RunNumbers, card: Card, found: Prediction) -> str:
    step = max(found.steps, key=lambda step: step.copy - step.compute)
    expert = next(expert for expert in run.experts if expert.name == step.name)
    if step.copy <= step.compute:
        return (
            f"Every copy hides behind the compute ({in_time(step.copy)} against {in_time(step.compute)} a step), "
            "so that more memory would gain nothing."
        )
    hidden = expert.blocks - int(step.compute * card.copying / expert.block)
    return (
        f"Copying takes {in_time(step.copy)} a step and computing {in_time(step.compute)}: weights of fewer bytes, "
        f"more frames, or {hidden} resident blocks would hide it."
    )


def in_gb(nbytes: float) -> str:
    """ "12.3 GB"."""
    return f"{nbytes / 1e9:.1f} GB"


def in_time(seconds: float) -> str:
    """ "0.56 s", "14.2 s", "95 s", "18 min 53 s", "1 h 10 min"."""
    if seconds < 120:
        return f"{seconds:.{0 if seconds >= 60 else 1 if seconds >= 10 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
