"""What streaming a pair of 14B experts costs on a fake clock: nothing, where a block's copy fits in a block's turn.

Nothing is measured here. A plan is carried out by the simulator with a copy queue and a compute queue. Assumed: a block
has 351,394,304 parameters, an expert 40 of them and a trunk of 0.233 B parameters in bfloat16; blocks are bfloat16, or
one byte per parameter (fp8, its scales left out); weights wait in pinned host memory and copies reach 25 GB/s (PCIe 4)
or 55 GB/s (PCIe 5) at once; a step is its blocks' compute and nothing else, which leaves copies the least time to hide
in; with guidance both streams share a block's turn. Compute of the first table is a block's operations over the rates
of matrix products and attention: RTX 4090 165 TFLOP/s bfloat16, or fp8 330 with SageAttention2++ 493; H200 790
bfloat16, or fp8 1400 (assumed) with SageAttention 882. The naive swap copies a whole expert before the first step of
its turn, once, from pinned memory: programs that copy the old one back, or from pageable memory, take longer.

Run: python benchmarks/stalls.py
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median

from pasdedeux.residency.cards import CARDS, Card
from pasdedeux.residency.plan import least_budget, place_bytes, plan
from pasdedeux.residency.simulate import Timeline, fastest, naive_swap, simulate
from pasdedeux.residency.trace import steps_of, trace
from pasdedeux.residency.units import TRUNK, Unit, Use

RESULTS = Path(__file__).parent / "results"
BLOCK, TRUNK_VALUES, BLOCKS = 351_394_304, 233_000_000, 40
BYTES = {"bf16": 2, "fp8": 1}
SCHEDULES = {"40 steps": [(0, 26), (1, 14)], "4 steps": [(0, 2), (1, 2)]}
TOKENS = {"480p": 32_760, "720p": 75_600, "480p, 17 frames": 7_800}
FULL = 1.01  # full speed: at most a hundredth slower than compute alone


@dataclass(frozen=True, slots=True)
class Machine:
    """A card with one kind of weights: bytes it holds, bytes per second of its link, seconds per block and pass."""

    title: str
    kind: str
    memory: int
    link: float
    turns: dict[str, float]


MACHINES = (
    Machine("RTX 4090", "bf16", CARDS["rtx4090"].memory, 25e9, {"480p": 0.254, "720p": 0.988}),
    Machine("RTX 4090", "fp8", CARDS["rtx4090"].memory, 25e9, {"480p": 0.1048, "720p": 0.376}),
    Machine("H200", "bf16", CARDS["h200"].memory, 55e9, {"480p": 0.0531, "720p": 0.206}),
    Machine("H200", "fp8", CARDS["h200"].memory, 55e9, {"480p": 0.0393, "720p": 0.166}),
)


def sizes(kind: str) -> dict[Unit, int]:
    """Bytes of every unit of the pair."""
    blocks = {Unit(m, i): BYTES[kind] * BLOCK for m, i in product((0, 1), range(BLOCKS))}
    return blocks | {Unit(m, TRUNK): 2 * TRUNK_VALUES for m in (0, 1)}


def pair(schedule: str, guided: bool, trunks: bool = False) -> tuple[Use, ...]:
    """The uses of one segment."""
    return trace(steps_of(SCHEDULES[schedule], [3.0 if guided else 1.0] * 2), [BLOCKS, BLOCKS], trunks=trunks)


def at_handoff(timeline: Timeline) -> tuple[float, float]:
    """The handoff step over the median of all steps, and its stall in seconds."""
    (step,) = timeline.handoffs
    return timeline.steps[step] / median(timeline.steps), timeline.stalls[step]


def turn(seconds: float, use: Use) -> float:
    """Seconds of a use; a trunk's are left out."""
    return 0.0 if use.unit.index == TRUNK else seconds * use.passes


def row(machine: Machine, size: str, schedule: str, guided: bool) -> str:
    """Two places and both trunks, against the naive swap."""
    uses, weights, seconds = pair(schedule, guided), sizes(machine.kind), machine.turns[size]
    made, swap = plan(uses, weights, least_budget(uses, weights)), naive_swap(uses, weights)
    ours = simulate(made, lambda u: weights[u] / machine.link, lambda use: turn(seconds, use))
    naive = simulate(swap, lambda u: weights[u] / machine.link, lambda use: turn(seconds, use), early=False)
    held = [sum(place_bytes(each, weights)) for each in (made, swap)]
    cells = (
        *(machine.title, machine.kind, size, schedule, "on" if guided else "off"),
        *(f"{1e3 * BYTES[machine.kind] * BLOCK / machine.link:.1f}", f"{1e3 * seconds * (1 + guided):.1f}"),
        *(f"{held[0] / 1e9:.2f}", f"{median(ours.steps):.3f}", f"{at_handoff(ours)[0]:.3f}", f"{sum(ours.stalls):.3f}"),
        *(f"{held[1] / 1e9:.2f}" + " (too large)" * (held[1] > machine.memory), f"{at_handoff(naive)[0]:.3f}"),
        f"{sum(naive.stalls):.3f}",
    )
    return line(cells)


