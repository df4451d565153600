"""Guidance: the formula, and that nothing is computed where it is off."""

import pytest
import torch

from pasdedeux.denoise.guidance import guided

X, SIGMA = torch.ones(2, 3), torch.full((2,), 0.5)


class Counting:
    """A denoiser that gives back its condition as the velocity, and remembers what it was asked."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.conds: list[float] = []
        self.dtype = dtype

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond: float) -> torch.Tensor:
        self.conds.append(cond)
        return torch.full_like(x, cond, dtype=self.dtype)


@pytest.mark.parametrize(("uncond", "scale"), [(1.0, 1), (1.0, 1.0), (None, 1.0), (None, 5.0)])
def test_one_pass_where_guidance_is_off(uncond, scale):
    denoiser = Counting()
    assert torch.equal(guided(denoiser, X, SIGMA, 3.0, uncond, scale), torch.full_like(X, 3.0))
    assert denoiser.conds == [3.0]


@pytest.mark.parametrize(("scale", "velocity"), [(4.0, 9.0), (0.0, 1.0), (0.5, 2.0)])
def test_two_passes_and_the_line_through_them(scale, velocity):
    denoiser = Counting()
    assert torch.equal(guided(denoiser, X, SIGMA, 3.0, 1.0, scale), torch.full_like(X, velocity))
    assert sorted(denoiser.conds) == [1.0, 3.0]


def test_a_low_precision_denoiser_is_guided_in_float32():
    # 1.0078125 and 1 are neighbours in bfloat16; 7.3 times their difference, plus 1, is not a bfloat16.
    v = guided(Counting(torch.bfloat16), X, SIGMA, 1.0078125, 1.0, 7.3)
    assert v.dtype == torch.float32
    assert v[0, 0].item() == pytest.approx(1 + 7.3 * 0.0078125, rel=1e-6)
    assert guided(Counting(torch.bfloat16), X, SIGMA, 1.0, None, 1.0).dtype == torch.float32


def test_a_denoiser_that_can_share_its_weights_is_asked_for_both_at_once():
    class Sharing(Counting):
        def each(self, x: torch.Tensor, sigma: torch.Tensor, conds: tuple[float, ...]) -> list[torch.Tensor]:
            self.conds.append(sum(conds))
            return [torch.full_like(x, cond, dtype=self.dtype) for cond in conds]

    denoiser = Sharing()
    assert torch.equal(guided(denoiser, X, SIGMA, 3.0, 1.0, 4.0), torch.full_like(X, 9.0))
    assert denoiser.conds == [4.0]
    assert torch.equal(guided(denoiser, X, SIGMA, 3.0, 1.0, 1.0), torch.full_like(X, 3.0))
    assert denoiser.conds == [4.0, 3.0]
