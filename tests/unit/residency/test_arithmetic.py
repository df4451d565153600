"""Arithmetic against known counts, and against the bytes that are alive in a forward of ours."""

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pasdedeux.checkpoints.packing.gguf_blocks import BLOCKS
from pasdedeux.checkpoints.packing.linear import PackedLinear, release
from pasdedeux.checkpoints.tensors import LazyTensor
from pasdedeux.engine.numbers import network
from pasdedeux.models.wan import build_wan, layers
from pasdedeux.models.wan.config import WAN_MODELS, VaceConfig, WanConfig
from pasdedeux.models.wan.spans import spans as real_spans
from pasdedeux.residency.arithmetic import (
    Grid,
    Network,
    activation_bytes,
    block_bytes,
    block_values,
    context_bytes,
    cross_attention_flop,
    elementwise_bytes,
    forward_flop,
    linear_flop,
    self_attention_flop,
    span_of,
    tokens,
    unpacked_bytes,
)

NET = Network(dim=5120, hidden=13824, layers=40)
P480, P720 = (21, 30, 52), (21, 45, 80)


class Alive(TorchDispatchMode):
    """Counts the bytes of storages made inside it, and what is read and written outside matrix products."""

    PRODUCTS = ("mm", "addmm", "bmm", "_scaled_dot_product_flash_attention_for_cpu")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.peak = self.traffic = 0

    @property
    def left(self) -> int:
        """Bytes alive now."""
        return sum(self.known.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(some) if isinstance(t, torch.Tensor)] for some in ((args, kwargs), out))
        for tensor in made:
            if all(place_of(tensor) != place_of(other) for other in given):
                self.known[place_of(tensor)] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self.known.pop, place_of(tensor), None)
        self.peak = max(self.peak, self.left)
        if (
            func.overloadpacket.__name__ not in (*self.PRODUCTS, "empty", "new_empty", "empty_like")
            and not func.is_view
        ):
            self.traffic += sum(t.numel() * t.element_size() for t in (*given, *made))
        return out


