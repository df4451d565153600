"""The tables of predictions in docs/memory.md: what `pasdedeux plan` says of two families on four cards.

Everything is computed; nothing is loaded and nothing measured. A cell is: experts on the device ("all", "one", else
the number of blocks that are there at once); peak GB of denoising and of the whole run ("*": the video autoencoder in
bfloat16, "(no)": too much); GB copied in a step; time of a step; time of the video.

Run: python benchmarks/plans.py
"""

import sys
from collections.abc import Iterator

from pasdedeux.engine.forecast import Prediction, find_card, forecast, in_time, job_for, open_forecast, predict

FAMILIES = {"wan2.2-t2v-a14b": 81, "wan2.2-animate-14b": 77}
CARDS = ("rtx3060", "rtx4060ti", "rtx4090", "h200")
SIZES = {"480p": "832x480", "720p": "1280x720"}
KINDS = ("bfloat16", "fp8", "Q4_K")
PLACES = {"all resident": "all", "one expert resident": "one"}


def cell(told: Prediction) -> str:
    """One prediction."""
    placed, slowest = told.placement, max(told.steps, key=lambda step: step.seconds)
    denoising = dict(placed.phases)["denoising"] / 1e9
    half, fits = "*" if told.codec_value == 2 else "", "" if told.fits else " (no)"
    peaks = f"{denoising:.1f}, {told.device / 1e9:.1f}{half}{fits}"
    copied = f"{told.moved_step / 1e9:.1f}"
    where = PLACES.get(placed.place, str(placed.places))
    return "; ".join((where, peaks, copied, in_time(slowest.seconds), in_time(told.seconds)))


def table(family: str, frames: int) -> Iterator[str]:
    """The lines of a family's table, in Markdown."""
    models = {kind: open_forecast(family, kind) for kind in KINDS}
    runs = {
        (kind, size): forecast(model, job_for(model, size=size, frames=frames)).run
        for kind, model in models.items()
        for size in SIZES.values()
    }
    yield f"| card | size | {' | '.join(KINDS)} |"
    yield "| --- " * (2 + len(KINDS)) + "|"
    for card in map(find_card, CARDS):
        for title, size in SIZES.items():
            cells = " | ".join(cell(predict(runs[kind, size], card)) for kind in KINDS)
            yield f"| {card.title} | {title} | {cells} |"


def main() -> None:
    """Print the tables."""
    for family, frames in FAMILIES.items():
        sys.stdout.write("\n".join((f"{family}:", "", *table(family, frames), "", "")))


if __name__ == "__main__":
    main()
