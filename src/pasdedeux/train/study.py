"""What a model is judged beside, and how sure the figures are."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pasdedeux.denoise import Expert, ExpertSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One clip's figures: dB, ratio, ratio, dB, dB, dB; nan where they do not apply."""

    psnr: float
    ssim: float
    iou: float
    face_psnr: float
    background_psnr: float
    person_psnr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure over n clips: mean, sample standard deviation, and half the width of the mean's 95% interval.

    With one clip neither spread is known.
    """

    mean: float
    std: float | None
    ci95: float | None
    n: int


def arms(whole: ExpertSet, dense: Expert | None = None) -> dict[str, ExpertSet]:
    """The set as it is (first), swapped, each expert alone, and the dense model where there is one."""
    experts = whole.experts
    sets = {"pair" if len(experts) == 2 else f"{len(experts)} experts": whole}
    if len(experts) > 1:
        sets["swapped"] = whole.swapped()
        sets |= {f"{expert.name} alone": ExpertSet.single(expert) for expert in experts}
    if dense is not None:
        sets[dense.name] = ExpertSet.single(dense)
    return sets


def summary(scores: Sequence[Score]) -> dict[str, Figure]:
    """Every figure over the clips it applies to; one that applies to none is left out."""
    return _figures({field.name: _column(scores, field.name) for field in fields(Score)})


def differences(ours: Sequence[Score], theirs: Sequence[Score]) -> dict[str, Figure]:
    """Ours minus theirs, clip by clip: what clips have in common, being hard or easy, drops out."""
    columns = {field.name: _column(ours, field.name) - _column(theirs, field.name) for field in fields(Score)}
    return _figures(columns)


def spread(values: NDArray[np.float64]) -> Figure:
    """Mean and spread of at least one value; the interval is Student's (1908), which holds for few clips too."""
    from scipy.stats import t

    n, mean = values.size, float(values.mean())
    if n < 2:
        return Figure(mean=mean, std=None, ci95=None, n=n)
    std = float(values.std(ddof=1))
    return Figure(mean=mean, std=std, ci95=float(t.ppf(0.975, n - 1)) * std / n**0.5, n=n)


def _column(scores: Sequence[Score], name: str) -> NDArray[np.float64]:
    return np.array([getattr(score, name) for score in scores], dtype=np.float64)


def _figures(columns: dict[str, NDArray[np.float64]]) -> dict[str, Figure]:
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return {name: spread(values) for name, values in known.items() if values.size}
