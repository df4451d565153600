"""The loop: who is called where, residence, stopping, and that resuming anywhere gives the same bits."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pasdedeux.denoise.experts import Expert, ExpertSet
from pasdedeux.denoise.handoff import Handoff
from pasdedeux.denoise.levels import log_snr, schedule
from pasdedeux.denoise.solvers import SOLVERS
from pasdedeux.denoise.trajectory import Snapshot, Step, finish, run

NOISE = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
SIGMAS = schedule(9, 5.0, start=0.999)


@dataclass
class Troupe:
    """Experts with nonlinear fields of their own, and a diary of what happened to them."""

    count: int = 2
    fails_at: float = -1.0
    diary: list[tuple[str, int]] = field(default_factory=list)
    calls: list[tuple[int, float]] = field(default_factory=list)

    def expert(self, k: int) -> Expert:
        @contextmanager
        def residence() -> Iterator[None]:
            self.diary.append(("in", k))
            try:
                yield
            finally:
                self.diary.append(("out", k))

        def denoiser(x: Tensor, sigma: Tensor, cond: float) -> Tensor:
            level = sigma[0].item()
            self.calls.append((k, level))
            assert self.diary[-1] == ("in", k)
            if level < self.fails_at:
                raise RuntimeError("out of memory")
            return torch.sin(x * (k + 1.5) + cond) + sigma.view(-1, 1, 1) * x

        return Expert(denoiser, f"expert {k}", residence=residence)

    def set(self, bounds: tuple[float, ...] | None = None) -> ExpertSet:
        bounds = tuple(1 - k / self.count for k in range(1, self.count)) if bounds is None else bounds
        return ExpertSet(tuple(self.expert(k) for k in range(self.count)), Handoff(bounds))


def steps_of(experts: ExpertSet, solver: str = "unipc", sigmas: tuple[float, ...] = SIGMAS) -> list[Step]:
    return list(run(experts, NOISE, sigmas, solver=solver, cond=0.3))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_only_the_owner_is_called_and_residence_wraps_each_run_once(count, data):
    drawn = data.draw(st.lists(st.floats(0.05, 0.95), min_size=count - 1, max_size=count - 1, unique=True))
    troupe = Troupe(count)
    experts = troupe.set(tuple(sorted(drawn, reverse=True)))
    sigmas = schedule(data.draw(st.integers(1, 12)), data.draw(st.floats(0.5, 12)))
    steps = steps_of(experts, sigmas=sigmas)
    assert [k for k, _ in troupe.calls] == [experts.handoff.owner(sigma) for sigma in sigmas[:-1]]
    assert [level for _, level in troupe.calls] == pytest.approx(sigmas[:-1])
    runs = experts.handoff.runs(sigmas)
    assert troupe.diary == [(what, run.expert) for run in runs for what in ("in", "out")]
    assert [step.i for step in steps if step.handoff] == [run.start for run in runs[1:]]


def test_a_step_says_what_it_did():
    steps = steps_of(Troupe().set((0.875,)))
    assert [step.i for step in steps] == list(range(9))
    assert {step.of for step in steps} == {9}
    assert tuple(step.sigma for step in steps) == SIGMAS[:-1]
    assert tuple(step.sigma_next for step in steps) == SIGMAS[1:]
    assert all(step.log_snr == log_snr(step.sigma) for step in steps)
    assert [step.expert_index for step in steps] == [0 if sigma >= 0.875 else 1 for sigma in SIGMAS[:-1]]
    assert all(step.expert == f"expert {step.expert_index}" for step in steps)
    assert all(step.seconds >= 0 for step in steps)
    assert all(step.snapshot.i == step.i + 1 and step.snapshot.x is step.x for step in steps)
    assert [step.snapshot.finished for step in steps] == [False] * 8 + [True]


def test_the_log_snr_of_pure_noise_is_minus_infinity():
    assert steps_of(Troupe().set(), sigmas=schedule(3))[0].log_snr == -math.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_x0_is_the_data_predicted_in_the_step(solver):
    alone = Troupe(1).set()
    steps = steps_of(alone, solver)
    for step, x in zip(steps, [NOISE, *(step.x for step in steps)], strict=False):
        with alone.experts[0].residence():
            velocity = alone.experts[0].denoiser(x, torch.full((2,), step.sigma), 0.3)
        torch.testing.assert_close(step.x0, x - step.sigma * velocity)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_resumed_from_any_file_it_gives_the_same_bits(solver, count, tmp_path):
    whole = steps_of(Troupe(count).set(), solver)
    for step in whole:
        step.snapshot.save(tmp_path / "run.safetensors")
        saved = Snapshot.load(tmp_path / "run.safetensors")
        troupe = Troupe(count)
        rest = list(run(troupe.set(), NOISE, SIGMAS, solver=solver, cond=0.3, start=saved))
        assert len(rest) == len(troupe.calls) == 9 - step.i - 1
        for again, before in zip(rest, whole[step.i + 1 :], strict=True):
            assert torch.equal(again.x, before.x)
            assert torch.equal(again.x0, before.x0)
            assert (again.i, again.expert, again.handoff) == (before.i, before.expert, before.handoff)


@pytest.mark.parametrize("solver", SOLVERS)
def test_resumed_from_memory_as_often_as_it_has_steps(solver):
    whole = steps_of(Troupe(3).set(), solver)
    now = None
    for _ in range(9):
        # Broken off after every single step, the handoffs among them.
        now = next(run(Troupe(3).set(), NOISE, SIGMAS, solver=solver, cond=0.3, start=now)).snapshot
    assert now is not None
    assert now.finished
    assert torch.equal(now.x, whole[-1].x)


def test_a_saved_run_keeps_its_metadata_precision_and_schedule(tmp_path):
    now = next(run(Troupe().set(), NOISE.double(), SIGMAS, cond=0.0)).snapshot
    noted = Snapshot(x=now.x, i=now.i, sigmas=now.sigmas, solver=now.solver, meta={"prompt": "een dans, 跳舞"})
    noted.save(tmp_path / "run.safetensors")
    saved = Snapshot.load(tmp_path / "run.safetensors")
    assert (saved.i, saved.sigmas, saved.meta) == (1, SIGMAS, {"prompt": "een dans, 跳舞"})
    assert (saved.x.dtype, saved.solver.name, saved.solver.order) == (torch.float64, "unipc", 1)
    after = next(run(Troupe().set(), NOISE, SIGMAS, cond=0.0, start=saved))
    assert after.snapshot.meta == saved.meta


def test_saving_replaces_the_file_whole_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "run.safetensors"
    first, second = (step.snapshot for step in steps_of(Troupe().set())[:2])
    first.save(target)

    def disk_full(tensors: object, path: object, metadata: object) -> None:
        path.write_bytes(b"half a fi")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("pasdedeux.denoise.trajectory.save_file", disk_full)
        with pytest.raises(OSError, match="no space"):
            second.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    assert Snapshot.load(target).i == 1
    second.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    assert Snapshot.load(target).i == 2


def test_a_file_that_is_no_saved_run_is_refused(tmp_path):
    (tmp_path / "text").write_text("not tensors at all")
    save_file({"x": NOISE}, tmp_path / "weights")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Snapshot.load(tmp_path / "text")
    with pytest.raises(ValueError, match="no saved run"):
        Snapshot.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError):
        Snapshot.load(tmp_path / "nowhere")


def test_stop_is_obeyed_within_one_step_and_the_run_can_go_on():
    troupe = Troupe()
    final = finish(run(troupe.set(), NOISE, SIGMAS, cond=0.3, stop=lambda: len(troupe.calls) == 4))
    assert (final.i, len(troupe.calls)) == (4, 4)
    assert troupe.diary[-1] == ("out", troupe.calls[-1][0])
    final = finish(run(troupe.set(), NOISE, SIGMAS, cond=0.3, start=final))
    assert torch.equal(final.x, steps_of(Troupe().set())[-1].x)


def test_stopped_at_the_handoff_the_next_expert_is_not_fetched():
    troupe = Troupe()
    experts = troupe.set((0.875,))
    high = experts.handoff.runs(SIGMAS)[0].stop
    finish(run(experts, NOISE, SIGMAS, cond=0.3, stop=lambda: len(troupe.calls) == high))
    assert troupe.diary == [("in", 0), ("out", 0)]


def test_stopped_before_it_began_nothing_happens():
    troupe = Troupe()
    final = finish(run(troupe.set(), NOISE, SIGMAS, cond=0.3, stop=lambda: True))
    assert (final.i, troupe.diary) == (0, [])
    assert torch.equal(final.x, NOISE)


def test_a_finished_run_resumed_does_nothing_and_is_still_finished():
    troupe = Troupe()
    done = steps_of(Troupe().set())[-1].snapshot
    assert finish(run(troupe.set(), NOISE, SIGMAS, cond=0.3, start=done)).finished
    assert troupe.diary == []


def test_residence_is_left_when_an_expert_fails():
    troupe = Troupe(fails_at=0.5)
    with pytest.raises(RuntimeError, match="out of memory"):
        steps_of(troupe.set((0.875,)))
    assert troupe.diary == [("in", 0), ("out", 0), ("in", 1), ("out", 1)]


def test_residence_is_left_on_break():
    troupe = Troupe()
    for step in run(troupe.set(), NOISE, SIGMAS, cond=0.3):
        if step.i == 1:
            break
    assert troupe.diary == [("in", 0), ("out", 0)]


def test_residence_is_left_on_close():
    troupe = Troupe()
    with closing(run(troupe.set(), NOISE, SIGMAS, cond=0.3)) as steps:
        next(steps)
        assert troupe.diary == [("in", 0)]
    assert troupe.diary == [("in", 0), ("out", 0)]


def test_finish_shows_every_step_and_closes_when_the_watcher_fails():
    seen: list[int] = []
    final = finish(run(Troupe().set(), NOISE, SIGMAS, cond=0.3), lambda step: seen.append(step.i))
    assert (final.finished, seen) == (True, list(range(9)))
    troupe = Troupe()
    steps = run(troupe.set(), NOISE, SIGMAS, cond=0.3)
    with pytest.raises(ZeroDivisionError):
        finish(steps, lambda step: step.i / 0)
    assert troupe.diary == [("in", 0), ("out", 0)]


def test_each_expert_is_guided_by_its_own_scale():
    seen: list[tuple[str, str]] = []

    def denoiser(name: str) -> Expert:
        def velocity(x: Tensor, sigma: Tensor, cond: str) -> Tensor:
            seen.append((name, cond))
            return torch.zeros_like(x)

        return Expert(velocity, name, guidance=4.0 if name == "high" else 1.0)

    pair = ExpertSet((denoiser("high"), denoiser("low")), Handoff((0.5,)))
    finish(run(pair, NOISE, (1.0, 0.4, 0.0), cond="yes", uncond="no"))
    assert seen == [("high", "yes"), ("high", "no"), ("low", "yes")]


def test_the_denoiser_gets_one_float32_level_per_sample_and_no_gradients():
    def denoiser(x: Tensor, sigma: Tensor, cond: None) -> Tensor:
        assert (sigma.shape, sigma.dtype) == ((2,), torch.float32)
        assert not torch.is_grad_enabled()
        assert x.dtype == torch.float32
        return x

    for step in run(ExpertSet.single(Expert(denoiser, "e")), NOISE.bfloat16(), SIGMAS, cond=None):
        # Nor does the loop switch gradients off for whoever consumes it.
        assert torch.is_grad_enabled()
        assert step.x.dtype == torch.float32


def test_a_velocity_of_another_shape_is_refused():
    wrong = Expert(lambda x, sigma, cond: x[:, :1], "narrow")
    with pytest.raises(ValueError, match=r"narrow gave a velocity \(2, 1, 4\) for a latent \(2, 3, 4\)"):
        next(run(ExpertSet.single(wrong), NOISE, SIGMAS, cond=None))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigmas": schedule(9, 4.0)}, "another schedule"),
        ({"solver": "euler"}, 'used the solver "unipc"'),
        ({"x": NOISE[:1]}, r"\(2, 3, 4\); this run's is \(1, 3, 4\)"),
    ],
)
def test_a_saved_run_is_not_resumed_as_something_else(changed, message):
    saved = steps_of(Troupe().set())[3].snapshot
    arguments = {"x": NOISE, "sigmas": SIGMAS, "solver": "unipc"} | changed
    with pytest.raises(ValueError, match=message):
        run(Troupe().set(), **arguments, cond=0.3, start=saved)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigmas": (0.5, 0.9)}, "descend strictly"),
        ({"solver": "heun"}, "no solver"),
        ({"x": torch.tensor(1.0)}, "batch axis"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(changed, message):
    arguments = {"x": NOISE, "sigmas": SIGMAS, "solver": "unipc"} | changed
    with pytest.raises(ValueError, match=message):
        run(Troupe().set(), **arguments, cond=0.3)
