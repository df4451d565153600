"""What holds for every test: those marked `gpu` are left out where there is no CUDA device; and key lists of the
released models."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

DATA = Path(__file__).parent / "data"
Shapes = dict[str, tuple[int, ...]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that tests find stays in the user's cache, nor is taken from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def expand(record: Mapping[str, Any]) -> Shapes:
    """Rows of (name with a # for a number, shape, the numbers) as names and shapes."""
    shapes: Shapes = {}
    for template, shape, numbers in record["rows"]:
        spans = [span.partition("-") for span in numbers.split(",") if span]
        every = [n for first, _, last in spans for n in range(int(first), int(last or first) + 1)]
        for name in [template.replace("#", str(n)) for n in every] or [template]:
            shapes[name] = tuple(shape)
    assert len(shapes) == record["tensors"]
    return shapes


@pytest.fixture(scope="session")
def listed() -> Callable[[str], Shapes]:
    """Names and shapes of a released model, as `listed("wan2.2-t2v-a14b.native")`."""
    return lambda name: expand(json.loads((DATA / f"{name}.json").read_text()))
