"""Noise levels of a rectified flow, and the schedules made of them. One function per equation.

Letters. x_0 is data and eps unit noise, both shaped [B, ...]. sigma in [0, 1] is the noise level and alpha =
1 - sigma the share of data left. Every function of a level takes a float or a Tensor and gives back the same
kind; floats are float64, so a schedule is exact however low the precision of the model it drives.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

Level = TypeVar("Level", float, Tensor)


# Timestep shift (Esser et al. 2024, "Scaling Rectified Flow Transformers", Equation 23):
#   sigma' = s sigma / (1 + (s - 1) sigma)
# A larger picture hides less under the same noise; the shift divides the SNR by s^2, which makes up for it.
def shift_sigma(sigma: Level, shift: float) -> Level:
    """Move a noise level by the flow shift s; 0 and 1 stay where they are, and shift 1 changes nothing."""
    # The denominator as (1 - sigma) + s sigma, so that rounding can never carry sigma = 1 past 1.
    return shift * sigma / ((1 - sigma) + shift * sigma)


# Signal-to-noise ratio (Kingma et al. 2021, "Variational Diffusion Models"), with alpha = 1 - sigma:
#   SNR = alpha^2 / sigma^2
def snr(sigma: Level) -> Level:
    """Signal-to-noise ratio of a noise level; infinite at sigma 0, zero at sigma 1."""
    if isinstance(sigma, Tensor):
        return ((1 - sigma) / sigma) ** 2
    # torch divides by zero to infinity; Python refuses to, so the clean end is named.
    return ((1 - sigma) / sigma) ** 2 if sigma > 0 else math.inf


# log SNR = 2 (log alpha - log sigma) = 2 lambda, where lambda is the "time" of the solvers (solvers.py).
def log_snr(sigma: Level) -> Level:
    """Natural logarithm of the SNR; +inf at sigma 0, -inf at sigma 1, 0 at sigma 1/2."""
    return 2 * (_log(1 - sigma) - _log(sigma))


# The inverse of SNR = ((1 - sigma) / sigma)^2, taking the positive root:
#   sigma = 1 / (1 + sqrt(SNR))
def sigma_from_snr(snr: Level) -> Level:
    """Noise level at which the signal-to-noise ratio is `snr` (>= 0)."""
    if isinstance(snr, Tensor):
        return 1 / (1 + torch.sqrt(snr))
    return 1 / (1 + math.sqrt(snr))


# The same in logarithms: sigma = 1 / (1 + exp(l / 2)) = sigmoid(-l / 2).
def sigma_from_log_snr(l: Level) -> Level:  # noqa: E741  (l is the letter of the log-SNR)
    """Noise level at which the natural log-SNR is `l`."""
    if isinstance(l, Tensor):
        return torch.sigmoid(-l / 2)
    # exp() of a negative number only: of a positive one it overflows, which Python calls an error.
    odds = math.exp(-abs(l) / 2)
    return odds / (1 + odds) if l > 0 else 1 / (1 + odds)


def schedule(steps: int, shift: float = 1.0, *, start: float = 1.0, end: float | None = None) -> tuple[float, ...]:
    """steps + 1 strictly descending noise levels, the last exactly 0; step i goes from level i to i + 1.

    Evenly spaced from `start` to 0, then shifted. Wan starts its `dpm++` at 1 and its `unipc` at 0.999
    (before the shift). With `end`, the last step starts there (before the shift) and the others are evenly
    spaced above it: diffusers' Euler, which VideoX-Fun samples with, has shift_sigma(0.001, shift) there.
    Raises ValueError unless steps >= 1, shift > 0 and 0 < end < start <= 1.
    """
    if steps < 1:
        raise ValueError(f"a schedule of {steps} steps was asked for; it needs at least 1")
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"the flow shift is {shift}; it must be a positive number (1 leaves the schedule as it is)")
    if not 0 < start <= 1:
        raise ValueError(f"the schedule starts at sigma {start}; it must lie above 0 and not exceed 1")
    if end is None:
        even = (start * ((steps - i) / steps) for i in range(steps + 1))
    elif 0 < end < start:
        even = (*(start + (end - start) * (i / max(steps - 1, 1)) for i in range(steps)), 0.0)
    else:
        raise ValueError(f"the schedule's last step starts at sigma {end}; it must lie between 0 and {start}")
    # Checked, for a shift so large that all levels round to 1 would make steps of no length.
    return checked_schedule(shift_sigma(sigma, shift) for sigma in even)


def checked_schedule(sigmas: Iterable[float]) -> tuple[float, ...]:
    """The levels as floats; ValueError unless there are two or more, strictly descending, within [0, 1]."""
    levels = tuple(float(sigma) for sigma in sigmas)
    if len(levels) < 2:
        raise ValueError(f"a schedule of {len(levels)} noise levels has no step; it needs at least two levels")
    # Written as "not (a > b)", so that a NaN, which compares false to everything, is refused too.
    if not (levels[0] <= 1 and levels[-1] >= 0 and all(a > b for a, b in pairwise(levels))):
        raise ValueError(f"the noise levels {levels} must descend strictly and stay within [0, 1]")
    return levels


# Data, noise and velocity, any one from the others (rectified flow: Liu et al. 2022, Lipman et al. 2023):
#   x_sigma = (1 - sigma) x_0 + sigma eps,    v = d x_sigma / d sigma = eps - x_0
def add_noise(x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """x_sigma of clean data and unit noise [B, ...]; sigma is one level, or one per sample [B]."""
    sigma = _per_sample(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


#   x_sigma - sigma v = (1 - sigma) x_0 + sigma eps - sigma eps + sigma x_0 = x_0
def x0_from_velocity(x: Tensor, v: Tensor, sigma: float | Tensor) -> Tensor:
    """The clean data a velocity [B, ...] predicts from x_sigma; sigma is one level, or one per sample [B]."""
    return x - _per_sample(sigma, x) * v


#   v = (x_sigma - x_0) / sigma
def velocity_from_x0(x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
    """The velocity that predicts x0 from x_sigma; not defined at sigma 0, where any velocity would do."""
    return (x - x0) / _per_sample(sigma, x)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or float64 if it was: a solver adds many small differences, which bfloat16 would lose."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _log(value: Level) -> Level:
    if isinstance(value, Tensor):
        return torch.log(value)
    # The same limit that torch gives, where math.log would raise.
    return math.log(value) if value > 0 else -math.inf


def _per_sample(sigma: float | Tensor, like: Tensor) -> float | Tensor:
    """Levels [B] as [B, 1, 1, ...], to stand before every axis of a sample; a single level needs nothing."""
    if isinstance(sigma, Tensor) and sigma.ndim == 1:
        return sigma.reshape(-1, *(1 for _ in like.shape[1:]))
    return sigma
