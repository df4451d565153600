"""A run foretold: where its weights will be, what memory it takes and how long it lasts, before anything is loaded.

Everything is computed from sizes (`arithmetic`), the plan that the engine would carry out (`placing`) and a card's
published figures (`cards`). What is assumed: copies run beside the compute, as the simulator has it; weights that come
and go lie in pinned host memory when the first step begins; what the card keeps for itself is CONTEXT, what allocation
loses in gaps is GAPS. Of a processor no seconds are foretold: its rates are not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from pasdedeux.residency.advice import advice, in_gb, in_time
from pasdedeux.residency.arithmetic import UNPACKING, UNPACKING_ELSE, elementwise_bytes, forward_flop
from pasdedeux.residency.cards import Card
from pasdedeux.residency.copies import STAGES
from pasdedeux.residency.numbers import ExpertNumbers, Placement, Prediction, RunNumbers, StepTime
from pasdedeux.residency.placing import CONTEXT, GAPS, extra, place, unit_sizes, usable_of, with_codec, working_bytes
from pasdedeux.residency.simulate import Timeline, simulate
from pasdedeux.residency.units import TRUNK, Move, Plan, Use

__all__ = [
    "CONTEXT",
    "GAPS",
    "ExpertNumbers",
    "Placement",
    "Prediction",
    "RunNumbers",
    "StepTime",
    "base_bytes",
    "codec_seconds",
    "in_gb",
    "in_time",
    "place",
    "predict",
    "step_time",
    "usable_of",
    "with_codec",
    "working_bytes",
]

HOST = 2_000_000_000
"""Bytes of the process in host memory beside a card, torch's and CUDA's libraries included: assumed."""
PROCESS = 500_000_000
"""Bytes of the process in host memory without a card: measured, 493 to 516 MB resident, of which 332 to 342 its own and
the others pages of libraries, after a clip by a tiny Wan model (2026-11-25, Linux, torch 2.13, one thread)."""


def predict(run: RunNumbers, card: Card, memory: int | None = None, price: float | None = None) -> Prediction:
    """The run on a card, in `memory` bytes of it or all of them, at a price per hour or the card's own.

    A processor's memory is `memory`, however much this machine has.
    """
    if card.processor:
        # Pages of the file, which the system gives to others where they are needed: counted where memory was limited.
        run = replace(run, from_disk=True, text=0 if run.text_mapped and memory is None else run.text)
    room = card.memory if memory is None else memory if card.processor else min(memory, card.memory)
    usable = usable_of(room)
    run, placement = with_codec(run, usable, base_bytes(run, processor=card.processor))
    found = Prediction(
        placement=placement,
        room=room,
        usable=usable,
        moved=run.text + run.image + placement.moved,
        codec_value=run.codec_value,
    )
    if not card.processor:
        ring = STAGES * max(expert.block for expert in run.experts if expert.steps) if placement.streamed else 0
        least = HOST + _video_bytes(run) + ring
        found = replace(found, host=least + placement.again * placement.streamed, host_disk=least)
    if card.timed:
        found = _timed(run, card, found, card.price if price is None else price)
    return replace(found, advice=tuple(advice(run, card, found))[:3])


def base_bytes(run: RunNumbers, *, processor: bool) -> int:
    """What is taken before the first tensor: the device's own share, or the process with a segment's pictures."""
    return PROCESS + _video_bytes(run) if processor else CONTEXT


def _video_bytes(run: RunNumbers) -> int:
    """A segment's pictures in host memory: 8 bits a channel, and in float32 where they are encoded."""
    return run.frames * run.pixels * 3 * (1 + (4 if run.encodes else 0))


