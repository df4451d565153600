"""How far an expert is from the truth: what it is trained on, and the same sample by sample, to be compared."""

import torch
from torch import Tensor

from pasdedeux.models.duet import TOUCHED, DuetCondition, DuetTransformer
from pasdedeux.train.batches import Batch

NEAR_ENOUGH = 0.1
"""Distance of a token, in deviations of what is carried or filled in, below which its square is what counts."""


def expert_loss(model: DuetTransformer, data: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
    """Weighted mean pseudo-Huber distance of the network's output from its target at noise levels sigma [B].

    The target is the clean residual around base in units of its deviation. Channels and regions weigh in by the square
    of that deviation, so that the error counts in the latents' own units; tokens weigh in by what they show. A token
    counts by its distance and no longer by its square where that is large (Charbonnier et al. 1994): what cannot be
    known, such as the back of a head, does not drown what can.
    """
    per_token, _ = token_distances(model, model.prepare(data.inputs), data, sigma, noise)
    return (per_token * data.weight).sum() / data.weight.sum()


def token_distances(
    model: DuetTransformer, cond: DuetCondition, data: Batch, sigma: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Pseudo-Huber distance of every token [B, 1, F, h, w], and the clean latents that were predicted."""
    level = sigma[:, None, None, None, None]
    deviation = model.deviation(cond.region)
    target = (data.clean - cond.base.float()) / deviation
    clean, raw = model.predict((1 - level) * data.clean + level * noise, sigma, cond)
    importance = deviation.square() / model.spread[TOUCHED].float().square().mean()
    square = ((raw - target).square() * importance).mean(1, keepdim=True)
    return (square + NEAR_ENOUGH**2).sqrt() - NEAR_ENOUGH, clean


@torch.no_grad()
def sample_losses(
    model: DuetTransformer, cond: DuetCondition, data: Batch, sigma: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Per sample [B]: the loss of training, and the velocity's mean square error; known frames count in neither."""
    per_token, clean = token_distances(model, cond, data, sigma, noise)
    loss = (per_token * data.weight).sum((1, 2, 3, 4)) / data.weight.sum((1, 2, 3, 4))
    unknown = (1 - cond.known.float()).expand_as(clean)
    square = ((clean - data.clean).square() * unknown).sum((1, 2, 3, 4)) / unknown.sum((1, 2, 3, 4))
    # v = (x - x_0) / sigma, so an error of x_0 is one of v divided by sigma.
    return loss, square / sigma.square()
