"""Predictions: what fits where, how it scales, and what is said of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.residency.arithmetic import CODECS, Network, activation_bytes, block_bytes
from pasdedeux.residency.budget import (
    CONTEXT,
    SLOTS,
    ExpertNumbers,
    RunNumbers,
    codec_seconds,
    in_time,
    predict,
    working_bytes,
)
from pasdedeux.residency.cards import CARDS, Card, find_card

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


@given(
    memory=st.integers(1, 160).map(lambda gb: gb * GB),
    kind=st.sampled_from(["bfloat16", "fp8", "Q4_K"]),
    frames=st.integers(1, 41),
    passes=st.sampled_from([1, 2]),
)
def test_what_fits_stays_within_memory(memory: int, kind: str, frames: int, passes: int) -> None:
    told = predict(pair(kind, passes, (frames, 30, 52)), CARDS["h200"], memory)
    denoising = dict(told.placement.phases)["denoising"]
    assert (denoising <= told.usable) == (told.placement.place != "too large")
    assert told.fits == all(nbytes <= told.usable for _, nbytes in told.placement.phases)
    assert 0 <= told.placement.resident <= 40
    assert told.moved >= sum(e.nbytes for e in pair(kind).experts)
    assert (told.moved_step == 0) == (told.placement.place.endswith("resident"))


@given(st.integers(4, 140), st.integers(0, 20))
def test_more_memory_never_costs(less: int, more: int) -> None:
    one, other = (predict(pair(), CARDS["h200"], gb * GB) for gb in (less, less + more))
    assert other.placement.resident >= one.placement.resident
    assert other.moved_step <= one.moved_step
    assert other.seconds <= one.seconds


def test_a_stream_keeps_what_is_left_beside_two_slots() -> None:
    run = pair(passes=1)
    told = predict(run, CARDS["rtx4090"])
    block = run.experts[0].block
    left = told.usable - CONTEXT - working_bytes(run) - TRUNK - (told.placement.resident + SLOTS) * block
    assert 0 <= left < block
    assert told.moved_step == (40 - told.placement.resident) * block


def test_guidance_keeps_a_second_stream_of_tokens() -> None:
    alone, guided = (predict(pair(passes=passes, grid=P720), CARDS["rtx4090"]) for passes in (1, 2))
    assert guided.placement.resident < alone.placement.resident
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
    assert told.steps[0].seconds == told.steps[0].copy > told.steps[0].compute
    assert any("resident blocks would hide it" in sentence for sentence in told.advice)


def test_at_full_length_every_copy_hides() -> None:
    for card in (CARDS["rtx4090"], CARDS["h200"]):
        for grid in ((21, 30, 52), P720):
            told = predict(pair(passes=1, grid=grid), card, 13 * GB)
            assert told.placement.place == "streamed"
            assert told.steps[0].copy < told.steps[0].compute


def test_decoding_a_large_picture_needs_more_than_a_small_card_has() -> None:
    told = predict(pair(grid=P720), CARDS["rtx3060"])
    assert not told.fits
    assert dict(told.placement.phases)["decoding"] == pytest.approx(16.1e9, rel=0.01)
    assert any(s.startswith("Decoding a segment needs 16.1 GB") and "bfloat16" in s for s in told.advice)
    assert predict(replace(pair(grid=P720), codec_value=2), CARDS["rtx3060"]).fits


def test_too_little_is_said_with_what_would_fit() -> None:
    told = predict(pair(grid=P720), CARDS["rtx4090"], 4 * GB)
    assert told.placement.place == "too large"
    (sentence,) = (s for s in told.advice if s.startswith("Denoising needs"))
    assert "of the pixels or frames would fit" in sentence


def test_unpacking_costs_time_and_is_said() -> None:
    told = predict(pair("fp8_scaled"), CARDS["rtx4090"])
    assert told.steps[0].unpacking > 0.3 * told.steps[0].compute
    assert any("Unpacking takes" in sentence for sentence in told.advice)
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
