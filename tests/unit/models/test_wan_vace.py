"""VACE against what it must reduce to: no weight, no hint; and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.models.wan import VaceConfig, WanTransformer, WanVaceTransformer

TINY = VaceConfig(dim=48, ffn_dim=96, heads=2, layers=4, text_dim=20, freq_dim=32, vace_dim=12, vace_layers=(0, 2))
GRID = (3, 8, 12)
TOKENS = 3 * 4 * 6


def model(config: VaceConfig = TINY) -> WanVaceTransformer:
    torch.manual_seed(0)
    return WanVaceTransformer(config).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(**changes: Any) -> dict[str, Any]:
    return {"text": noise(1, 7, 20, seed=2), "control": noise(1, 12, *GRID, seed=3), "grid": GRID} | changes


def test_hints_of_no_weight_leave_the_text_to_video_model() -> None:
    net = model()
    plain = WanTransformer(TINY)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("vace_")})
    x, t, text = noise(1, 16, *GRID), torch.tensor([500.0]), noise(1, 7, 20, seed=2)
    with torch.no_grad():
        want = plain(x, t, plain.prepare(text=text, grid=GRID))
        assert torch.equal(net(x, t, net.prepare(**inputs(scale=0))), want)
        assert not torch.allclose(net(x, t, net.prepare(**inputs())), want, atol=1e-2)


@pytest.mark.parametrize("hint", [0, 1])
def test_each_hint_is_added_after_its_block(hint: int) -> None:
    """What each block of the first row receives differs only behind the layer of the hint."""
    net, x, t = model(), noise(1, 16, *GRID), torch.tensor([500.0])
    seen: list[Tensor] = []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        net(x, t, net.prepare(**inputs(scale=0.0)))
        net(x, t, net.prepare(**inputs(scale=[float(i == hint) for i in range(2)])))
    same = [torch.equal(without, with_hint) for without, with_hint in zip(seen[:4], seen[4:], strict=True)]
    assert same == [i <= TINY.vace_layers[hint] for i in range(4)]


def test_the_second_row_starts_from_control_and_x_and_sees_the_timestep() -> None:
    net, t = model(), torch.tensor([500.0])
    seen: list[tuple[Tensor, Any]] = []
    let_in: list[Tensor] = []
    net.vace_blocks[0].register_forward_pre_hook(lambda _, args: seen.append((args[0].clone(), args[2])))
    net.vace_blocks[0].before_proj.register_forward_hook(lambda _, args, out: let_in.append(out.clone()))
    x, control = noise(1, 16, *GRID), noise(1, 12, *GRID, seed=3)
    with torch.no_grad():
        net(x, t, net.prepare(**inputs()))
        first: Any = net.vace_blocks[0]
        want = first.before_proj(net.vace_patch_embedding(control))
    assert torch.allclose(seen[0][0], net.patch_embedding(x), atol=1e-6)
    assert torch.allclose(let_in[0], want, atol=1e-6)
    assert torch.equal(seen[0][1].projection, net.embed_time(t, TOKENS).projection)


def test_steps_leave_x_and_the_preparation_as_they_were() -> None:
    net, x, t = model(), noise(1, 16, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        cond = net.prepare(**inputs())
        control = cond.control.clone()
        first = net(x, t, cond)
        assert torch.equal(net(x, t, cond), first)
        assert torch.equal(x, noise(1, 16, *GRID))
        assert torch.equal(cond.control, control)


def test_gradients_change_no_result_and_reach_every_parameter() -> None:
    net, x, t = model(), noise(1, 16, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        want = net(x, t, net.prepare(**inputs()))
    got = net(x, t, net.prepare(**inputs()))
    assert torch.allclose(got, want, atol=1e-5)
    got.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_one_timestep_per_token() -> None:
    net, x, t = model(), noise(1, 16, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        cond = net.prepare(**inputs())
        clean = t[:, None].repeat(1, TOKENS)
        assert torch.allclose(net(x, clean, cond), net(x, t, cond), atol=1e-5)
        clean[:, :24] = 0
        assert not torch.allclose(net(x, clean, cond), net(x, t, cond), atol=1e-3)


def test_bfloat16_is_near_float32() -> None:
    narrow, wide = model().to(torch.bfloat16), model().to(torch.bfloat16).float()
    x, t = noise(1, 16, *GRID), torch.tensor([500.0])
    with torch.no_grad():
        got, want = narrow(x, t, narrow.prepare(**inputs())), wide(x, t, wide.prepare(**inputs()))
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"control": noise(1, 12, 3, 8, 10)},
            r"control latents have shape \(12, 3, 8, 10\); this x needs \(12, 3, 8, 12",
        ),
        ({"control": noise(1, 96, *GRID)}, r"control latents have shape \(96, 3, 8, 12\)"),
        ({"scale": (1.0, 0.5, 0.1)}, "scale has 3 values; this model has 2 hints"),
        ({"grid": (3, 7, 12)}, "must be a multiple of the patch"),
        ({"text": noise(1, 513, 20)}, "text has 513 tokens"),
    ],
)
def test_preparation_says_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().prepare(**inputs(**change))


def test_only_the_first_block_of_the_second_row_lets_the_control_in() -> None:
    names = [name for name, _ in model(replace(TINY, vace_layers=(0, 1, 3))).named_modules()]
    assert [name for name in names if name.endswith("before_proj")] == ["vace_blocks.0.before_proj"]
    assert sum(name.endswith("after_proj") for name in names) == 3
