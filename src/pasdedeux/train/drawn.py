"""A count of the noise levels that an expert was really trained on: the proof, in the log, that it kept to its band."""

from typing import Any

import torch
from torch import Tensor

from pasdedeux.denoise import shift_sigma

BINS = 40
HEIGHTS = " ▁▂▃▄▅▆▇█"


class Drawn:
    """Counts in bins of equal probability under the sampler's density, cleanest first, and the extremes."""

    def __init__(self, shift: float) -> None:
        self.shift = shift
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.low, self.high = 1.0, 0.0

    def add(self, sigma: Tensor) -> None:
        """Count levels [B]."""
        sigma = sigma.detach().cpu().double()
        u = shift_sigma(sigma, 1 / self.shift)
        self.counts += torch.bincount((u * BINS).long().clamp(0, BINS - 1), minlength=BINS)
        self.low, self.high = min(self.low, float(sigma.min())), max(self.high, float(sigma.max()))

    def edges(self) -> list[float]:
        """The bins' edges in sigma, from 0 to 1."""
        return [float(shift_sigma(k / BINS, self.shift)) for k in range(BINS + 1)]

    def line(self) -> str:
        """ "3200 draws from sigma 0.000 to 1.000 |▇█▇▇    |", from noise to clean, as a run goes."""
        tallest = max(int(self.counts.max()), 1)
        bars = "".join(HEIGHTS[-(-int(n) * 8 // tallest)] for n in self.counts.flip(0))
        return f"{int(self.counts.sum())} draws from sigma {self.high:.4f} to {self.low:.4f}, noise to clean |{bars}|"

    def state(self) -> dict[str, Any]:
        """What `restore` takes, and the log keeps."""
        return {"shift": self.shift, "counts": self.counts.tolist(), "low": self.low, "high": self.high}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.shift, self.low, self.high = state["shift"], state["low"], state["high"]
        self.counts = torch.tensor(state["counts"], dtype=torch.int64)
