"""The noise levels an expert is trained on: exactly those it will own when sampling.

The density over noise levels is the sampler's: u uniform in (0, 1), then the flow shift. An expert's share of it is cut
off at the bounds of its band by inverting that map (inverse-CDF truncation), never by clamping, so no level is drawn
outside the band and none is drawn too often at its edge.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pasdedeux.denoise import Handoff, shift_sigma


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
        u_low, u_high = self.limits()
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        u = u_low + (u_high - u_low) * (u + 2.0**-54).clamp(max=1 - 2.0**-53)
        sigma = shift_sigma(u, self.shift).float()
        below = torch.nextafter(torch.tensor(self.high, dtype=torch.float32), torch.tensor(0.0))
        # Rounding to float32 may land on the open end, a level of the next expert: step back by one ulp.
        return torch.where(sigma >= self.high, below, sigma).clamp(min=torch.tensor(self.low, dtype=torch.float32))


def bands(handoff: Handoff, shift: float) -> tuple[Band, ...]:
    """One band per expert, noisiest first."""
    edges = (1.0, *handoff.bounds, 0.0)
    return tuple(Band(low=low, high=high, shift=shift) for high, low in pairwise(edges))
