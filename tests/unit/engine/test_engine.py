import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import Denoised, Ready, Stopped
from pasdedeux.animate.video import probe, read_metadata
from pasdedeux.animate.video_writer import VideoWriter
from pasdedeux.checkpoints.folder import Manifest
from pasdedeux.engine import Engine, Event, Job, Prepared, Report

JOB = Job(character="puppet:3", driver="puppet:4", frames=13)


@pytest.fixture(scope="module")
def told(engine: Engine) -> list[Event]:
    events: list[Event] = []
    engine.run(JOB, events.append)
    return events


def test_frames_are_handed_over_as_they_come(told: list[Event]) -> None:
    assert isinstance(told[0], Prepared)
    assert (told[0].frames, told[0].segments) == (13, 2)
    kinds = [type(event) for event in told[1:]]
    assert kinds.index(Ready) < len(kinds) - 1 - kinds[::-1].index(Denoised)
    assert sum(len(event.frames) for event in told if isinstance(event, Ready)) == 13


def test_the_report_says_every_step(engine: Engine) -> None:
    result = engine.run(JOB)
    report = result.report
    assert result.frames.shape == (13, 64, 64, 3)
    assert result.frames.dtype == np.uint8
    assert [(s.segment, s.i) for s in report.steps] == [(k, i) for k in range(2) for i in range(4)]
    assert [s.expert for s in report.steps[:4]] == ["high", "high", "high", "low"]
    assert report.handoffs == (3,)
    assert report.steps[0].log_snr is None
    assert report.steps[3].sigma == pytest.approx(0.5)
    assert report.total_parameters == 2 * report.active_parameters > 0
    assert report.peak_bytes > 10**7
    assert report.settings["handoff"] == [0.75]
    assert report.job["frames"] == 13
    assert {"open", "prepare", "denoise", "decode", "write"} == set(report.seconds)
    assert report.seconds["denoise"] == pytest.approx(sum(s.seconds for s in report.steps), abs=1e-3)
    assert Report.from_json(report.to_json()) == report


def test_the_same_job_is_the_same_clip_and_a_seed_is_another(engine: Engine) -> None:
    first, again = engine.run(JOB).frames, engine.run(JOB).frames
    assert np.array_equal(first, again)
    other = engine.run(Job(character="puppet:3", driver="puppet:4", frames=13, seed=1)).frames
    assert not np.array_equal(first, other)


def test_straight_to_a_file_is_the_same_clip(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Frames are compared as the writer gets them: x264 may code the same frames in more than one way.
    written: list[np.ndarray] = []
    write = VideoWriter.write
    monkeypatch.setattr(VideoWriter, "write", lambda self, frame: (written.append(frame.copy()), write(self, frame)))
    engine.run(JOB).save(tmp_path / "kept.mp4")
    engine.write(tmp_path / "straight.mp4", JOB)
    assert np.array_equal(written[:13], written[13:])
    found = probe(tmp_path / "straight.mp4")
    assert (found.width, found.height, found.frames, found.fps) == (64, 64, 13, 12)
    assert Job.from_json(read_metadata(tmp_path / "straight.mp4")["pasdedeux.job"]) == JOB


def test_a_handoff_moves_the_work(engine: Engine) -> None:
    early = engine.run(Job(frames=1, handoff="0.95")).report
    assert [s.expert for s in early.steps] == ["high", "low", "low", "low"]
    never = engine.run(Job(frames=1, handoff="0.01")).report
    assert {s.expert for s in never.steps} == {"high"}
    assert never.handoffs == ()


@pytest.mark.parametrize("experts", [1, 3])
def test_the_number_of_experts_is_data(
    tmp_path: Path, make_tiny: Callable[[Path, int], Manifest], experts: int
) -> None:
    make_tiny(tmp_path, experts)
    with Engine.open(tmp_path, device="cpu") as engine:
        report = engine.run(Job(frames=1)).report
    assert len({s.expert for s in report.steps}) == experts
    assert len(report.handoffs) == experts - 1
    assert report.total_parameters == experts * report.active_parameters


def test_replace_mode_plays_in_the_drivers_place(engine: Engine) -> None:
    both = [
        engine.run(Job(character="puppet:3", driver="puppet:4", frames=5, mode=mode)).frames.astype(int)
        for mode in ("animate", "replace")
    ]
    assert np.abs(both[0] - both[1])[:, :12].mean() > 3


def test_stop_ends_within_a_step_and_leaves_no_file(engine: Engine, tmp_path: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(Stopped):
        engine.write(tmp_path / "out.mp4", JOB, seen.append, lambda: steps_in(seen) >= 6)
    assert steps_in(seen) == 6
    assert list(tmp_path.iterdir()) == []


def steps_in(events: list[Event]) -> int:
    return sum(isinstance(event, Denoised) for event in events)


def test_previews_are_of_the_noise_and_both_sides_of_the_handoff(engine: Engine) -> None:
    noise, *previews = engine.run(JOB, previews=True).previews
    assert (noise.i, noise.expert, noise.noisy) == (0, "high", True)
    assert 0.75 < noise.sigma < 1
    assert noise.frame.std() > 1.2 * previews[-1].frame.std()
    assert [(p.i, p.expert, p.noisy) for p in previews] == [(0, "high", False), (2, "high", False), (3, "low", False)]
    assert all(p.frame.shape == (64, 64, 3) for p in previews)
    assert engine.run(JOB).previews == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [("out.xyz", "must end in"), ("out", "must end in"), ("no/out.mp4", "no folder"), ("dir.mp4", "folder")],
)
def test_a_file_that_cannot_be_written_is_known_before_the_work(
    engine: Engine, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "dir.mp4").mkdir()
    seen: list[Event] = []
    with pytest.raises(InputError, match=said):
        engine.write(tmp_path / name, JOB, seen.append)
    assert seen == []


def test_a_job_for_another_model_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="but the engine holds"):
        engine.run(Job(model="builtin"))


def test_a_closed_engine_runs_nothing(tiny: Path) -> None:
    with Engine.open(tiny, device="cpu") as engine:
        pass
    with pytest.raises(ValueError, match="closed"):
        engine.run(JOB)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        Engine.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no weights"):
        Engine.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"x": 1}'])
def test_json_that_is_no_report(text: str) -> None:
    with pytest.raises(ValueError, match=r"report|Expecting"):
        Report.from_json(text)


def test_the_report_is_plain_json(engine: Engine) -> None:
    text = engine.run(Job(frames=1)).report.to_json()
    assert "Infinity" not in text
    assert json.loads(text)["versions"]["torch"]
