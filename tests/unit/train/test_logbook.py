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
