"""Expert sets: as many experts as bands, and the right one for a level."""

import pytest
import torch

from pasdedeux.denoise.experts import Expert, ExpertSet
from pasdedeux.denoise.handoff import Handoff


def expert(name: str) -> Expert:
    return Expert(lambda x, sigma, cond: torch.zeros_like(x), name)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_owner_is_the_expert_of_the_band(count):
    handoff = Handoff(tuple(1 - k / count for k in range(1, count)))
    experts = ExpertSet(tuple(expert(f"e{k}") for k in range(count)), handoff)
    for k in range(count):
        low, high = handoff.band(k)
        assert experts.owner((low + high) / 2).name == f"e{k}"


def test_a_set_of_one_owns_everything():
    alone = expert("alone")
    experts = ExpertSet.single(alone)
    assert {id(experts.owner(sigma)) for sigma in (0.0, 0.5, 1.0)} == {id(alone)}


def test_swapping_turns_the_experts_and_leaves_the_bands():
    pair = ExpertSet((expert("high"), expert("low")), Handoff((0.875,)))
    swapped = pair.swapped()
    assert (swapped.owner(0.9).name, swapped.owner(0.1).name) == ("low", "high")
    assert swapped.handoff == pair.handoff
    assert swapped.swapped() == pair


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_set_that_does_not_fit_its_handoff_is_refused(count):
    with pytest.raises(ValueError, match=rf"{count} experts .* 1 bounds, which takes 2"):
        ExpertSet(tuple(expert(f"e{k}") for k in range(count)), Handoff((0.5,)))


def test_residence_is_nothing_unless_given():
    with expert("e").residence() as given:
        assert given is None
