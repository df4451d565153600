"""The log of a run."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pasdedeux.train import logbook
from pasdedeux.train.logbook import LOG, Logbook, steps_of


def test_steps_are_read_once_each_and_a_cut_off_line_is_left_out(tmp_path: Path) -> None:
    with Logbook(tmp_path) as log:
        log.note(began={"a": 0})
        log.step("a", 1, loss=0.5, held_out=None)
        log.step("b", 1, loss=0.25, held_out=0.125)
    with Logbook(tmp_path) as log:
        log.step("a", 1, loss=0.5)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"expert": "a", "st')
    assert steps_of(tmp_path / LOG) == {
        "a": {1: {"expert": "a", "step": 1, "loss": 0.5}},
        "b": {1: {"expert": "b", "step": 1, "loss": 0.25, "held_out": 0.125}},
    }


def test_a_run_goes_on_below_a_line_that_was_cut_off(tmp_path: Path) -> None:
    with Logbook(tmp_path) as log:
        log.step("a", 1, loss=0.5)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"expert": "a", "st')
    for step in (2, 3):
        with Logbook(tmp_path) as log:
            log.step("a", step, loss=0.25)
    lines = (tmp_path / LOG).read_text(encoding="utf-8").split("\n")
    assert (len(lines), lines[1]) == (5, '{"expert": "a", "st')
    assert sorted(steps_of(tmp_path / LOG)["a"]) == [1, 2, 3]


def test_lines_that_no_log_would_hold_are_left_out(tmp_path: Path) -> None:
    whole = b'{"expert": "a", "step": 2}'
    (tmp_path / LOG).write_bytes(b'{"expert": "a", "st' + whole + b"\n\x00\xff\n\n" + whole + b"\n")
    assert steps_of(tmp_path / LOG) == {"a": {2: {"expert": "a", "step": 2}}}


def test_tensorboard_is_written_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            written.append(folder)

        def add_scalar(self, *values: Any) -> None:
            written.append(values)

        def close(self) -> None:
            written.append("closed")

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(logbook, "find_spec", lambda _: True)
    with Logbook(tmp_path) as log:
        log.step("high", 3, loss=0.5, held_out=None)
    assert written == [str(tmp_path / "tensorboard"), ("high/loss", 0.5, 3), "closed"]
