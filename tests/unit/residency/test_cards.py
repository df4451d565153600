"""Cards: their figures are of this world, and they are found by what people call them."""

from pathlib import Path

import pytest

from pasdedeux.residency import cards
from pasdedeux.residency.cards import CARDS, Card, find_card, free_memory


@pytest.mark.parametrize("card", CARDS.values(), ids=str)
def test_figures_are_plausible(card: Card) -> None:
    assert 10e9 < card.memory < 160e9
    assert card.fp8 is None or 1.9 < card.fp8 / card.bf16 < 2.1
    assert 0.3 < card.share < 1
    assert card.link < card.bandwidth / 10
    assert (card.price is None) == (card.price_of == "")


def test_rate_is_the_share_of_the_published_one() -> None:
    assert find_card("rtx4090").rate == pytest.approx(145e12, rel=0.01)
    assert find_card("rtx4090").traffic == pytest.approx(0.85e12, rel=0.01)
    assert find_card("h200").copying == 55e9


def test_memory_is_what_the_name_says() -> None:
    assert {name: round(card.memory / 2**30) for name, card in CARDS.items()} == {
        "rtx3060": 12,
        "rtx4060ti": 16,
        "rtx3090": 24,
        "rtx4090": 24,
        "rtx5090": 32,
        "a100-40": 40,
        "a100-80": 80,
        "h100": 80,
        "h200": 140,
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtx4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4060 Ti 16GB", "rtx4060ti"),
        ("RTX 3060 12 GB", "rtx3060"),
        ("A100-80GB", "a100-80"),
        ("H200", "h200"),
    ],
)
def test_found_by_what_people_call_it(text: str, name: str) -> None:
    assert find_card(text).name == name


@pytest.mark.parametrize("text", ["", "rtx", "gtx1080", "a100", "rtx40900"])
def test_another_name_is_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match=f'The card "{text}" is not known; known are rtx3060, .*h200, cpu'):
        find_card(text)


def test_a_processor_has_the_memory_that_is_free_and_no_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "meminfo"
    said.write_text("MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   23000000 kB\n")
    monkeypatch.setattr(cards, "MEMINFO", said)
    card = find_card("CPU")
    assert (card.processor, card.timed, card.memory) == (True, False, 23_000_000 * 1024)
    assert all(card.timed and not card.processor for card in CARDS.values())


@pytest.mark.parametrize("text", [None, "MemTotal: 24000000 kB\n"])
def test_where_the_system_does_not_say_all_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    said = tmp_path / "meminfo"
    if text is not None:
        said.write_text(text)
    monkeypatch.setattr(cards, "MEMINFO", said)
    monkeypatch.setattr(cards.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert free_memory() == 4_096_000
