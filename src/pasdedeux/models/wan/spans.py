"""Work over a long token axis in short spans, so that a block's temporaries stay small beside its stream.

Nothing here approximates: a span's result depends on its own tokens (and on tensors made before the loop), so
the spans together are the whole. Without gradients results are written in place. With gradients there is one span only:
every temporary is kept for the way back then, so that more of them would cost time and save nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SPANS = 24  # so each temporary of a span weighs a twenty-fourth of the stream
SHORTEST = 256  # tokens; below this the cost of launching kernels outweighs the memory

SpanFunction = Callable[[Tensor, slice], Tensor]


def spans(tokens: int) -> list[slice]:
    """Consecutive slices that cover `tokens`, all of one length except perhaps the last."""
    length = tokens if torch.is_grad_enabled() else max(SHORTEST, -(-tokens // SPANS))
    return [slice(start, min(start + length, tokens)) for start in range(0, tokens, length)]


def map_spans(x: Tensor, function: SpanFunction) -> Tensor:
    """function(x[:, span], span) for every span, joined: x [B, L, ...] -> [B, L, ...]."""
    parts = (function(x[:, span], span) for span in spans(x.shape[1]))
    first = next(parts)
    if torch.is_grad_enabled() or first.shape[1] == x.shape[1]:
        return torch.cat((first, *parts), dim=1)
    out = first.new_empty(first.shape[0], x.shape[1], *first.shape[2:])
    end = first.shape[1]
    out[:, :end] = first
    del first
    for part in parts:
        out[:, end : end + part.shape[1]] = part
        end += part.shape[1]
    return out


def add_spans(x: Tensor, function: SpanFunction) -> Tensor:
    """x + function(x[:, span], span) for every span: x [B, L, D] -> [B, L, D].

    Without gradients x itself is overwritten and returned. The sum is formed in the wider of the two dtypes
    and rounded once to that of x.
    """
    if torch.is_grad_enabled() or x.requires_grad:
        return (x + map_spans(x, function)).to(x.dtype)
    for span in spans(x.shape[1]):
        x[:, span] += function(x[:, span], span)
    return x
