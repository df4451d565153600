"""Gradients through an expert whose blocks come and go are those of one that is there, for every kind of expert."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pasdedeux.checkpoints.bundle import ExpertWeights, find_bundle, make_bundle
from pasdedeux.checkpoints.convert import Target, convert
from pasdedeux.checkpoints.load import load_weights
from pasdedeux.models.wan import build_wan
from pasdedeux.models.wan.transformer import WanTrunk
from pasdedeux.train.lora.layers import Branch, Shape, attach, branches_for, recompute
from pasdedeux.train.lora.streaming import Room, streamed
from pasdedeux.train.lora.targets import chosen

GRID = (2, 4, 4)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditions(net: WanTrunk) -> dict[str, Tensor]:
    """What a model is told of a segment."""
    config: Any = net.config
    given = {"text": drawn(1, 3, config.text_dim)}
    if config.image_dim is not None:
        given["image"] = drawn(1, 257, config.image_dim)
    if hasattr(config, "vace_dim"):
        given["control"] = drawn(1, config.vace_dim, *GRID)
    if hasattr(config, "pose_dim"):
        given["pose"] = drawn(1, config.pose_dim, GRID[0] - 1, *GRID[1:])
        given["face"] = drawn(1, 3, 4 * (GRID[0] - 2) + 1, config.face_size, config.face_size)
    return given


def taught(net: WanTrunk, branches: dict[str, Branch], *, graded: bool) -> Tensor:
    """The loss of a pass; with gradients, those of the branches are there afterwards."""
    handles = attach(net, branches)
    with torch.set_grad_enabled(graded):
        cond: Any = net.prepare(**conditions(net), grid=GRID)  # pyright: ignore[reportCallIssue]
        x = drawn(1, net.config.in_dim, *GRID, seed=1)
        loss = net(x, torch.tensor([700.0]), cond).square().mean()
    if graded:
        loss.backward()
    for handle in handles:
        handle.remove()
    return loss.detach()


def branches_of(net: WanTrunk, targets: str) -> dict[str, Branch]:
    made = branches_for(net, chosen(net, targets), Shape(rank=2, alpha=2.0, targets=targets), 0)
    for k, branch in enumerate(made.values()):
        branch.up.data.copy_(drawn(*branch.up.shape, seed=k) * 0.05)
    return made


def same(expert: ExpertWeights, targets: str, budget: int) -> None:
    """Streamed and loaded, in passes with gradients and without."""
    build, passes = lambda: build_wan(expert.config), [True, False, True]
    net = load_weights(build, expert.weights, dtype=torch.float32)
    theirs, mine = branches_of(net, targets), branches_of(net, targets)
    with recompute(net.turns):
        wanted = [taught(net, theirs, graded=graded) for graded in passes]
    how = {"room": Room(device=budget), "dtype": torch.float32, "device": "cpu"}
    with streamed(build, expert.weights, passes, **how) as moving:  # pyright: ignore[reportArgumentType]
        found = [taught(moving, mine, graded=graded) for graded in passes]
    # Mapped weights lie where they lie in their file, and a processor adds in another order there.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    for name, branch in theirs.items():
        for a, b in ((branch.up.grad, mine[name].up.grad), (branch.down.grad, mine[name].down.grad)):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-7)
    assert any(branch.up.grad is not None for branch in mine.values())


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("wan2.2-t2v-a14b", "attention"),
        ("wan2.2-t2v-a14b", "blocks.1.self_attn.q"),
        ("wan2.2-t2v-a14b", "all"),
        ("wan2.2-animate-14b", "attention,pose,face"),
        ("wan2.2-vace-fun-a14b", "all"),
        ("wan2.2-vace-fun-a14b", "blocks.*.ffn.0"),
        ("wan2.2-vace-fun-a14b", "vace_blocks.*.ffn.0"),
    ],
)
def test_of_every_kind_of_expert(wan_folders: Callable[[str], Path], family: str, targets: str) -> None:
    same(find_bundle(wan_folders(family)).experts[0], targets, 0)


@pytest.mark.parametrize("dtype", ["fp8_scaled", "Q8_0"])
def test_packed(wan_folders: Callable[[str], Path], tmp_path: Path, dtype: str) -> None:
    container = "gguf" if dtype == "Q8_0" else "safetensors"
    file, expert = tmp_path / f"packed.{container}", find_bundle(wan_folders("wan2.2-t2v-a14b")).experts[0]
    convert(expert.weights, Target(dialect="native", container=container, dtype=dtype), file)
    same(make_bundle(file, family="wan2.2-t2v-a14b").experts[0], "attention", 0)


def test_what_stays_in_host_memory_is_not_read_twice(
    wan_folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pasdedeux.residency.sources import FileSource

    read: list[Any] = []
    real = FileSource.read_into

    def noted(self: FileSource, unit: Any, buffer: Tensor, /) -> None:
        read.append(unit)
        real(self, unit, buffer)

    monkeypatch.setattr(FileSource, "read_into", noted)
    expert = find_bundle(wan_folders("wan2.2-t2v-a14b")).experts[0]
    build = lambda: build_wan(expert.config)  # noqa: E731
    with streamed(
        build, expert.weights, [True] * 3, room=Room(device=0, host=1 << 30), dtype=torch.float32, device="cpu"
    ) as net:
        branches = branches_of(net, "blocks.*.ffn.0")
        for _ in range(3):
            taught(net, branches, graded=True)
    assert len(read) == len(set(read)) == net.config.layers + 1
