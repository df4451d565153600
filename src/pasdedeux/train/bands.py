"""The noise levels an expert is trained on: exactly those it will own when sampling.

The density over noise levels is the sampler's: u uniform in (0, 1), then the flow shift. An expert's share of it is cut
off at the bounds of its band by inverting that map (inverse-CDF truncation), never by clamping, so no level is drawn
outside the band and none is drawn too often at its edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pasdedeux.denoise import Handoff, log_snr, shift_sigma


class Levels(Protocol):
    """Noise levels that an expert owns, and draws from them in the sampler's density."""

    @property
    def shift(self) -> float:
        """The flow shift of the density."""
        ...

    @property
    def mass(self) -> float:
        """Their share of the density."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] noise levels, float32."""
        ...

    def at(self, places: Tensor) -> Tensor:
        """The levels, float32, below which the shares `places` (float64, in [0, 1]) of their mass lie."""
        ...

    def holds(self, sigma: Tensor) -> Tensor:
        """Which of the levels are among them."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Noise levels low <= sigma < high (sigma <= high where high is 1) under flow shift `shift`."""

    low: float
    high: float
    shift: float

    @property
    def mass(self) -> float:
        """Share of the sampler's density that falls in the band."""
        u_low, u_high = self.limits()
        return u_high - u_low

    def limits(self) -> tuple[float, float]:
        """The band in u, before the shift. The inverse of shift s is shift 1/s."""
        return float(shift_sigma(self.low, 1 / self.shift)), float(shift_sigma(self.high, 1 / self.shift))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] noise levels, float32."""
        return self.at(torch.rand(count, generator=generator, dtype=torch.float64))

    def at(self, places: Tensor) -> Tensor:
        """The levels, float32, below which the shares `places` (float64, in [0, 1]) of the band's mass lie."""
        u_low, u_high = self.limits()
        # Never quite 0 or 1, so that the clean end, where nothing is to be learnt, is not drawn.
        u = u_low + (u_high - u_low) * (places + 2.0**-54).clamp(max=1 - 2.0**-53)
        # Rounding to float32 may pass an edge, to a level of the next expert: step back by one ulp.
        return shift_sigma(u, self.shift).float().clamp(_least(self.low), _most_below(self.high))

    def holds(self, sigma: Tensor) -> Tensor:
        """Which of the levels are in the band."""
        sigma = sigma.double()
        return (sigma >= self.low) & ((sigma < self.high) | (self.high == 1) & (sigma == 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scattered:
    """Several bands as one expert's levels, which need not lie beside each other; all of one shift."""

    parts: tuple[Band, ...]

    @property
    def shift(self) -> float:
        """The flow shift of the density."""
        return self.parts[0].shift

    @property
    def mass(self) -> float:
        """Share of the sampler's density that falls in the bands together."""
        return sum(part.mass for part in self.parts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] noise levels, float32."""
        return self.at(torch.rand(count, generator=generator, dtype=torch.float64))

    def at(self, places: Tensor) -> Tensor:
        """The levels below which the shares `places` of the mass lie: each in the part that its share falls in."""
        ordered = sorted(self.parts, key=lambda part: part.low)
        mass = torch.tensor([part.mass for part in ordered], dtype=torch.float64)
        begin = (mass.cumsum(0) - mass) / mass.sum()
        which = (torch.searchsorted(begin, places, right=True) - 1).clamp(min=0)
        within = ((places - begin[which]) * mass.sum() / mass[which]).clamp(0, 1)
        sigma = torch.zeros(places.shape)
        for k, part in enumerate(ordered):
            sigma = torch.where(which == k, part.at(within), sigma)
        return sigma

    def holds(self, sigma: Tensor) -> Tensor:
        """Which of the levels are in one of the bands."""
        return torch.stack([part.holds(sigma) for part in self.parts]).any(0)


def bands(handoff: Handoff, shift: float) -> tuple[Band, ...]:
    """One band per expert, noisiest first."""
    edges = (handoff.band(k) for k in range(handoff.experts))
    return tuple(Band(low=low, high=high, shift=shift) for low, high in edges)


def whole(shift: float) -> Band:
    """All noise levels."""
    return Band(low=0.0, high=1.0, shift=shift)


def equal_bounds(experts: int, shift: float) -> tuple[float, ...]:
    """The bounds, noisiest first, that give each of so many experts the same share of the density."""
    return tuple(float(shift_sigma(k / experts, shift)) for k in range(experts - 1, 0, -1))


def shares(levels: Sequence[Levels], by: str) -> tuple[float, ...]:
    """Each expert's share of all steps: "equal", or by the "density" of its levels. ValueError for another word."""
    if by not in ("equal", "density"):
        raise ValueError(f'Steps are shared out "{by}"; it must be equal or density.')
    weights = [band.mass if by == "density" else 1.0 for band in levels]
    return tuple(weight / sum(weights) for weight in weights)


def shared_out(total: int, parts: Sequence[float]) -> tuple[int, ...]:
    """`total` steps as whole numbers in the ratio of `parts`, at least one each; largest remainders get the rest.

    Raises ValueError where there are fewer steps than parts.
    """
    if total < len(parts):
        raise ValueError(f"{total} steps cannot be shared out between {len(parts)} experts.")
    exact = [total * part for part in parts]
    steps = [max(int(e), 1) for e in exact]
    while sum(steps) != total:
        more = 1 if sum(steps) < total else -1
        gaps = [more * (e - s) if s + more >= 1 else float("-inf") for e, s in zip(exact, steps, strict=True)]
        steps[gaps.index(max(gaps))] += more
    return tuple(steps)


def described(levels: Levels) -> str:
    """ "0.9000 to 1.0000   -inf to -4.39": the ends of an expert's levels in sigma and in log-SNR."""
    low, high = (round(float(sigma), 4) for sigma in levels.at(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    return f"{low:.4f} to {high:.4f}  {log_snr(high):>6.2f} to {log_snr(low):>5.2f}"


def _least(bound: float) -> float:
    """The smallest float32 that is not below `bound`."""
    near = torch.tensor(bound, dtype=torch.float32)
    return float(near if float(near) >= bound else torch.nextafter(near, torch.tensor(2.0)))


def _most_below(bound: float) -> float:
    """The largest float32 below `bound`."""
    near = torch.tensor(bound, dtype=torch.float32)
    return float(near if float(near) < bound else torch.nextafter(near, torch.tensor(0.0)))
