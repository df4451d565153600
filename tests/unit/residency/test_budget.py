"""Predictions: what fits where, how it scales, and what is said of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasdedeux.residency.arithmetic import CODECS, Network, activation_bytes, block_bytes, stream_bytes
from pasdedeux.residency.budget import (
    CONTEXT,
    HOST,
    ExpertNumbers,
    RunNumbers,
    base_bytes,
    codec_seconds,
    in_time,
    place,
    predict,
    usable_of,
    working_bytes,
)
from pasdedeux.residency.cards import CARDS, Card, find_card
from pasdedeux.residency.placing import PROMPT, codec_bytes
from pasdedeux.residency.plan import bytes_moved, place_bytes, plan
from pasdedeux.residency.pool import route
from pasdedeux.residency.trace import Step, trace
from pasdedeux.residency.units import TRUNK as TRUNK_INDEX
from pasdedeux.residency.units import Unit

TRUNK = 465_438_848
GB = 10**9


def expert(name: str, steps: int = 20, passes: int = 2, kind: str = "bfloat16") -> ExpertNumbers:
    block = block_bytes(5120, 13824, kind)
    packed = () if kind == "bfloat16" else ((kind, 40 * 351_272_960),)
    nbytes = TRUNK + 40 * block
    return ExpertNumbers(
        name=name, steps=steps, passes=passes, nbytes=nbytes, trunk=TRUNK, block=block, blocks=40, packed=packed
    )


def pair(
    kind: str = "bfloat16", passes: int = 2, grid: tuple[int, int, int] = (21, 30, 52), **more: object
) -> RunNumbers:
    return RunNumbers(
        network=Network(dim=5120, hidden=13824, layers=40),
        experts=(expert("high", passes=passes, kind=kind), expert("low", passes=passes, kind=kind)),
        grid=grid,
        size=(grid[2] * 16, grid[1] * 16),
        frames=4 * grid[0] - 3,
        codec=CODECS["wan2.1"],
        text=11_361_820_672,
        **more,  # type: ignore[arg-type]
    )


P720 = (21, 45, 80)


@pytest.mark.parametrize(
    ("kind", "card", "place"),
    [
        ("bfloat16", "h200", "all resident"),
        ("bfloat16", "a100-80", "all resident"),
        ("bfloat16", "a100-40", "one expert resident"),
        ("bfloat16", "rtx4090", "streamed"),
        ("bfloat16", "rtx3060", "streamed"),
        ("fp8", "rtx5090", "all resident"),
        ("fp8", "rtx4090", "one expert resident"),
        ("Q4_K", "rtx4090", "all resident"),
    ],
)
def test_where_a_pair_is_at_480p(kind: str, card: str, place: str) -> None:
    told = predict(pair(kind), find_card(card))
    assert told.placement.place == place
    assert told.fits


@settings(deadline=None, max_examples=40)
@given(
    memory=st.integers(1, 160).map(lambda gb: gb * GB),
    kind=st.sampled_from(["bfloat16", "fp8", "Q4_K"]),
    frames=st.integers(1, 41),
    passes=st.sampled_from([1, 2]),
    segments=st.integers(1, 3),
)
def test_what_fits_stays_within_memory(memory: int, kind: str, frames: int, passes: int, segments: int) -> None:
    run = pair(kind, passes, (frames, 30, 52), segments=segments)
    told = predict(run, CARDS["h200"], memory)
    placed = told.placement
    denoising = dict(placed.phases)["denoising"]
    assert (denoising <= told.usable) == (placed.place != "too large")
    assert placed.weights <= placed.budget or placed.place == "too large"
    assert told.fits == all(nbytes <= told.usable for _, nbytes in placed.phases)
    assert placed.moved >= sum(e.nbytes for e in run.experts)
    assert (told.moved_step == 0) == (placed.place.endswith("resident"))
    assert (placed.again == 0) == (placed.moved == sum(e.nbytes for e in run.experts))


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 140), st.integers(0, 20))
def test_more_memory_never_costs(less: int, more: int) -> None:
    run = replace(pair(), codec_value=2)  # a codec in float32 is slower
    one, other = (predict(run, CARDS["h200"], gb * GB) for gb in (less, less + more))
    assert other.placement.places >= one.placement.places
    assert other.moved_step <= one.moved_step
    assert other.moved <= one.moved
    assert other.seconds <= one.seconds


def uneven(segments: int = 1, passes: int = 1) -> RunNumbers:
    """Two experts of few blocks, no two of the same size."""
    experts = tuple(
        ExpertNumbers(
            name=name,
            steps=steps,
            passes=passes,
            nbytes=TRUNK + sum(sizes),
            trunk=TRUNK,
            block=max(sizes),
            blocks=len(sizes),
            sizes=sizes,
        )
        for name, steps, sizes in (
            ("high", 3, tuple(700_000_000 + 1000 * k for k in range(6))),
            ("low", 2, tuple(500_000_000 + 1000 * k for k in range(5))),
        )
    )
    return replace(pair(passes=passes, segments=segments), experts=experts)


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("gigabytes", [6.5, 7.2, 7.9])
def test_bytes_are_those_of_the_plan_that_a_streamer_carries_out(gigabytes: float, segments: int) -> None:
    run = uneven(segments, passes=2)
    placed = place(run, int(gigabytes * GB))
    sizes = {Unit(k, i): size for k, e in enumerate(run.experts) for i, size in enumerate(e.sizes)}
    sizes |= {Unit(k, TRUNK_INDEX): TRUNK for k in (0, 1)}
    steps = [Step(0, passes=2)] * 3 + [Step(1, passes=2)] * 2
    times = 1 if placed.stays else segments
    uses = trace(steps, [6, 5], segments // times)
    made = plan(uses, sizes, placed.budget)
    assert placed.place == "streamed"
    assert placed.weights == sum(place_bytes(made, sizes)) == sum(route(made, sizes.__getitem__).slots) + 2 * TRUNK
    assert placed.moved == times * bytes_moved(made, sizes)
    assert dict(placed.phases)["denoising"] == placed.weights + int(gigabytes * GB) - placed.budget


def test_budget_is_what_the_work_leaves() -> None:
    for passes in (1, 2):
        run, usable = pair(passes=passes), 20 * GB
        stream = stream_bytes(run.network, run.grid) if passes == 2 else 0
        assert place(run, usable).budget == usable - CONTEXT - working_bytes(run) - stream
        assert place(run, usable, 3 * GB).budget == usable - 3 * GB - working_bytes(run) - stream
        assert place(run, 140 * GB).budget == 140 * GB - CONTEXT - working_bytes(run)


def test_what_is_resident_but_leaves_to_decode_is_streamed() -> None:
    """So that each pass of a guided step has its stream."""
    run = pair("fp8", grid=P720)
    placed = place(run, 35 * GB)
    assert (placed.place, placed.stays, placed.streamed) == ("all resident", False, True)
    assert dict(placed.phases)["denoising"] == sum(e.nbytes for e in run.experts) + 35 * GB - placed.budget
    assert placed.budget == 35 * GB - CONTEXT - working_bytes(run) - stream_bytes(run.network, P720)


@pytest.mark.parametrize("gigabytes", [9, 60])
def test_segments_beyond_those_planned_are_as_those_in_the_middle(gigabytes: int) -> None:
    run = replace(uneven(), size=(64, 64))  # decodes in little, so that weights stay
    moved = [place(replace(run, segments=n), gigabytes * GB) for n in range(1, 9)]
    assert all(placed.stays for placed in moved)
    sizes = {Unit(k, i): size for k, e in enumerate(run.experts) for i, size in enumerate(e.sizes)}
    sizes |= {Unit(k, TRUNK_INDEX): TRUNK for k in (0, 1)}
    uses = trace([Step(0)] * 3 + [Step(1)] * 2, [6, 5], 8)
    assert moved[-1].moved == pytest.approx(bytes_moved(plan(uses, sizes, moved[-1].budget), sizes), rel=0.02)


def test_an_expert_without_steps_takes_no_place() -> None:
    run = pair()
    alone = replace(run, experts=(run.experts[0], replace(run.experts[1], steps=0)))
    assert place(alone, 140 * GB).weights == run.experts[0].nbytes
    assert [step.name for step in predict(alone, CARDS["rtx4090"]).steps] == ["high"]


def test_sizes_have_to_be_those_of_the_blocks() -> None:
    with pytest.raises(ValueError, match=r"high has 6 blocks of .* but sizes of 5 blocks"):
        replace(uneven().experts[0], sizes=(1, 2, 3, 4, 5))


def test_guidance_keeps_a_second_stream_of_tokens() -> None:
    alone, guided = (predict(pair(passes=passes, grid=P720), CARDS["rtx4090"]) for passes in (1, 2))
    assert guided.placement.places < alone.placement.places
    assert guided.steps[0].compute == pytest.approx(2 * alone.steps[0].compute)


def test_seconds_are_those_of_the_published_runs() -> None:
    """A 14B forward at 832x480, 81 frames, without compilation: 13.66 s on an RTX 4090, 4.60 s on an H100; an A100 has
    785.7 s for 80 of them, of which some belong to its own way of passing timesteps."""
    seconds = {name: predict(pair(passes=1), CARDS[name], 140 * GB).steps[0].compute for name in CARDS}
    assert seconds["rtx4090"] == pytest.approx(13.66, rel=0.06)
    assert seconds["h100"] == pytest.approx(4.60, rel=0.06)
    assert seconds["a100-80"] == pytest.approx(785.7 / 80, rel=0.06)


def test_a_slow_link_decides_and_is_said() -> None:
    slow = replace(CARDS["rtx4090"], link=0.5)
    told = predict(pair(grid=(5, 30, 52)), slow, 14 * GB)
    assert told.steps[0].seconds >= told.steps[0].copy > told.steps[0].compute
    assert dict(told.stages)["loading"] > dict(told.stages)["denoising"]
    assert any("resident blocks would hide it" in sentence for sentence in told.advice)


def test_at_full_length_every_copy_hides() -> None:
    for card in (CARDS["rtx4090"], CARDS["h200"]):
        for grid in ((21, 30, 52), P720):
            told = predict(pair(passes=1, grid=grid), card, 13 * GB)
            assert told.placement.place == "streamed"
            assert told.steps[0].copy < told.steps[0].compute
            assert told.steps[0].seconds == pytest.approx(told.steps[0].compute)
            # What is waited for is the first block, and both trunks.
            first = (2 * TRUNK + told.placement.plan.uses[0].passes * pair().experts[0].block) / card.copying
            assert dict(told.stages)["loading"] == pytest.approx(first)


def test_what_is_copied_again_is_kept_in_host_memory() -> None:
    run = pair()
    pictures = run.frames * run.pixels * 3
    ring = 2 * run.experts[0].block
    streamed, once, whole = (predict(run, CARDS[card]) for card in ("rtx4090", "a100-40", "h200"))
    assert streamed.host == HOST + pictures + ring + streamed.placement.again
    assert 0 < streamed.placement.again < sum(e.nbytes for e in run.experts)
    assert once.host == once.host_disk == HOST + pictures + ring
    assert whole.host == whole.host_disk == HOST + pictures
    again = predict(replace(run, segments=2), CARDS["a100-40"]).placement.again
    assert again == sum(e.nbytes for e in run.experts)


def test_decoding_a_large_picture_is_done_in_bfloat16_on_a_small_card() -> None:
    run = replace(pair(grid=P720), text=0)
    told = predict(run, CARDS["rtx3060"])
    assert told.fits
    assert told.codec_value == 2
    assert dict(told.placement.phases)["decoding"] == pytest.approx(8.3e9, rel=0.01)
    assert predict(run, CARDS["rtx4090"]).codec_value == 4
    told = predict(run, CARDS["rtx3060"], 8 * GB)
    assert not told.fits
    assert any(s.startswith("Decoding a segment needs 8.3 GB") and "pixels would fit" in s for s in told.advice)


def test_a_text_encoder_takes_the_room_there_is() -> None:
    run, card = replace(pair(), text=9 * GB, text_least=GB), CARDS["rtx3060"]
    for memory, told in (
        (12 * GB, CONTEXT + PROMPT + 9 * GB),
        (8 * GB, usable_of(8 * GB)),
        (GB, CONTEXT + PROMPT + GB),
    ):
        assert dict(predict(run, card, memory).placement.phases)["text"] == told
    beside = CONTEXT + PROMPT
    whole = predict(replace(run, text_least=0), card, 8 * GB)
    assert dict(whole.placement.phases)["text"] == beside + 9 * GB


def test_a_processor_reads_from_the_disk_and_takes_no_time_that_is_known() -> None:
    run, card = replace(pair(grid=(2, 4, 4)), text_least=GB), find_card("cpu")
    told = predict(run, card, 6 * GB)
    base = base_bytes(run, processor=True)
    assert (told.usable, told.placement.place) == (usable_of(6 * GB), "streamed")
    assert dict(told.placement.phases).keys() == {"text", "denoising", "decoding"}
    assert dict(told.placement.phases)["text"] == told.usable
    # Pages of a file count only where memory was limited, and not where they are no more than that.
    assert "text" not in dict(predict(run, card).placement.phases)
    assert "text" in dict(predict(replace(run, text_mapped=False), card).placement.phases)
    read = replace(run, from_disk=True)
    assert told.placement.budget == told.usable - base - working_bytes(read) - stream_bytes(run.network, run.grid)
    # An autoencoder that lies in its file as it is used is not there before the first segment is decoded.
    for there in (replace(run, codec_mapped=False), replace(run, encodes=1), replace(run, segments=2)):
        assert working_bytes(replace(there, from_disk=True)) == working_bytes(read) + codec_bytes(read)
    assert (told.steps, told.stages, told.dollars, told.host) == ((), (), None, 0)
    assert any(s.startswith("A step reads") for s in told.advice)
    assert predict(run, card, 300 * GB).placement.place == "all resident"


def test_a_processor_with_too_little_says_what_would_do() -> None:
    told = predict(replace(pair(grid=(2, 4, 4)), text=0), find_card("cpu"), 3 * GB)
    (sentence,) = told.advice
    least = dict(told.placement.phases)["denoising"]
    assert told.placement.place == "too large"
    assert f"only weights of fewer bytes, or {least / 0.97e9:.1f} GB of memory, would fit" in sentence


def test_too_little_is_said_with_what_would_fit() -> None:
    told = predict(pair(grid=P720), CARDS["rtx4090"], 7 * GB)
    assert told.placement.place == "too large"
    (sentence,) = (s for s in told.advice if s.startswith("Denoising needs"))
    assert "of the pixels or frames would fit" in sentence


def test_unpacking_costs_time_and_is_said() -> None:
    told = predict(pair("fp8_scaled"), CARDS["rtx4090"])
    values = 2 * 40 * 351_272_960
    assert told.steps[0].unpacking == pytest.approx(values * 21 / CARDS["rtx4090"].traffic)
    short = predict(pair("fp8_scaled", grid=(2, 30, 52)), CARDS["rtx4090"])
    assert short.steps[0].unpacking > 0.1 * short.steps[0].compute
    assert any("Unpacking takes" in sentence for sentence in short.advice)
    assert predict(pair(), CARDS["rtx4090"]).steps[0].unpacking == 0


def test_more_segments_bring_each_expert_again() -> None:
    once, thrice = (predict(pair(segments=n), CARDS["a100-40"]) for n in (1, 3))
    weights = sum(e.nbytes for e in pair().experts)
    assert once.moved == weights + pair().text
    assert thrice.moved == 3 * weights + pair().text
    assert predict(pair(segments=3), CARDS["h200"]).moved == once.moved


def test_price() -> None:
    told = predict(pair(), CARDS["rtx4090"], price=0.36)
    assert told.dollars == pytest.approx(told.seconds * 0.0001)
    assert predict(pair(), CARDS["rtx4090"]).dollars == pytest.approx(told.seconds / 3600 * 0.45)
    assert predict(pair(), CARDS["rtx3060"]).dollars is None


def test_float32_takes_twice_the_activations_and_more_time() -> None:
    half, full = pair(grid=P720), replace(pair(grid=P720), value=4)
    assert activation_bytes(full.network, P720, 4) == pytest.approx(2 * activation_bytes(half.network, P720), rel=0.05)
    card: Card = CARDS["h200"]
    assert predict(full, card).steps[0].compute == pytest.approx(2 * predict(half, card).steps[0].compute)


def test_decoding_a_clip_is_a_few_seconds_and_encoding_less() -> None:
    run, card = pair(grid=P720), CARDS["rtx4090"]
    assert 10 < codec_seconds(run, card, encode=False) < 20
    assert codec_seconds(run, card, encode=True) < codec_seconds(run, card, encode=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.456, "0.46 s"),
        (14.23, "14.2 s"),
        (95.4, "95 s"),
        (119.7, "120 s"),
        (1133, "18 min 53 s"),
        (4215, "1 h 10 min"),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert in_time(seconds) == text
