"""A Wan block against the same formulas written plainly: equal results and gradients, less memory."""

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from pasdedeux.models.wan import WanConfig
from pasdedeux.models.wan.layers import Block, Contexts, Rope, Timestep, rope_table

CONFIG = WanConfig(dim=48, ffn_dim=130, heads=2, layers=1)  # feed-forward 2.7 times the width, as in the 14B


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made by operators, from creation until their last reference is gone."""

    def __init__(self, *held: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()
        for tensor in held:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.known:
            return
        self.known.add(storage.data_ptr())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.remove, storage.data_ptr(), storage.nbytes())

    def remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        own = {a.untyped_storage().data_ptr() for a in given}
        result = func(*args, **(kwargs or {}))
        for out in tree_leaves(result):
            if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in own:
                self.add(out)
        return result


def plain_rms(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float() * (x.float().pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.float()).to(x.dtype)


def plain_rotate(x: Tensor, rope: Rope) -> Tensor:
    """Complex multiplication of neighbouring pairs."""
    turn = torch.complex(rope.cos, rope.sin)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def plain_block(block: Block, x: Tensor, timestep: Timestep, contexts: Contexts, rope: Rope) -> Tensor:
    """The reference order, whole: norm1, self-attention, norm3, cross-attention, norm2, ffn."""
    a, c = block.self_attn, block.cross_attn
    e = (block.modulation.float() + timestep.projection)[timestep.index].unbind(2)
    norm = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    h = (norm * (1 + e[1]) + e[0]).to(x.dtype)
    q = plain_rms(a.q(h), a.norm_q.weight).unflatten(-1, (-1, a.head_dim))
    k = plain_rms(a.k(h), a.norm_k.weight).unflatten(-1, (-1, a.head_dim))
    q, k = plain_rotate(q, rope).transpose(1, 2), plain_rotate(k, rope).transpose(1, 2)
    v = a.v(h).unflatten(-1, (-1, a.head_dim)).transpose(1, 2)
    y = a.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    x = (x.float() + y * e[2]).to(x.dtype)
    h = F.layer_norm(x.float(), x.shape[-1:], block.norm3.weight.float(), block.norm3.bias.float(), 1e-6).to(x.dtype)
    q = plain_rms(c.q(h), c.norm_q.weight).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
    x = x + c.o(sum(F.scaled_dot_product_attention(q, s.k, s.v).transpose(1, 2).flatten(2) for s in contexts.of(c)))
    norm = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    h = (norm * (1 + e[4]) + e[3]).to(x.dtype)
    return (x.float() + block.ffn(h).float() * e[5]).to(x.dtype)


def case(tokens: int, levels: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Block, tuple[Any, ...]]:
    """A random block and its inputs; levels > 0 gives every token one of so many timesteps."""
    torch.manual_seed(0)
    block = Block(CONFIG).to(dtype)
    for parameter in (p for name, p in block.named_parameters() if "norm" in name):
        torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    index = torch.randint(levels, (1, tokens)) if levels else torch.zeros(1, 1, dtype=torch.long)
    rows = max(levels, 1)
    timestep = Timestep(embedding=torch.randn(rows, 48), projection=torch.randn(rows, 6, 48), index=index)
    contexts = Contexts(torch.randn(1, 9, 48, dtype=dtype))
    contexts.of(block.cross_attn)  # made at the first turn, which is not what is looked at here
    rope = rope_table((tokens // 64, 8, 8), CONFIG.head_dim, torch.device("cpu"))
    return block, (torch.randn(1, tokens, 48, dtype=dtype), timestep, contexts, rope)


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("tokens", [64, 1344])
def test_equals_the_plain_block(tokens: int, levels: int) -> None:
    block, (x, *rest) = case(tokens, levels)
    with torch.no_grad():
        want = plain_block(block, x, *rest)
        got = block(x.clone(), *rest)
    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


def test_bfloat16_stays_within_its_rounding() -> None:
    block, (x, *rest) = case(1344, dtype=torch.bfloat16)
    with torch.no_grad():
        want = plain_block(block, x, *rest)
        got = block(x.clone(), *rest)
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() <= 2**-6 * want.abs().max()


def test_gradients_equal_those_of_the_plain_block() -> None:
    block, (x, *rest) = case(640, levels=3)
    kept = x.clone()
    inputs = [x.requires_grad_(), *block.parameters()]
    plain = plain_block(block, x, *rest).square().sum()
    want = torch.autograd.grad(plain, inputs, retain_graph=True)  # both reach the context's keys
    got = torch.autograd.grad(block(x, *rest).square().sum(), inputs)
    assert torch.equal(x, kept)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_survive_checkpointing(reentrant: bool) -> None:
    block, (x, *rest) = case(640)
    x.requires_grad_()
    want = torch.autograd.grad(block(x, *rest).square().sum(), x)[0]
    checkpoint(block, x, *rest, use_reentrant=reentrant).square().sum().backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert torch.allclose(x.grad, want, rtol=1e-5, atol=1e-5)


def peak_in_streams(dtype: torch.dtype, plain: bool) -> float:
    """Most bytes alive at once, x included, over the bytes of x."""
    block, (x, *rest) = case(8192, dtype=dtype)
    with torch.no_grad(), LiveBytes(x, *rest[2]) as live:
        size = x.untyped_storage().nbytes()
        held = live.now - size
        plain_block(block, x, *rest) if plain else block(x, *rest)
    return (live.peak - held) / size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lives_in_three_and_a_half_streams(dtype: torch.dtype) -> None:
    assert peak_in_streams(dtype, plain=False) <= 3.5


def test_the_plain_block_needs_three_times_that() -> None:
    assert peak_in_streams(torch.bfloat16, plain=True) > 10