def place_of(tensor: Tensor) -> int:
    """What tells a storage from others, on meta too."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def forward_of(
    config: WanConfig, grid: Grid, dtype: torch.dtype, device: str = "cpu", **more: Tensor
) -> tuple[int, Alive]:
    """What is kept after the first forward, which makes the contexts, and what is alive in the second."""
    with torch.device(device), torch.no_grad():
        net: Any = build_wan(config).to(dtype).eval().requires_grad_(False)
        text = torch.zeros(1, config.text_len, config.text_dim, dtype=dtype)
        x, t = torch.zeros(1, config.in_dim, *grid), torch.full((1,), 500.0)
        with Alive() as first:
            cond = net.prepare(text=text, grid=grid, **more)
            net(x, t, cond)
        kept = first.left
        with Alive() as second:
            net(x, t, cond)
    return kept, second


def test_tokens_of_the_released_sizes() -> None:
    assert tokens(81, (832, 480), (4, 8, 8)) == P480
    assert tokens(81, (1280, 720), (4, 8, 8)) == P720
    assert tokens(121, (1280, 704), (4, 16, 16)) == (31, 22, 40)


@pytest.mark.parametrize(("frames", "size"), [(80, (832, 480)), (0, (832, 480)), (81, (840, 480)), (81, (832, 0))])
def test_what_does_not_divide_is_refused(frames: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no whole number of latents and patches"):
        tokens(frames, size, (4, 8, 8))


def test_flop_of_a_14b_forward() -> None:
    assert linear_flop(NET, 32_760) / 1e12 == pytest.approx(783.2, rel=0.001)
    assert self_attention_flop(NET, 32_760) / 1e12 == pytest.approx(879.2, rel=0.001)
    assert cross_attention_flop(NET, 32_760) / 1e12 == pytest.approx(13.7, rel=0.01)  # keys and values are made once
    assert forward_flop(NET, P720) / 1e12 == pytest.approx(6521, rel=0.001)


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.2-t2v-a14b", "wan2.1-i2v-14b", "wan2.2-ti2v-5b"])
def test_values_of_a_block_are_those_of_the_module(name: str) -> None:
    config = WAN_MODELS[name]
    with torch.device("meta"):
        block = layers.Block(config)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    rest = sum(p.numel() for p in block.parameters() if p.ndim != 2)
    assert block_values(config.dim, config.ffn_dim, config.image_dim is not None) == (matrices, rest)


def test_bytes_of_a_14b_block() -> None:
    assert block_bytes(5120, 13824, "bfloat16") == 702_788_608
    assert block_bytes(5120, 13824, "fp8") == pytest.approx(351.4e6, rel=0.001)
    assert block_bytes(5120, 13824, "Q4_K") / block_bytes(5120, 13824, "bfloat16") == pytest.approx(0.2815, rel=0.001)


@given(st.integers(1, 200_000))
def test_spans_are_those_of_the_blocks(count: int) -> None:
    with torch.no_grad():  # a forecast is of runs without gradients
        assert min(span_of(count), count) == real_spans(count)[0].stop


def test_contexts_of_a_14b_prompt_weigh_what_is_said() -> None:
    table = 4 * 128 * 75_600
    assert context_bytes(NET, P720) - table == pytest.approx(0.42e9, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("dim", "hidden", "grid"),
    [
        (64, 160, (1, 16, 16)),
        (64, 160, (1, 32, 32)),
        (64, 128, (5, 32, 32)),
        (128, 352, (3, 32, 32)),
        (64, 160, (25, 32, 32)),
        (256, 512, (2, 48, 48)),
    ],
)
def test_activations_are_those_of_a_forward(dim: int, hidden: int, grid: Grid, dtype: torch.dtype) -> None:
    config = WanConfig(dim=dim, ffn_dim=hidden, heads=dim // 32, layers=2, text_dim=32, text_len=16)
    kept, second = forward_of(config, grid, dtype)
    told = network(config), (grid[0], grid[1] // 2, grid[2] // 2), dtype.itemsize
    assert activation_bytes(*told) == pytest.approx(second.peak, rel=0.1)
    assert context_bytes(*told) == pytest.approx(kept, rel=0.02)


def test_a_second_row_of_blocks_has_streams_of_its_own() -> None:
    config = VaceConfig(dim=64, ffn_dim=160, heads=2, layers=2, text_dim=32, text_len=16, vace_layers=(0,))
    kept, second = forward_of(config, (5, 32, 32), torch.bfloat16, control=torch.zeros(1, 96, 5, 32, 32).bfloat16())
    told = network(config), (5, 16, 16)
    assert activation_bytes(*told) == pytest.approx(second.peak, rel=0.1)
    assert context_bytes(*told) == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("grid", [(21, 60, 104), (21, 90, 160)])
def test_activations_of_a_true_size_forward(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta, where tensors have sizes and no memory; attention is one kernel that makes its result, as on a GPU."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.empty_like(q.transpose(1, 2)).transpose(1, 2)

    def norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
        made.append(2 * x.numel() * x.element_size())
        return torch.empty_like(x)

    made: list[int] = []
    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(layers.F, "rms_norm", norm)
    config = WanConfig(layers=2)
    _, alive = forward_of(config, grid, torch.bfloat16, "meta")
    told = network(config), (grid[0], grid[1] // 2, grid[2] // 2)
    assert activation_bytes(*told) == pytest.approx(alive.peak, rel=0.02)
    assert elementwise_bytes(*told) == pytest.approx(alive.traffic + sum(made) / 2, rel=0.05)


def test_a_block_holds_little_more_than_three_streams() -> None:
    stream = 2 * 75_600 * 5120
    assert 3.3 < activation_bytes(NET, P720) / stream < 3.5


def test_unpacking_holds_two_matrices_and_a_piece() -> None:
    assert unpacked_bytes(NET) == 2 * 2 * 5120 * 13824 + 8 * 2**24
    assert unpacked_bytes(NET, 4) == 2 * 4 * 5120 * 13824 + 8 * 2**24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "Q8_0", "Q4_K"])
def test_unpacked_bytes_are_those_of_two_layers(kind: str, dtype: torch.dtype) -> None:
    net = Network(dim=256, hidden=2048, layers=1)
    sizes = [(net.hidden, net.dim), (net.dim, net.hidden)]
    layers = [PackedLinear(packed_zeros(kind, shape), None, dtype) for shape in sizes]
    release()
    with torch.no_grad(), Alive() as alive:
        for layer in layers * 3:
            layer.unpacked(dtype)
    release()
    assert unpacked_bytes(net, dtype.itemsize) == pytest.approx(alive.peak, rel=0.03)


def packed_zeros(kind: str, shape: tuple[int, int]) -> LazyTensor:
    """With a scale, where the kind is an 8-bit float."""
    if kind in BLOCKS:
        stored = torch.zeros(BLOCKS[kind].stored_shape(shape), dtype=torch.uint8)
        return LazyTensor(shape=shape, dtype=kind, nbytes=stored.nbytes, read=lambda: stored)
    scale = LazyTensor(shape=(), dtype="float32", nbytes=4, read=lambda: torch.ones(()))
    read = partial(torch.zeros, shape, dtype=getattr(torch, kind))
    return LazyTensor(shape=shape, dtype=kind, nbytes=shape[0] * shape[1], read=read, scale=scale)
