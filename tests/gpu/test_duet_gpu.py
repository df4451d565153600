"""The built-in expert gives on a GPU what it gives on a processor."""

import pytest
import torch

from pasdedeux.denoise import Expert, ExpertSet, Handoff, finish, run, schedule
from pasdedeux.models.duet import PLANES, REFERENCE, DuetConfig, DuetInputs, DuetTransformer


@pytest.mark.gpu
def test_a_pair_samples_alike_on_both_devices() -> None:
    torch.manual_seed(0)
    config = DuetConfig(dim=64, depth=2, heads=2, ffn=128, channels=8, frequency=16, pyramid=(8, 8, 16))
    models = [DuetTransformer(config), DuetTransformer(config)]
    for model in models:
        torch.nn.init.normal_(model.head.later.weight, std=0.2)
    inputs = DuetInputs(
        planes=torch.rand(1, PLANES, 5, 64, 64),
        reference=torch.rand(1, REFERENCE, 64, 64),
        base=torch.randn(1, 8, 2, 8, 8),
        known=torch.zeros(1, 1, 2, 1, 1),
        region=torch.full((1, 2, 8, 8), 2),
    )
    noise = torch.randn(1, 8, 2, 8, 8)

    def sample(device: str) -> torch.Tensor:
        moved = [model.to(device) for model in models]
        conds = {id(model): model.prepare(inputs.to(device)) for model in moved}
        experts = tuple(
            Expert(lambda x, sigma, _, model=model: model(x, sigma, conds[id(model)]), name)
            for model, name in zip(moved, ("high", "low"), strict=True)
        )
        pair = ExpertSet(experts, Handoff(bounds=(0.9,)))
        return finish(run(pair, noise.to(device), schedule(6, 12.0), solver="euler", cond=None)).x.cpu()

    with torch.no_grad():
        torch.testing.assert_close(sample("cpu"), sample("cuda"), atol=2e-3, rtol=2e-3)
