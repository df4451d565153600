import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasdedeux.engine import Job, parse_size, puppet_seed


@given(
    st.builds(
        Job,
        character=st.none() | st.text(alphabet="abc/.é ", min_size=1) | st.just("puppet:3"),
        mode=st.sampled_from(("animate", "replace")),
        steps=st.none() | st.integers(1, 100),
        seed=st.integers(0, 2**63 - 1),
        fps=st.none() | st.floats(1, 120),
        size=st.none() | st.just("64x96"),
        handoff=st.sampled_from(("auto", "0.6", "snr:0.1", "0.8,0.4")),
    )
)
def test_json_both_ways(job: Job) -> None:
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mode": "dance"}, 'The mode is "dance"; it must be animate or replace.'),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"steps": "12"}, "steps is '12'"),
        ({"frames": 0}, "frames is 0"),
        ({"seed": -1}, "The seed is -1"),
        ({"seed": None}, "seed is None"),
        ({"fps": 0.0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"size": "64"}, "WIDTHxHEIGHT"),
        ({"size": "64x-8"}, "WIDTHxHEIGHT"),
        ({"size": "0x64"}, "WIDTHxHEIGHT"),
        ({"solver": "ddim"}, "one of euler, dpm++, unipc"),
        ({"character": "puppet:x"}, "names no puppet"),
        ({"driver": "puppet:-1"}, "names no puppet"),
        ({"character": 3}, "it must be text"),
    ],
)
def test_what_is_of_no_use_is_refused_in_one_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        Job(**fields)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["0", "1", "1.5", "-0.2", "abc", "", "snr:0", "snr:x", "0.4,0.8"])
def test_a_handoff_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write auto, a sigma"):
        Job(handoff=text)


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": 3, "step": 4}', '{"mode": "x"}'])
def test_json_that_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"job|mode"):
        Job.from_json(text)


def test_the_short_ways_to_make_a_job() -> None:
    assert Job.animate(character=Path("a.png"), driver="b.mp4", steps=3) == Job(
        character="a.png", driver="b.mp4", mode="animate", steps=3
    )
    assert Job.replace(driver="b.mp4").mode == "replace"
    assert json.loads(Job().to_json())["character"] is None


def test_parts_of_a_job() -> None:
    assert parse_size("128x96") == (128, 96)
    assert parse_size(" 64X32 ") == (64, 32)
    assert puppet_seed("puppet:12") == 12
    assert puppet_seed("hero.png") is None
    assert puppet_seed(None) is None
