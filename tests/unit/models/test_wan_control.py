"""Fun control: where the reference stands, what a step leaves alone, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.models.wan import ControlConfig, WanControlTransformer, WanTransformer

TINY = ControlConfig(dim=48, ffn_dim=96, heads=2, layers=2, text_dim=20, freq_dim=32)
GRID = (3, 8, 12)
FRAME, TOKENS = 4 * 6, 3 * 4 * 6


def model(config: ControlConfig = TINY) -> WanControlTransformer:
    torch.manual_seed(0)
    return WanControlTransformer(config).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(**changes: Any) -> dict[str, Any]:
    return {"text": noise(1, 7, 20, seed=2), "grid": GRID, "reference": noise(1, 16, 8, 12, seed=3)} | changes


def test_without_that_branch_it_is_the_image_to_video_model() -> None:
    config = replace(TINY, ref_dim=None)
    net, plain = model(config), WanTransformer(config)
    plain.load_state_dict(net.state_dict())
    x, t, text = noise(1, 52, *GRID), torch.tensor([500.0]), noise(1, 7, 20, seed=2)
    with torch.no_grad():
        want = plain(x, t, plain.prepare(text=text, grid=GRID))
        assert torch.equal(net(x, t, net.prepare(text=text, grid=GRID)), want)


def test_blocks_see_the_reference_as_a_frame_before_the_video() -> None:
    net, x, t = model(), noise(1, 52, *GRID), torch.tensor([500.0])
    seen: list[tuple[Any, ...]] = []
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append((args[0].clone(), *args[1:])))
    with torch.no_grad():
        net(x, t, net.prepare(**inputs()))
        want = torch.cat((net.ref_conv(noise(1, 16, 8, 12, seed=3)).flatten(2).mT, net.patch_embedding(x)), dim=1)
    tokens, _, _, rope = seen[0]
    assert torch.equal(tokens, want)
    assert rope.cos.shape[0] == FRAME + TOKENS


def test_no_reference_is_a_reference_of_zeros() -> None:
    net, x, t = model(), noise(1, 52, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        none = net(x, t, net.prepare(**inputs(reference=None)))
        assert torch.equal(none, net(x, t, net.prepare(**inputs(reference=torch.zeros(1, 16, 8, 12)))))
        assert not torch.allclose(none, net(x, t, net.prepare(**inputs())), atol=1e-2)


def test_the_reference_has_the_timestep_of_the_last_token() -> None:
    net, x = model(), noise(1, 52, *GRID)
    seen: list[Tensor] = []
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1].index))
    t = torch.cat((torch.zeros(1, FRAME), torch.full((1, TOKENS - FRAME), 500.0)), dim=1)
    with torch.no_grad():
        net(x, t, net.prepare(**inputs()))
        net(x, torch.tensor([500.0]), net.prepare(**inputs()))
    assert seen[0][0].tolist() == [1] * FRAME + [0] * FRAME + [1] * (TOKENS - FRAME)
    assert seen[1].shape == (1, 1)


def test_a_step_leaves_its_arguments_as_they_were() -> None:
    net, x, t = model(), noise(1, 52, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        cond = net.prepare(**inputs())
        reference = cond.reference.clone()
        first = net(x, t, cond)
        assert torch.equal(net(x, t, cond), first)
        assert torch.equal(x, noise(1, 52, *GRID))
        assert torch.equal(cond.reference, reference)


def test_gradients_change_no_result_and_reach_every_parameter() -> None:
    net, x, t = model(replace(TINY, image_dim=12)), noise(1, 52, *GRID), torch.tensor([500.0])
    given = inputs(image=noise(1, 5, 12))
    with torch.no_grad():
        want = net(x, t, net.prepare(**given))
    got = net(x, t, net.prepare(**given))
    assert torch.allclose(got, want, atol=1e-5)
    got.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_bfloat16_is_near_float32() -> None:
    narrow, wide = model().to(torch.bfloat16), model().to(torch.bfloat16).float()
    x, t = noise(1, 52, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        got, want = narrow(x, t, narrow.prepare(**inputs())), wide(x, t, wide.prepare(**inputs()))
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (TINY, {"reference": noise(1, 16, 8, 10)}, r"reference latents have shape \(1, 16, 8, 10\)"),
        (TINY, {"reference": noise(1, 16, 1, 8, 12)}, r"this text and x need \(1, 16, 8, 12\)"),
        (replace(TINY, ref_dim=None), {}, "takes no reference picture"),
        (TINY, {"image": noise(1, 5, 12)}, "takes no image features"),
        (TINY, {"grid": (3, 7, 12)}, "must be a multiple of the patch"),
    ],
)
def test_preparation_says_what_does_not_fit(config: ControlConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(config).prepare(**inputs(**change))


def test_a_step_says_what_does_not_fit() -> None:
    net = model()
    with torch.no_grad():
        cond = net.prepare(**inputs())
        with pytest.raises(ValueError, match=r"x has shape \(1, 36, 3, 8, 12\)"):
            net(noise(1, 36, *GRID), torch.tensor([500.0]), cond)
        with pytest.raises(ValueError, match=r"they must be \[B\] or \[B, 72\]"):
            net(noise(1, 52, *GRID), torch.zeros(1, FRAME + TOKENS), cond)
