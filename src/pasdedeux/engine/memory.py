"""How much memory a job may use: what was said, or what is free."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import torch

from pasdedeux.residency.advice import in_gb
from pasdedeux.residency.placing import CONTEXT, usable_of

__all__ = ["Memory", "free_host", "in_gb", "own_bytes", "parse_memory", "ran_out"]

AUTO = "auto"
UNITS = {"": 1e9, "gb": 1e9, "g": 1e9, "gib": 2**30, "mb": 1e6, "m": 1e6, "mib": 2**20}
CGROUP = Path("/sys/fs/cgroup")
SHARE = 0.8
"""Of the host's free memory, how much is taken where nothing was said: others need some, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes a job may use; None: what is free when it begins.

    main: of the device's memory, or on a processor of the process's; host: of pinned host memory, for weights on their
    way to a device.
    """

    main: int | None = None
    host: int | None = None

    @classmethod
    def parse(cls, main: str = AUTO, host: str = AUTO) -> Self:
        """ "24GB" or "auto". Raises ValueError for anything else."""
        return cls(main=_parsed(main), host=_parsed(host))

    def usable(self, device: str) -> int:
        """Bytes that the whole of a job may take on the device, what is there already included."""
        if device == "cpu":
            return usable_of(int(SHARE * free_host()) + own_bytes() if self.main is None else self.main)
        free, _ = torch.cuda.mem_get_info(device)
        there = free + torch.cuda.memory_reserved(device) + CONTEXT
        return usable_of(there if self.main is None else min(there, self.main))

    def left(self, device: str) -> int:
        """Of the usable bytes those that nothing has taken yet."""
        taken = own_bytes() if device == "cpu" else CONTEXT + torch.cuda.memory_allocated(device)
        return self.usable(device) - int(taken)

    def pinnable(self, device: str, held: int = 0) -> int:
        """Bytes of host memory that weights may be kept in on their way to the device; a processor is at home there.

        held: bytes of it that hold some already.
        """
        if device == "cpu":
            return 0
        return int((free_host() + held) * SHARE) if self.host is None else self.host


def parse_memory(text: str) -> int:
    """ "24GB", "24 GiB", "24" -> bytes. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in UNITS or float(match[1]) == 0:
        raise ValueError(f'The memory "{text}" is not understood; write 24GB, 24GiB or 24000MB.')
    return int(float(match[1]) * UNITS[match[2]])


def free_host() -> int:
    """Bytes of host memory that can still be had without swapping, a container's limit included."""
    return min(int(psutil.virtual_memory().available), *_limits())


def own_bytes() -> int:
    """Bytes that this process has of its own: mapped files are left out where the system tells them apart."""
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, of the device or the host."""
    said = str(error)
    kinds = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(kind in said for kind in kinds)
    )


def _parsed(text: str) -> int | None:
    return None if text.strip().lower() == AUTO else parse_memory(text)


def _limits(root: Path = CGROUP) -> list[int]:
    """What a container's limit leaves, if there is one (cgroup v2, then v1).

    Pages of files are counted as used there, but the system gives them up before it refuses anything: after a run has
    read its weights they would fill the limit.
    """
    found = []
    names = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for most, used in names:
        limit, taken = _number(root / most), _number(root / used)
        if limit is not None and taken is not None:
            pages = _file_pages((root / used).with_name("memory.stat"))
            found.append(min(max(limit - taken + pages, 0), limit))
    return [*found, 1 << 62]


def _file_pages(stat: Path) -> int:
    """Bytes of files that a container's groups hold in memory; v1 has a line for all groups and one for the first."""
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0
    found = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    return sum(found.get(f"total_{kind}", found.get(kind, 0)) for kind in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
