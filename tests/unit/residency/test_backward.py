"""Gradients through blocks that come and go are those of blocks that stay, in the memory of two of them."""

from collections.abc import Sequence
from time import sleep
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pasdedeux.residency.backward import BothWays
from pasdedeux.residency.sources import CallSource, Made, Source
from pasdedeux.residency.stream import Streamed
from pasdedeux.residency.trace import passes_of
from pasdedeux.residency.units import Unit

X = torch.linspace(-1, 1, 12).reshape(2, 6)


class Late(torch.autograd.Function):
    """The same; its gradient comes late, and whoever would overwrite a weight that it needs has time to."""

    seconds = 0.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        sleep(Late.seconds)
        return grad


class Stack(nn.Module):
    """Frozen layers, some of which have a trained value beside them."""

    def __init__(self, blocks: int, learnt: Sequence[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(blocks))
        self.requires_grad_(False)
        self.beside = {k: nn.Parameter(torch.full((6,), 0.1 * (k + 1))) for k in learnt}

    def forward(self, x: Tensor, ways: BothWays | None = None) -> Tensor:
        x = self.first(x)
        for k, block in enumerate(self.blocks):
            x = self.one(k, block, x, ways)
        return x.square().mean()

    def one(self, k: int, block: nn.Module, x: Tensor, ways: BothWays | None) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return x + Late.apply(block(x)) * self.beside.get(k, torch.ones(6))

        if ways is None:
            return run(x)
        if torch.is_grad_enabled():
            return checkpoint(run, x, use_reentrant=False, context_fn=lambda: (ways.there(block), ways.back(block)))
        with ways.there(block):
            return run(x)

    def learn(self, passes: Sequence[bool], ways: BothWays | None = None) -> list[Tensor]:
        """Every pass's loss, and after those with gradients a step down them."""
        told = []
        for graded in passes:
            with torch.set_grad_enabled(graded):
                loss = self(X, ways)
            told.append(loss.detach())
            if graded:
                loss.backward()
                with torch.no_grad():
                    for value in self.beside.values():
                        value -= 0.1 * (torch.zeros(()) if value.grad is None else value.grad)
                        value.grad = None
        return told


def away(model: Stack) -> tuple[Streamed, Source]:
    """The model without weights, and where they come from."""
    it = Streamed(model, list(model.blocks))
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    units = it.units(0, {n: Made(tuple(t.shape), t.dtype, lambda t=t: t) for n, t in own.items()})
    for name in own:
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, nn.Parameter(torch.empty_like(own[name], device="meta"), False))
    return it, CallSource(units)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 7),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sets(st.integers(0, 6), min_size=1),
)
def test_losses_and_steps_are_those_of_blocks_that_stay(
    blocks: int, passes: list[bool], places: int, learnt: set[int]
) -> None:
    beside = sorted({k % blocks for k in learnt})
    whole, moved = Stack(blocks, beside), Stack(blocks, beside)
    it, source = away(moved)
    size = source.layout(Unit(0, 0)).nbytes
    budget = source.layout(Unit(0, -1)).nbytes + places * size
    with BothWays(it, source, passes, budget, "cpu") as ways:
        found = moved.learn(passes, ways)
    for a, b in zip(whole.learn(passes), found, strict=True):
        assert torch.equal(a, b)
    for k in beside:
        assert torch.equal(whole.beside[k], moved.beside[k])
    assert all(tensor.is_meta for tensor in moved.state_dict().values())


def test_weights_stay_until_their_gradients_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "seconds", 0.01)
    whole, moved = Stack(6, [0, 3]), Stack(6, [0, 3])
    it, source = away(moved)
    with BothWays(it, source, [True, True], 0, "cpu") as ways:
        moved.learn([True, True], ways)
    whole.learn([True, True])
    for k in (0, 3):
        assert torch.equal(whole.beside[k], moved.beside[k])


def test_what_is_at_a_turning_point_is_not_loaded_twice() -> None:
    model = Stack(8, range(8))
    it, source = away(model)
    size = source.layout(Unit(0, 0)).nbytes
    with BothWays(it, source, [True] * 3, source.layout(Unit(0, -1)).nbytes + 4 * size, "cpu") as ways:
        model.learn([True] * 3, ways)
    # Eight loads fill and cross the blocks; each of the five turns after that keeps three or four of them.
    assert ways.moved <= (8 + 5 * 5) * size


def test_a_block_that_was_not_announced_is_refused() -> None:
    model = Stack(2, [0])
    it, source = away(model)
    ways = BothWays(it, source, [False], 1, "cpu")
    with pytest.raises(RuntimeError, match="Block 0 of model 0 is used in a pass that was not announced"), ways:  # noqa: PT012
        model.learn([False], ways)
        model.learn([False], ways)


def test_the_turns_of_passes() -> None:
    turns = [(way.use.unit.index, way.back) for way in passes_of([True, False], 2)]
    assert turns == [(0, False), (1, False), (1, True), (0, True), (0, False), (1, False)]
    with pytest.raises(ValueError, match="0 blocks"):
        passes_of([True], 0)
