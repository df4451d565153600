"""Classifier-free guidance, and none of its cost where it is off."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pasdedeux.denoise.experts import Denoiser, SharedDenoiser
from pasdedeux.denoise.levels import at_least_float32


# Classifier-free guidance (Ho & Salimans 2022, Equation 6, with scale = 1 + w), on velocities:
#   v = v_uncond + scale (v_cond - v_uncond)
# Velocity and x_0 are affine in each other at a given x_sigma, so this guides x_0 by the same scale.
def guided(denoiser: Denoiser, x: Tensor, sigma: Tensor, cond: Any, uncond: Any | None, scale: float) -> Tensor:
    """Velocity [B, ...], at least float32. One forward pass where scale is 1 or `uncond` None, else two."""
    # At scale 1 v_uncond cancels: half the work of the step would be thrown away.
    if scale == 1 or uncond is None:
        return at_least_float32(denoiser(x, sigma, cond))
    v_cond, v_uncond = map(at_least_float32, _both(denoiser, x, sigma, (cond, uncond)))
    return v_uncond + scale * (v_cond - v_uncond)


# Two passes rather than one of twice the batch: the peak of activations is what a small GPU runs out of. Where weights
# have to be fetched, a denoiser that can lets both go through each of them while it is there.
def _both(denoiser: Denoiser, x: Tensor, sigma: Tensor, conds: Sequence[Any]) -> Sequence[Tensor]:
    if isinstance(denoiser, SharedDenoiser):
        return denoiser.each(x, sigma, conds)
    return [denoiser(x, sigma, cond) for cond in conds]
