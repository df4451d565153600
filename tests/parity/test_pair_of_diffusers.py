"""A pair of tiny Wan transformers of diffusers, run by us and by a plain loop over diffusers' scheduler."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pasdedeux.denoise import Expert, ExpertSet, Handoff, finish, run, schedule

diffusers = pytest.importorskip("diffusers")

BOUNDARY = 0.875
STEPS, SHIFT = 12, 5.0
LATENT = torch.randn(1, 4, 2, 6, 6, generator=torch.Generator().manual_seed(2))
PROMPT, NOTHING = torch.randn(2, 1, 5, 16, generator=torch.Generator().manual_seed(3))
GUIDANCE = (4.0, 3.0)


def transformer(seed: int):
    torch.manual_seed(seed)
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return model.eval().requires_grad_(False)


def denoiser(model):
    # The model wants the timestep as Wan's schedulers give it: 1000 sigma, cut to an integer.
    return lambda x, sigma, cond: model(x, (1000 * sigma).long(), cond, return_dict=False)[0]


def scheduler_of_diffusers():
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )
    scheduler.set_timesteps(sigmas=np.array(schedule(STEPS, SHIFT, start=0.999)[:-1]))
    return scheduler


def plain_loop(high, low) -> tuple[Tensor, int]:
    """The pipeline's loop: t >= boundary picks the model. And how many steps were the high one's."""
    scheduler, x, high_steps = scheduler_of_diffusers(), LATENT, 0
    for t in scheduler.timesteps:
        noisy = t >= BOUNDARY * 1000
        model, scale = (high, GUIDANCE[0]) if noisy else (low, GUIDANCE[1])
        high_steps += int(noisy)
        cond, uncond = (model(x, t.expand(1), text, return_dict=False)[0] for text in (PROMPT, NOTHING))
        x = scheduler.step(uncond + scale * (cond - uncond), t, x, return_dict=False)[0]
    return x, high_steps


def our_run(high, low) -> tuple[Tensor, int]:
    experts = ExpertSet(
        (Expert(denoiser(high), "high", GUIDANCE[0]), Expert(denoiser(low), "low", GUIDANCE[1])),
        Handoff((BOUNDARY,)),
    )
    sigmas = scheduler_of_diffusers().sigmas.tolist()
    steps = []
    final = finish(run(experts, LATENT, sigmas, solver="unipc", cond=PROMPT, uncond=NOTHING), steps.append)
    return final.x, sum(step.expert == "high" for step in steps)


def test_our_pair_is_their_pair():
    high, low = transformer(4), transformer(5)
    (theirs, their_high), (ours, our_high) = plain_loop(high, low), our_run(high, low)
    assert 0 < our_high < STEPS
    assert our_high == their_high
    scale = theirs.abs().max().item()
    assert (ours - theirs).abs().max().item() <= 1e-4 * scale
    # The comparison could not fail if it did not matter which expert runs where.
    swapped, _ = our_run(low, high)
    assert (swapped - theirs).abs().max().item() > 1e-2 * scale
