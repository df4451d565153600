"""Which expert owns which noise level. Integers and floats only: nothing here knows what an expert is.

Wan2.2 is a mixture of experts routed by noise level alone: while the picture is mostly static (low SNR), one
expert sets pose and layout; once enough signal is there, another refines. Since the schedule is known before
the first step, so is every handoff: `Handoff.runs` gives them, and whoever moves weights can plan on it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Self

from pasdedeux.denoise.levels import checked_schedule, sigma_from_snr

SNR_PREFIX = "snr:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of consecutive steps, start <= i < stop, that one expert owns."""

    expert: int
    start: int
    stop: int

    @property
    def steps(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Handoff:
    """Noise levels at which the next expert takes over: strictly decreasing, inside (0, 1). None: one expert.

    Expert 0 is the noisiest. Raises ValueError if the bounds are not of that form.
    """

    bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # "not (...)" refuses NaN as well, which would otherwise own nothing and be owned by nobody.
        if not all(0 < bound < 1 for bound in self.bounds):
            raise ValueError(f"handoff at sigma {_listed(self.bounds)}: every bound must lie strictly between 0 and 1")
        if not all(noisier > cleaner for noisier, cleaner in pairwise(self.bounds)):
            raise ValueError(f"handoff at sigma {_listed(self.bounds)}: bounds must go from noisy to clean (descend)")

    @classmethod
    def from_snr(cls, *values: float) -> Self:
        """The same from signal-to-noise ratios, which ascend; ValueError unless positive and finite."""
        if not all(0 < value < math.inf for value in values):
            raise ValueError(f"handoff at SNR {_listed(values)}: a signal-to-noise ratio must be positive and finite")
        return cls(tuple(sigma_from_snr(value) for value in values))

    @classmethod
    def parse(cls, text: str, default: "Handoff") -> "Handoff":
        """What a user writes: "auto" (meaning `default`), "0.875", "snr:0.02", or several with commas.

        Each item is a sigma unless it says "snr:". Raises ValueError in one sentence if it is none of these.
        """
        if text.strip().lower() == "auto":
            return default
        try:
            return cls(tuple(_parsed_bound(item.strip().lower()) for item in text.split(",")))
        except ValueError as error:
            raise ValueError(
                f'handoff "{text}" is not understood: write auto, a sigma between 0 and 1 such as 0.875, '
                "or a signal-to-noise ratio such as snr:0.02; several go from noisy to clean, with commas"
            ) from error

    @property
    def experts(self) -> int:
        """How many experts the bounds part the noise levels between."""
        return len(self.bounds) + 1

    # Wan2.2's rule is "timestep >= boundary": the boundary itself belongs to the noisier side. Its timestep
    # is 1000 sigma cut to an integer; its boundaries are integers too, so comparing sigmas decides the same.
    def owner(self, sigma: float) -> int:
        """Index of the expert that owns sigma in [0, 1]: the number of bounds that sigma has fallen below."""
        if not 0 <= sigma <= 1:
            raise ValueError(f"noise level {sigma} has no owner: sigma lies between 0 (clean) and 1 (noise)")
        return sum(sigma < bound for bound in self.bounds)

    # Bands are half open, [low, high), save the first, which holds sigma = 1 too: together they tile [0, 1].
    def band(self, k: int) -> tuple[float, float]:
        """(low, high) of expert k, which owns low <= sigma < high, and 1 too if k is 0; else IndexError."""
        if not 0 <= k < self.experts:
            raise IndexError(f"expert {k} does not exist: there are {self.experts}, counted from 0")
        edges = (1.0, *self.bounds, 0.0)
        return edges[k + 1], edges[k]

    def runs(self, sigmas: Iterable[float]) -> tuple[Run, ...]:
        """The schedule as runs that tile its steps, in order; an expert whose band holds no step has no run.

        Step i runs at sigmas[i], so the last level (where the final step arrives) is nobody's.
        """
        # Levels descend, so owners never go back: at most one run per expert, and at most N - 1 handoffs.
        owners = [self.owner(sigma) for sigma in checked_schedule(sigmas)[:-1]]
        runs, start = [], 0
        for expert, owned in groupby(owners):
            stop = start + len(list(owned))
            runs.append(Run(expert=expert, start=start, stop=stop))
            start = stop
        return tuple(runs)


def _parsed_bound(item: str) -> float:
    if item.startswith(SNR_PREFIX):
        (bound,) = Handoff.from_snr(float(item.removeprefix(SNR_PREFIX))).bounds
        return bound
    return float(item)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
