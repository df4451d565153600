"""The built-in denoiser: identity at birth, velocity from clean latents, work done once per segment."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pasdedeux.models.duet import PLANES, REFERENCE, DuetConfig, DuetInputs, DuetTransformer
from pasdedeux.models.duet_layers import Frames, Latents, attend

SMALL = DuetConfig(dim=32, depth=4, heads=2, ffn=64, channels=6, frequency=16, pyramid=(8, 8, 16))


def inputs(frames: int = 9, size: int = 32, known: int = 0) -> DuetInputs:
    latents = 1 + (frames - 1) // 4
    flag = torch.zeros(2, 1, latents, 1, 1)
    flag[:, :, :known] = 1
    return DuetInputs(
        planes=torch.rand(2, PLANES, frames, size, size),
        reference=torch.rand(2, REFERENCE, size, size),
        base=torch.randn(2, 6, latents, size // 8, size // 8),
        known=flag,
        region=torch.randint(0, 3, (2, latents, size // 8, size // 8)),
    )


@pytest.fixture
def model() -> DuetTransformer:
    torch.manual_seed(0)
    model = DuetTransformer(SMALL)
    model.spread.copy_(torch.tensor([0.01, 0.2, 0.5])[:, None])
    return model


def awake(model: DuetTransformer) -> DuetTransformer:
    for layer in (model.head.first, model.head.later):
        torch.nn.init.normal_(layer.weight, std=0.2)
    torch.nn.init.normal_(model.time_projection[1].weight, std=0.2)
    return model


def test_untrained_it_gives_the_base_and_then_corrections_in_units_of_the_spread(
    model: DuetTransformer,
) -> None:
    cond = model.prepare(inputs())
    x, sigma = torch.randn(2, 6, 3, 4, 4), torch.tensor([0.3, 0.9])
    clean, raw = model.predict(x, sigma, cond)
    assert raw.abs().max() == 0
    torch.testing.assert_close(clean, cond.base)
    for layer in (model.head.first, model.head.later):
        torch.nn.init.ones_(layer.bias)
    moved = model.predict(x, sigma, cond)[0] - cond.base
    torch.testing.assert_close(moved[:, 0], torch.tensor([0.01, 0.2, 0.5])[cond.region], atol=1e-6, rtol=1e-4)


def test_velocity_points_from_the_clean_latents(model: DuetTransformer) -> None:
    cond = awake(model).prepare(inputs())
    x, sigma = torch.randn(2, 6, 3, 4, 4), torch.tensor([0.4, 0.8])
    clean, _ = model.predict(x, sigma, cond)
    v = model(x, sigma, cond)
    torch.testing.assert_close(x - sigma[:, None, None, None, None] * v, clean, atol=1e-5, rtol=1e-5)


def test_pure_static_is_not_seen_and_clean_latents_are_seen_whole(model: DuetTransformer) -> None:
    cond = awake(model).prepare(inputs())
    seen: list[torch.Tensor] = []
    model.patch_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    static = torch.randn(2, 6, 3, 4, 4)
    first, second = (model.predict(x, torch.ones(2), cond)[0] for x in (static, 2 * static - 1))
    assert torch.equal(first, second)
    assert seen[0].abs().max() == 0
    # Nearly without noise it sees the correction itself, in units of its deviation.
    model.predict(cond.base + model.deviation(cond.region), torch.full((2,), 1e-6), cond)
    torch.testing.assert_close(seen[-1], torch.ones_like(seen[-1]), atol=1e-3, rtol=0)


def test_known_frames_are_given_back_as_they_are(model: DuetTransformer) -> None:
    given = inputs(known=2)
    clean, _ = awake(model).predict(torch.randn(2, 6, 3, 4, 4), torch.tensor([0.9, 0.1]), model.prepare(given))
    torch.testing.assert_close(clean[:, :, :2], given.base[:, :, :2])
    assert (clean[:, :, 2] - given.base[:, :, 2]).abs().max() > 1e-3


def test_every_condition_reaches_the_output(model: DuetTransformer) -> None:
    awake(model)
    x, sigma, plain = torch.randn(2, 6, 3, 4, 4), torch.tensor([0.5, 0.5]), inputs()
    before = model(x, sigma, model.prepare(plain))
    for plane in (0, 3, 4, 7, 8, 11):
        changed = plain.planes.clone()
        changed[:, plane] += 1
        other = DuetInputs(
            planes=changed, reference=plain.reference, base=plain.base, known=plain.known, region=plain.region
        )
        assert not torch.allclose(before, model(x, sigma, model.prepare(other)))
    turned = DuetInputs(
        planes=plain.planes,
        reference=plain.reference + 1,
        base=plain.base,
        known=plain.known,
        region=plain.region,
    )
    assert not torch.allclose(before, model(x, sigma, model.prepare(turned)))


def test_what_a_segment_fixes_is_computed_once(model: DuetTransformer) -> None:
    x, sigma, calls = torch.randn(2, 6, 3, 4, 4), torch.tensor([0.5, 0.5]), []
    fixed = [model.condition_pyramid, model.condition_embedding, model.reference_pyramid, model.base_embedding]
    for module in (*fixed, *(layer.skip for layer in model.finer)):
        module.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as once:
        cond = model.prepare(inputs())
    assert len(calls) == 6
    with FlopCounterMode(display=False) as step:
        for _ in range(3):
            model(x, sigma, cond)
    assert len(calls) == 6
    assert once.get_total_flops() > 0.2 * step.get_total_flops() / 3


def test_a_latent_changes_only_the_frames_it_stands_for_on_the_way_out() -> None:
    frames, latents = Frames(6, 5, 4), Latents(5, 6, 4)
    x = torch.randn(2, 3, 7, 6)
    seen = frames(x)
    assert seen.shape == (2, 9, 7, 5)
    assert latents(seen).shape == x.shape
    other = frames(torch.cat([x[:, :2], x[:, 2:] + 1], dim=1))
    assert torch.equal(seen[:, :5], other[:, :5])
    assert not torch.isclose(seen[:, 5:], other[:, 5:]).any()


def test_attention_written_out_is_the_kernels() -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 8).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v), expected)


def test_batches_do_not_mix(model: DuetTransformer) -> None:
    awake(model)
    given, x, sigma = inputs(), torch.randn(2, 6, 3, 4, 4), torch.tensor([0.3, 0.8])
    both = model(x, sigma, model.prepare(given))
    second = DuetInputs(
        planes=given.planes[1:],
        reference=given.reference[1:],
        base=given.base[1:],
        known=given.known[1:],
        region=given.region[1:],
    )
    alone = model(x[1:], sigma[1:], model.prepare(second))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_heads_of_a_width_that_cannot_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="width 184 with 4 heads has heads of 46"):
        DuetConfig(dim=184, heads=4)
