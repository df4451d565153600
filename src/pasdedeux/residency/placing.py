"""Where a run's weights will be: everything on the device, or blocks that come and go within a budget of bytes.

What the engine decides by, and what is foretold, are the same: the plan of `plan.plan`, trunks always staying. Bytes
are those of the tensors. A streamer begins each tensor at a multiple of 256 bytes, which adds some millionths.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from pasdedeux.residency.arithmetic import (
    activation_bytes,
    context_bytes,
    length,
    stream_bytes,
    unpacked_bytes,
)
from pasdedeux.residency.numbers import ExpertNumbers, Place, Placement, RunNumbers
from pasdedeux.residency.plan import Sizes, least_budget, place_bytes, plan
from pasdedeux.residency.trace import steps_of, trace
from pasdedeux.residency.units import TRUNK, Plan, Unit, Use

CONTEXT = 500_000_000
"""Bytes that a process takes on the device before its first tensor: CUDA's context and libraries."""
GAPS = 0.03
"""Share of the memory that allocation loses in gaps."""
PROMPT = 600_000_000
"""Bytes that a prompt of 512 tokens may take beside the weights of umT5-XXL: on a processor it was 0.2 GB, and up to
0.5 GB where weights are unpacked as they are used, or converted as they come."""
PLANNED = 3
"""Segments that are planned; further ones are as the one in the middle."""
PHASES = ("text", "image", "encoding", "denoising", "decoding")
CODEC_PHASES = ("encoding", "decoding")


def usable_of(memory: int) -> int:
    """Of so many bytes those that a run can count on."""
    return int(memory * (1 - GAPS))


def working_bytes(run: RunNumbers) -> int:
    """What lies on the device beside the weights while a step runs: the autoencoder, as far as it is there by then,
    contexts of every prompt, latents, activations, and matrices that are unpacked."""
    net, passes = run.network, max(expert.passes for expert in run.experts)
    latents = 4 * length(net, run.grid) * (net.inputs + 2 * net.outputs)
    unpacked = unpacked_bytes(net, run.value) if any(expert.packed for expert in run.experts) else 0
    contexts = passes * context_bytes(net, run.grid, run.value)
    codec = 0 if _codec_waits(run) else codec_bytes(run)
    return codec + contexts + latents + unpacked + activation_bytes(net, run.grid, run.value)


def place(run: RunNumbers, usable: int, base: int = CONTEXT) -> Placement:
    """All experts in `usable` bytes, where they fit; else blocks of them, as the plan for what is left brings them.

    base: bytes that are taken before the first tensor. Experts without steps take no place.
    """
    sizes, beside = unit_sizes(run), base + working_bytes(run)
    others = without_weights(run, usable, base)
    room = usable - max(others.get("encoding", 0), others["decoding"])
    if run.guided and sum(sizes.values()) > min(usable - beside, room):
        # A streamed block's second pass comes before the next block, so the streams of both are there.
        beside += stream_bytes(run.network, run.grid, run.value)
    least = least_budget(_uses(run, 1), sizes)
    made = _made(run, sizes, max(usable - beside, least), room)
    weights = sum(place_bytes(made, sizes))
    stays = weights <= room
    with_them = {"encoding", "decoding"} if stays else set()
    phases = {name: nbytes + (weights if name in with_them else 0) for name, nbytes in others.items()}
    phases["denoising"] = beside + weights
    steps = sum(expert.steps for expert in run.experts)
    by_step = _moved_by_step(made, sizes)
    return Placement(
        place="too large" if usable - beside < least else _place(made, steps),
        budget=max(usable - beside, 0),
        weights=weights,
        places=sum(unit.index != TRUNK for unit in made.first),
        blocks=sum(unit.index != TRUNK for unit in sizes),
        stays=stays,
        phases=tuple((name, phases[name]) for name in PHASES if name in phases),
        moved_step=tuple(_most(made, by_step, k, steps) for k in range(len(run.experts))),
        moved=_moved(run, made, by_step, sum(sizes[unit] for unit in made.first), stays=stays),
        again=_again(made, sizes, once=stays or run.segments == 1),
        plan=made,
    )


def with_codec(run: RunNumbers, usable: int, base: int = CONTEXT) -> tuple[RunNumbers, Placement]:
    """The run with its autoencoder in bfloat16 where float32 has no room to encode or decode, and its placement."""
    placement = place(run, usable, base)
    if run.codec_value == 2 or placement.fits(usable, CODEC_PHASES):
        return run, placement
    half = replace(run, codec_value=2)
    return half, place(half, usable, base)