def _timed(run: RunNumbers, card: Card, found: Prediction, rate: float | None) -> Prediction:
    placement = found.placement
    alone = {k: step_time(run, k, card, placement) for k, expert in enumerate(run.experts) if expert.steps}
    timeline = _timeline(run, card, placement.plan, alone)
    stages = _stages(run, card, placement, timeline)
    return replace(
        found,
        steps=tuple(replace(step, seconds=_median(timeline, k)) for k, step in alone.items()),
        stages=tuple((name, seconds) for name, seconds in stages.items() if seconds > 0),
        dollars=None if rate is None else sum(stages.values()) / 3600 * rate,
    )


def step_time(run: RunNumbers, position: int, card: Card, placement: Placement) -> StepTime:
    """A step of an expert that waits for nothing."""
    net, grid, expert = run.network, run.grid, run.experts[position]
    # Every pass unpacks anew: a block's layers are more than are kept, even where both passes share its turn.
    unpacked = sum(count * UNPACKING.get(kind, UNPACKING_ELSE) for kind, count in expert.packed)
    unpacking = expert.passes * unpacked / card.traffic
    wide = max(run.value / 2, 1)  # in float32 products run at half the rate, and twice the bytes are touched
    forward = forward_flop(net, grid) / card.rate * wide + elementwise_bytes(net, grid) / card.traffic * wide
    compute = expert.passes * forward + unpacking
    copy = placement.moved_step[position] / card.copying
    return StepTime(name=expert.name, seconds=compute, compute=compute, unpacking=unpacking, copy=copy)


def _timeline(run: RunNumbers, card: Card, made: Plan, alone: Mapping[int, StepTime]) -> Timeline:
    sizes = unit_sizes(run)

    def compute(use: Use) -> float:
        return alone[use.unit.model].compute / run.experts[use.unit.model].blocks

    return simulate(_carried_out(made), lambda unit: sizes[unit] / card.copying, compute)


def _carried_out(made: Plan) -> Plan:
    """As a streamer does it: trunks come first, and each block of the first fill beside the compute of those before."""
    turns = {use.unit: number for number, use in reversed(list(enumerate(made.uses)))}
    fill = [Move(unit, None, turns[unit]) for unit in made.first if unit.index != TRUNK]
    moves = sorted((*fill, *made.moves), key=lambda move: move.before)
    return replace(made, first=tuple(unit for unit in made.first if unit.index == TRUNK), moves=tuple(moves))


def _median(timeline: Timeline, model: int) -> float:
    owners = {use.step: use.unit.model for use in timeline.plan.uses}
    return median(seconds for step, seconds in enumerate(timeline.steps) if owners[step] == model)


def _stages(run: RunNumbers, card: Card, placement: Placement, timeline: Timeline) -> dict[str, float]:
    """loading: what the compute waits for while weights come; denoising: what it takes else."""
    waiting = timeline.stalls
    computing = [step - wait for step, wait in zip(timeline.steps, waiting, strict=True)]
    return {
        "text": run.text / card.copying,
        "image": run.image / card.copying,
        "encoding": run.segments * run.encodes * codec_seconds(run, card, encode=True),
        "loading": _over_run(run, placement, waiting, timeline.fill),
        "denoising": _over_run(run, placement, computing, 0),
        "decoding": run.segments * codec_seconds(run, card, encode=False),
    }


def _over_run(run: RunNumbers, placement: Placement, by_step: Sequence[float], once: float) -> float:
    if not placement.stays:
        return run.segments * (once + sum(by_step))
    return once + sum(by_step) + extra(run.segments, sum(expert.steps for expert in run.experts), by_step)


def codec_seconds(run: RunNumbers, card: Card, *, encode: bool) -> float:
    """A segment through the autoencoder, one way."""
    codec, later = run.codec, run.grid[0] - 1
    flop = codec.encode_flop if encode else codec.decode_flop
    traffic = codec.encode_traffic if encode else codec.decode_traffic
    wide = run.codec_value / 2  # TF32 runs at half of bfloat16's rate
    work = run.pixels * (flop[0] + later * flop[1]) / card.rate * wide
    return work + run.pixels * (traffic[0] + later * traffic[1]) * run.codec_value / 4 / card.traffic
