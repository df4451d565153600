"""Solvers of the flow ODE dx/dsigma = v: euler, DPM-Solver++(2M), UniPC-2. Pure functions, savable state.

All three are one formula. With alpha = 1 - sigma and lambda = log(alpha / sigma), the exponential integrator
in data prediction (Lu et al. 2022, "DPM-Solver++", Proposition 4.1) steps from s to t by

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D,      h = lambda_t - lambda_s,

where D estimates x_0 over the step. exp(-h) is (alpha_s sigma_t) / (alpha_t sigma_s), so for a rectified flow
the second coefficient is just 1 - sigma_t / sigma_s: the step moves along the line towards D. Solvers differ
only in how they choose D.

History is kept as x_0 predictions, never velocities: an x_0 prediction means the same whichever expert made
it and at whichever level, so a multistep solver passes through a handoff without noticing it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pasdedeux.denoise.levels import at_least_float32, log_snr, x0_from_velocity

# The order that Wan uses. Order 3 is unstable under strong guidance (Lu et al. 2022).
ORDER = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolverState:
    """All that a solver remembers between steps. A fresh one may start at any step of a schedule.

    x0s: x_0 predictions of the last steps, newest last, at most ORDER; sample: x before the last prediction,
    as corrected (unipc only); order: the order of that prediction (unipc only). Tensors are shaped as x,
    float32 or float64.
    """

    name: str
    x0s: tuple[Tensor, ...] = ()
    sample: Tensor | None = None
    order: int = 0

    def to(self, device: torch.device) -> "SolverState":
        """The same state on another device."""
        sample = None if self.sample is None else self.sample.to(device)
        x0s = tuple(x0.to(device) for x0 in self.x0s)
        return SolverState(name=self.name, x0s=x0s, sample=sample, order=self.order)


# step(state, x, velocity, sigmas, i) -> (x_next, state), with x [B, ...] (float32 or float64) at sigmas[i],
# and the velocity predicted there in any precision. Coefficients are float64 scalars.
Solver = Callable[[SolverState, Tensor, Tensor, Sequence[float], int], tuple[Tensor, SolverState]]


# x_t = x_s + (sigma_t - sigma_s) v. Since x_0 = x - sigma v, this is the formula above with D = x_0(x_s), and
# DDIM (Song et al. 2021) is the same step.
def euler(
    state: SolverState, x: Tensor, velocity: Tensor, sigmas: Sequence[float], i: int
) -> tuple[Tensor, SolverState]:
    """First order; remembers nothing."""
    return x + (sigmas[i + 1] - sigmas[i]) * at_least_float32(velocity), state


# DPM-Solver++(2M), Lu et al. 2022, Algorithm 2: x_0 extrapolated half a step ahead (see _predict).
def dpmpp_2m(
    state: SolverState, x: Tensor, velocity: Tensor, sigmas: Sequence[float], i: int
) -> tuple[Tensor, SolverState]:
    """Second order, multistep: one forward pass per step, and the x_0 prediction of the step before."""
    x0 = x0_from_velocity(x, at_least_float32(velocity), sigmas[i])
    x0s = (*state.x0s, x0)[-ORDER:]
    x_next = _predict(x, x0s, sigmas, i, _order(len(x0s), len(sigmas), i))
    return x_next, SolverState(name=state.name, x0s=x0s)


# UniPC (Zhao et al. 2023, "UniPC: a unified predictor-corrector framework"), order 2, B(h) = exp(h) - 1
# ("bh2"), data prediction. The forward pass at the point just reached first corrects the step that led there
# (UniC), at no cost, then predicts the next one (UniP). As in the paper and in Wan, the correction reuses x_0
# as predicted at the uncorrected point: no second forward pass.
def unipc(
    state: SolverState, x: Tensor, velocity: Tensor, sigmas: Sequence[float], i: int
) -> tuple[Tensor, SolverState]:
    """Second order with a corrector, multistep: one forward pass per step. Wan's default."""
    x0 = x0_from_velocity(x, at_least_float32(velocity), sigmas[i])
    if state.sample is not None:
        x = _correct(state.sample, (*state.x0s, x0), sigmas, i, state.order)
    x0s = (*state.x0s, x0)[-ORDER:]
    order = _order(len(x0s), len(sigmas), i)
    return _predict(x, x0s, sigmas, i, order), SolverState(name=state.name, x0s=x0s, sample=x, order=order)