def unit_sizes(run: RunNumbers) -> dict[Unit, int]:
    """Bytes of all trunks and blocks of the experts that have steps."""
    blocks = {Unit(k, i): size for k, expert in _used(run) for i, size in enumerate(expert.each)}
    return blocks | {Unit(k, TRUNK): expert.trunk for k, expert in _used(run)}


def extra(segments: int, steps: int, by_step: Sequence[float]) -> float:
    """What the segments beyond those that are planned add to a sum over steps: each as much as the one in the middle.

    by_step: one value for each step of PLANNED segments of `steps` steps.
    """
    return max(segments - PLANNED, 0) * sum(by_step[steps : 2 * steps])


def _codec_waits(run: RunNumbers) -> bool:
    """Whether the autoencoder is still in its file while the run denoises: nothing was encoded, nothing decoded."""
    mapped = run.from_disk and run.codec_mapped and run.codec_value == 4
    return mapped and not run.encodes and run.segments == 1


def codec_bytes(run: RunNumbers) -> int:
    """Of the autoencoder's weights."""
    return run.codec.values * run.codec_value


def without_weights(run: RunNumbers, usable: int, base: int) -> dict[str, int]:
    """Peak bytes of the phases that need no expert."""
    scale = run.pixels * run.codec_value / 4
    text = min(run.text, max(usable - base - PROMPT, run.text_least or run.text))
    found = {
        "text": base + PROMPT + text if run.text else 0,
        "image": base + run.image if run.image else 0,
        "encoding": base + codec_bytes(run) + int(run.codec.encode_peak * scale) if run.encodes else 0,
        "decoding": base + codec_bytes(run) + int(run.codec.decode_peak * scale),
    }
    return {name: nbytes for name, nbytes in found.items() if nbytes}


def _used(run: RunNumbers) -> list[tuple[int, ExpertNumbers]]:
    return [(k, expert) for k, expert in enumerate(run.experts) if expert.steps]


def _uses(run: RunNumbers, segments: int) -> tuple[Use, ...]:
    runs = [(k, expert.steps) for k, expert in _used(run)]
    steps = steps_of(runs, [expert.passes for expert in run.experts])
    return trace(steps, [expert.blocks for expert in run.experts], segments)


def _made(run: RunNumbers, sizes: Sizes, budget: int, room: int) -> Plan:
    """The plan for all segments where its weights have room beside decoding, else the one for each."""
    whole = plan(_uses(run, min(run.segments, PLANNED)), sizes, budget, spread=run.from_disk)
    if run.segments == 1 or sum(place_bytes(whole, sizes)) <= room:
        return whole
    return plan(_uses(run, 1), sizes, budget, spread=run.from_disk)


def _place(made: Plan, steps: int) -> Place:
    if not made.moves:
        return "all resident"
    first = _first_steps(made, steps)
    within = any(made.uses[move.before].step not in first for move in made.moves)
    return "streamed" if within else "one expert resident"


def _first_steps(made: Plan, steps: int) -> set[int]:
    """The steps in which an expert has its first turn in a segment of so many steps."""
    owners = {use.step: use.unit.model for use in made.uses}
    return {next(iter(found)) for _, found in groupby(owners, key=lambda step: (step // steps, owners[step]))}


def _moved_by_step(made: Plan, sizes: Sizes) -> list[int]:
    """Bytes that each step waits for, the first fill left out."""
    moved = [0] * (made.uses[-1].step + 1)
    for move in made.moves:
        moved[made.uses[move.before].step] += sizes[move.load]
    return moved


def _again(made: Plan, sizes: Sizes, *, once: bool) -> int:
    """Bytes of the units that are loaded more than once; of all, where the plan is carried out once a segment."""
    times = Counter((*made.first, *(move.load for move in made.moves)))
    return sum(sizes[unit] for unit, count in times.items() if count > 1 or not once)


def _most(made: Plan, by_step: Sequence[int], model: int, steps: int) -> int:
    later = {use.step for use in made.uses if use.unit.model == model} - _first_steps(made, steps)
    return max((by_step[step] for step in later), default=0)


def _moved(run: RunNumbers, made: Plan, by_step: Sequence[int], fill: int, *, stays: bool) -> int:
    """Bytes of weights that the whole run copies."""
    if not stays:
        return run.segments * (fill + sum(by_step))
    steps = sum(expert.steps for expert in run.experts)
    return fill + sum(by_step) + int(extra(run.segments, steps, by_step))
