"""What would make a run fit, or make it faster, in sentences; and how bytes and seconds are said."""

from collections.abc import Iterator

from pasdedeux.residency.arithmetic import activation_bytes
from pasdedeux.residency.cards import Card
from pasdedeux.residency.numbers import Prediction, RunNumbers
from pasdedeux.residency.placing import GAPS

FEW = 4
"""Steps of a distilled model."""
PHASES = {
    "text": "The text encoder",
    "image": "The image encoder",
    "encoding": "Encoding a segment",
    "denoising": "Denoising",
    "decoding": "Decoding a segment",
}


def advice(run: RunNumbers, card: Card, found: Prediction) -> Iterator[str]:
    """What would make it fit, then what would make it faster, a sentence each."""
    yield from _to_fit(run, found)
    if not card.timed:
        if found.fits and found.moved_step:
            yield _reads(run, found)
        return
    if found.fits and found.moved_step:
        yield _copies(run, card, found)
    slowest = max(found.steps, key=lambda step: step.compute)
    if slowest.unpacking > 0.1 * slowest.compute:
        took = f"{in_time(slowest.unpacking)} of {in_time(slowest.compute)} a step"
        yield f"Unpacking takes {took}; bfloat16 weights need none of it."
    stages = dict(found.stages)
    forwards = sum(expert.steps * expert.passes for expert in run.experts)
    if forwards > 2 * FEW:
        few = FEW / forwards * stages["denoising"] + found.seconds - stages["denoising"]
        yield f"A distilled model or LoRA ({FEW} steps, no guidance) would take about {in_time(few)}."
    codec = stages.get("encoding", 0) + stages["decoding"]
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
            fewer = f"{_less(found.usable - fixed, nbytes - fixed)} pixels or frames"
            least = f"only weights of fewer bytes, or {in_gb(nbytes / (1 - GAPS))} of memory,"
            yield f"{over}: {fewer if found.usable > fixed else least} would fit."
        else:
            peak = run.codec.encode_peak if name == "encoding" else run.codec.decode_peak
            fixed = nbytes - int(peak * run.pixels * run.codec_value / 4)
            half = "; in bfloat16 it needs half of that" if run.codec_value == 4 else ""
            yield f"{over}{half}; {_less(found.usable - fixed, nbytes - fixed)} pixels would fit."


def _less(there: int, needed: int) -> str:
    return f"{max(there, 0) / needed:.0%} of the"


def _copies(run: RunNumbers, card: Card, found: Prediction) -> str:
    step = max(found.steps, key=lambda step: step.copy - step.compute)
    expert = next(expert for expert in run.experts if expert.name == step.name)
    if step.copy <= step.compute:
        return (
            f"A step copies for {in_time(step.copy)} and computes for {in_time(step.compute)}, so that more memory "
            "would gain little."
        )
    hidden = expert.blocks - int(step.compute * card.copying / expert.block)
    return (
        f"Copying takes {in_time(step.copy)} a step and computing {in_time(step.compute)}: weights of fewer bytes, "
        f"more frames, or {hidden} resident blocks would hide it."
    )


def _reads(run: RunNumbers, found: Prediction) -> str:
    more = sum(expert.nbytes for expert in run.experts if expert.steps) - found.placement.weights
    return (
        f"A step reads {in_gb(found.moved_step)} from the disk: weights of fewer bytes would lessen that, and with "
        f"{in_gb(more)} more memory everything would be read once."
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
