"""A run, and what is foretold of it, as plain numbers."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

from pasdedeux.residency.arithmetic import Codec, Grid, Network
from pasdedeux.residency.units import Plan

Place = Literal["all resident", "one expert resident", "streamed", "too large"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNumbers:
    """One expert, noisiest first in a run.

    steps: its steps in a segment; passes: forwards per step, 2 with guidance; nbytes: all of it as it lies on the
    device; trunk: what of it is no block; block: its largest block; blocks: their number; sizes: bytes of each block
    in the order of their turns (none: all alike); packed: values kept packed in blocks, by their type. Raises
    ValueError where the sizes are not those of the blocks.
    """

    name: str
    steps: int
    passes: int
    nbytes: int
    trunk: int
    block: int
    blocks: int
    sizes: tuple[int, ...] = ()
    packed: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.sizes and (len(self.sizes), sum(self.sizes)) != (self.blocks, self.nbytes - self.trunk):
            raise ValueError(
                f"{self.name} has {self.blocks} blocks of {self.nbytes - self.trunk} bytes together, but sizes of "
                f"{len(self.sizes)} blocks of {sum(self.sizes)} bytes."
            )

    @property
    def each(self) -> tuple[int, ...]:
        """Bytes of every block."""
        return self.sizes or ((self.nbytes - self.trunk) // self.blocks,) * self.blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNumbers:
    """A run as plain numbers.

    grid: tokens of a segment; size: (width, height) in pixels; frames: of a segment; encodes: whole segments that are
    encoded before each one is denoised; value: bytes of what is computed in; codec_value: the same of the autoencoder;
    text, image: bytes of the two encoders (0: none); text_least: those that the text encoder cannot do without, where
    its blocks take turns too (0: it cannot be without any); text_mapped, codec_mapped: whether its file has it as it is
    used, so that a processor reads it where it lies; from_disk: whether blocks that come and go come from a disk, which
    is so much slower than a block's turn that their loads are spread.
    """

    network: Network
    experts: tuple[ExpertNumbers, ...]
    grid: Grid
    size: tuple[int, int]
    frames: int
    codec: Codec
    segments: int = 1
    encodes: float = 0
    text: int = 0
    text_least: int = 0
    text_mapped: bool = True
    codec_mapped: bool = True
    image: int = 0
    value: int = 2
    codec_value: int = 4
    from_disk: bool = False

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.size[0] * self.size[1]

    @property
    def guided(self) -> bool:
        """Whether any expert has two passes."""
        return any(expert.passes > 1 for expert in self.experts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where weights are.

    budget: bytes of weights that may be on the device while a step runs; weights: those that the plan has there;
    places: blocks that are there at once, of `blocks`, those of all experts that have steps; stays: whether weights
    stay while a segment is decoded, and so whether the plan is one for the whole run, or one for every segment; phases:
    peak bytes of each part of the run; moved_step: of each expert the most bytes that a step copies, its first in a
    segment aside; moved: bytes copied in all; again: of what is copied more than once, and is worth to be kept in host
    memory. plan: that of the first PLANNED segments of the run, or of every one.
    """

    place: Place
    budget: int
    weights: int
    places: int
    blocks: int
    stays: bool
    phases: tuple[tuple[str, int], ...]
    moved_step: tuple[int, ...]
    moved: int
    again: int
    plan: Plan = field(repr=False)

    def fits(self, usable: int, names: Container[str]) -> bool:
        """Whether the phases of these names need no more than so many bytes."""
        return all(nbytes <= usable for name, nbytes in self.phases if name in names)

    @property
    def streamed(self) -> bool:
        """Whether a streamer carries the plan out, so that a block has its turn once for both passes of a step."""
        return self.place != "all resident" or not self.stays


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """A step of one expert: seconds of it all, of computing, of which unpacking, and of copying, which runs beside.

    seconds: the median of its steps.
    """

    name: str
    seconds: float
    compute: float
    unpacking: float
    copy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What is to be expected.

    room: bytes of the device; usable: those of them that a run can count on; moved: bytes that come to the device in
    all, encoders too; codec_value: bytes of a value of the autoencoder, as there is room for it; host: peak host bytes
    beside a card, where what is copied more than once lies in pinned memory, host_disk where it is read from disk
    (0: the device is the host); steps: of each expert that has some; stages: seconds of each part of the run; both are
    empty where rates are not known. dollars: None without a price; advice: what would make it fit, or faster.
    """

    placement: Placement
    room: int
    usable: int
    moved: int
    codec_value: int
    host: int = 0
    host_disk: int = 0
    steps: tuple[StepTime, ...] = ()
    stages: tuple[tuple[str, float], ...] = ()
    dollars: float | None = None
    advice: tuple[str, ...] = ()

    @property
    def device(self) -> int:
        """Peak device bytes."""
        return max(nbytes for _, nbytes in self.placement.phases)

    @property
    def fits(self) -> bool:
        """Whether no phase needs more than there is."""
        return self.device <= self.usable

    @property
    def moved_step(self) -> int:
        """Bytes that a step copies to the device, of the expert that copies most."""
        return max(self.placement.moved_step)

    @property
    def seconds(self) -> float:
        """The whole video; 0 where it is not foretold."""
        return sum(seconds for _, seconds in self.stages)