SOLVERS: Mapping[str, Solver] = MappingProxyType({"euler": euler, "dpm++": dpmpp_2m, "unipc": unipc})


def initial_state(name: str) -> SolverState:
    """An empty history for the solver of that name; ValueError if there is none."""
    if name not in SOLVERS:
        raise ValueError(f'there is no solver "{name}"; there are {", ".join(SOLVERS)}')
    return SolverState(name=name)


# Order 1 while the history fills, and on the last step: lambda is infinite at sigma = 0, so nothing can be
# extrapolated to there (Wan's `lower_order_final`).
def _order(history: int, levels: int, i: int) -> int:
    return min(ORDER, history, levels - 1 - i)


# x_t = (sigma_t / sigma_s) x_s + (1 - sigma_t / sigma_s) D. At sigma_t = 0 this lands on D itself.
def _move(x: Tensor, data: Tensor, sigma: float, sigma_next: float) -> Tensor:
    kept = sigma_next / sigma
    return kept * x + (1 - kept) * data


# lambda = log(alpha / sigma), half the log-SNR. -inf at sigma = 1: pure noise lies infinitely long ago and
# the ratios below give it no weight, so that the step after it falls back to first order by itself.
def _lambda(sigma: float) -> float:
    return log_snr(sigma) / 2


# D = m_0 + (m_0 - m_1) / (2 r),   r = (lambda_i - lambda_{i-1}) / (lambda_{i+1} - lambda_i)
# with m_0, m_1 the newest x_0 predictions. DPM-Solver++(2M) and UniP-2 with rho = 1/2 are this same rule.
def _predict(x: Tensor, x0s: Sequence[Tensor], sigmas: Sequence[float], i: int, order: int) -> Tensor:
    """x at sigmas[i + 1], from x at sigmas[i] and x_0 as predicted at sigmas[i] and before."""
    data = x0s[-1]
    if order == 2:
        h, h_before = _lambda(sigmas[i + 1]) - _lambda(sigmas[i]), _lambda(sigmas[i]) - _lambda(sigmas[i - 1])
        data = data + (h / h_before / 2) * (x0s[-1] - x0s[-2])
    return _move(x, data, sigmas[i], sigmas[i + 1])


# UniC-p: D = m_0 + rho_1 (m_1 - m_0) / r + rho_c (m_t - m_0),   r = (lambda_{i-2} - lambda_{i-1}) / h  < 0
# m_t was predicted at the end of the step that is being corrected, m_0 at its start, m_1 one step earlier.
def _correct(x: Tensor, x0s: Sequence[Tensor], sigmas: Sequence[float], i: int, order: int) -> Tensor:
    """x at sigmas[i] anew, from x at sigmas[i - 1] and x_0 as predicted at sigmas[i] and before."""
    before, now = x0s[-2], x0s[-1]
    if order == 1:
        # The trapezoidal rule; the paper and Wan fix rho_c = 1/2 here.
        return _move(x, before + 0.5 * (now - before), sigmas[i - 1], sigmas[i])
    h = _lambda(sigmas[i]) - _lambda(sigmas[i - 1])
    r = (_lambda(sigmas[i - 2]) - _lambda(sigmas[i - 1])) / h
    rho_1, rho_c = _corrector_weights(h, r)
    data = before + (rho_1 / r) * (x0s[-3] - before) + rho_c * (now - before)
    return _move(x, data, sigmas[i - 1], sigmas[i])


# The condition for order p of Zhao et al. 2023 (Section 3.1), R_p(h) rho B(h) = phi_p(h), at p = 2 in data
# prediction, where h stands negated, k = -h, and B(k) = e^k - 1 ("bh2"):
#   rho_1   + rho_c =     k phi_2(k) / B(k)
#   rho_1 r + rho_c = 2 ! k phi_3(k) / B(k)
# with phi_1(k) = (e^k - 1) / k and phi_{n+1}(k) = (phi_n(k) - 1 / n!) / k.
def _corrector_weights(h: float, r: float) -> tuple[float, float]:
    k = -h
    b_k = math.expm1(k)
    k_phi_2 = b_k / k - 1
    k_phi_3 = k_phi_2 / k - 1 / 2
    b_1, b_2 = k_phi_2 / b_k, 2 * k_phi_3 / b_k
    # r is negative, so 1 - r never vanishes; r = -inf (one step ago was pure noise) leaves rho_1 = 0.
    rho_1 = (b_1 - b_2) / (1 - r)
    return rho_1, b_1 - rho_1