def tight_row(machine: Machine, size: str, guided: bool) -> str:
    """The least that a plan can work with, one trunk at a time, and what that costs in 4 steps."""
    uses, weights, seconds = pair("4 steps", guided, trunks=True), sizes(machine.kind), machine.turns[size]
    budget = least_budget(uses, weights)
    timeline = simulate(
        plan(uses, weights, budget), lambda u: weights[u] / machine.link, lambda use: turn(seconds, use)
    )
    ratio, stall = at_handoff(timeline)
    whole = least_budget(uses, weights, all_trunks=True)
    cells = (machine.title, machine.kind, size, "on" if guided else "off", f"{whole / 1e9:.2f}", f"{budget / 1e9:.2f}")
    return line((*cells, f"{1e3 * stall:.1f}", f"{ratio:.4f}"))


def operations(tokens: int) -> float:
    """Of one block and pass: linear layers, attention to itself, and to 512 tokens of text."""
    dim, hidden = 5120, 13824
    return tokens * (2 * (6 * dim * dim + 2 * dim * hidden) + 4 * tokens * dim + 4 * 512 * dim)


def card_rows(card: Card, kind: str) -> Iterator[str]:
    """The fewest places for full speed at the card's whole published rate, which no program reaches; no guidance."""
    uses, weights = pair("40 steps", guided=False), sizes(kind)
    rate = 1e12 * (card.fp8 if kind == "fp8" and card.fp8 else card.bf16)
    for size, tokens in TOKENS.items():
        seconds = operations(tokens) / rate
        places, timeline = fewest_places(uses, weights, card.copying, seconds)
        held = sum(place_bytes(timeline.plan, weights)) / 1e9
        copy = BYTES[kind] * BLOCK / card.copying
        lost = sum(timeline.stalls) / (len(uses) * seconds)
        cells = (card.title, kind, size, f"{1e3 * copy:.1f}", f"{1e3 * seconds:.1f}", str(places), f"{held:.2f}")
        yield line((*cells, f"{100 * lost:.2f}", "" if held * 1e9 < card.memory else "more than it has"))


def fewest_places(uses: tuple[Use, ...], weights: dict[Unit, int], link: float, seconds: float) -> tuple[int, Timeline]:
    """Places for blocks beside both trunks, and the run with them."""
    block = weights[Unit(0, 0)]
    for places in range(2, 2 * BLOCKS + 1):
        budget = least_budget(uses, weights) + (places - 2) * block
        timeline = fastest(uses, weights, budget, lambda u: weights[u] / link, lambda _: seconds)
        if sum(timeline.stalls) <= (FULL - 1) * len(uses) * seconds:
            return places, timeline
    raise AssertionError("with all blocks on the device nothing is copied, and nothing can stall")


def line(cells: tuple[str, ...]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def heading(cells: str) -> list[str]:
    """A table's first two rows."""
    names = tuple(cells.split(", "))
    return [line(names), line(("---",) * len(names))]


def commit() -> str:
    """The commit this was computed at, marked where the tree had changes."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def report(day: str) -> str:
    """The record as Markdown."""
    sizes_of_first = ("480p", "720p")
    lines = [
        "# Stalls of a streamed 14B pair, simulated",
        "",
        f"- {day}, commit {commit()}; computed from assumptions, nothing measured",
        "- `python benchmarks/stalls.py`",
        "- " + " ".join((__doc__ or "").split("\n\n")[1].split()),
        "",
        "## Two places for blocks, both trunks on the device, 81 frames",
        "",
        "Copy and turn are milliseconds of one block; held is gigabytes of weights on the device, step the seconds of",
        "the median step, handoff the handoff step over it, stall the seconds of all stalls after the first fill.",
        "",
        *heading(
            "card, weights, size, schedule, guidance, copy, turn, held, step, handoff, stall, "
            "naive: held, naive: handoff, naive: stall"
        ),
        *(row(*each) for each in product(MACHINES, sizes_of_first, SCHEDULES, (True, False))),
        "",
        "## The least weights on the device, 81 frames, 4 steps",
        "",
        "Gigabytes with both trunks staying (no stall), and with one trunk at a time, which stalls at the handoff.",
        "",
        *heading("card, weights, size, guidance, both trunks, one trunk, its stall in ms, its handoff"),
        *(tight_row(*each) for each in product(MACHINES, sizes_of_first, (True, False))),
        "",
        f"## The fewest places for full speed (at most {FULL} of compute alone), 40 steps, no guidance",
        "",
        "Compute, exact attention included, at the card's whole published matrix rate, which no program reaches: a",
        "real one hides more. fp8 weights on a card without fp8 are computed in bfloat16. Held: gigabytes of weights,",
        "both trunks included; lost: percent of the compute. Loads are spread where more than 2 places are needed.",
        "",
        *heading("card, weights, size, copy, turn, places, held, lost, fits"),
        *(found for card, kind in product(CARDS.values(), BYTES) for found in card_rows(card, kind)),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables and keep them."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    text = report(day)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"stalls_{day}.md"
    path.write_text(text)
    sys.stdout.write(f"{text}\nwritten to {path}\n")


if __name__ == "__main__":
    main()
