"""What the study trains and compares: sizes, runs (what is trained), and arms (trained experts put together)."""

from dataclasses import dataclass, field

from pasdedeux.denoise import Handoff, shift_sigma
from pasdedeux.models.codec import CodecConfig
from pasdedeux.models.duet import DuetConfig
from pasdedeux.train.bands import Band, Levels, Scattered, bands, equal_bounds, whole

SHIFT = 3.0
"""Flow shift of training and sampling. At 12, which the built-in pair has, the noisy latents of these small pictures
show less than 2 % of what is to be found on three quarters of the levels: experts could not differ there."""
CELLS = 32
"""Into how many cells of equal probability the noise levels are cut, for experts on random ones."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is. `steps` is the budget T: what one expert of the base model is trained for.

    `big` has twice the parameters of `model`, those of a pair together.
    """

    name: str
    seeds: int
    steps: int
    batch: int
    clips: int
    frames: int
    taken: int
    size: int
    model: DuetConfig
    big: DuetConfig
    codec: CodecConfig
    rate: float = 1e-3
    average: float = 0.99
    window: int | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    readers: int = 1
    bins: int = 16
    judged: int = 48
    sampled: int = 48
    sampling_steps: int = 8
    block: int = 75
    extra_seeds: int = 1


SIZES = {
    "small": Size(
        name="small",
        seeds=2,
        steps=60,
        batch=1,
        clips=40,
        frames=5,
        taken=5,
        size=64,
        model=DuetConfig(dim=16, depth=2, heads=2, ffn=32, channels=8, frequency=16, pyramid=(4, 4, 8)),
        big=DuetConfig(dim=24, depth=2, heads=2, ffn=48, channels=8, frequency=16, pyramid=(6, 8, 12)),
        codec=CodecConfig(channels=8, width=8, depth=1),
        dtype="float32",
        judged=3,
        sampled=3,
        sampling_steps=4,
        block=10,
    ),
    "cpu": Size(
        name="cpu",
        seeds=3,
        steps=1500,
        batch=4,
        clips=3000,
        frames=9,
        taken=9,
        size=64,
        model=DuetConfig(dim=128, depth=4, heads=4, ffn=384, channels=48, frequency=64, pyramid=(16, 32, 64)),
        big=DuetConfig(dim=192, depth=4, heads=4, ffn=512, channels=48, frequency=64, pyramid=(20, 40, 80)),
        codec=CodecConfig(channels=48, width=32, depth=1),
    ),
    "gpu": Size(
        name="gpu",
        seeds=3,
        steps=3000,
        batch=16,
        clips=6000,
        frames=17,
        taken=9,
        size=128,
        model=DuetConfig(depth=6),
        big=DuetConfig(dim=368, depth=6, ffn=1472, pyramid=(64, 136, 272)),
        codec=CodecConfig(),
        average=0.998,
        window=96,
        device="cuda",
        readers=4,
        bins=32,
        judged=64,
        sampled=64,
        block=250,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Experts trained together, each for `steps` steps; at `marks` of them weights are kept and measured.

    `trunk` is (run, expert, mark) to start from. `extra` runs are made for the first seeds only.
    """

    name: str
    levels: dict[str, Levels]
    steps: int
    marks: tuple[int, ...]
    big: bool = False
    trunk: tuple[str, str, int] | None = None
    extra: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """An expert at one of its marks."""

    run: str
    expert: str
    mark: int

    @property
    def key(self) -> str:
        """What its files are called."""
        return f"{self.run}-{self.expert}@{self.mark}"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Experts put together, noisiest first: what is compared. `budget`: steps of all, in T, trunk included."""

    name: str
    group: str
    parts: tuple[Part, ...]
    bounds: tuple[float, ...]
    budget: float
    extra: bool = False


def cells() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which cells, counted from the clean end, each of two experts on random levels owns: half each, by lot."""
    import numpy as np

    order = np.random.default_rng(2026).permutation(CELLS)
    first, second = (tuple(sorted(int(c) for c in half)) for half in (order[: CELLS // 2], order[CELLS // 2 :]))
    return first, second


def scattered(own: tuple[int, ...]) -> Scattered:
    """Cells as levels."""
    edges = [float(shift_sigma(k / CELLS, SHIFT)) for k in range(CELLS + 1)]
    return Scattered(parts=tuple(Band(low=edges[c], high=edges[c + 1], shift=SHIFT) for c in own))


def equal(count: int) -> dict[str, Levels]:
    """Experts on bands of equal probability, noisiest first."""
    names = ("high", "low") if count == 2 else tuple(f"e{k}" for k in range(count))
    return dict(zip(names, bands(Handoff(equal_bounds(count, SHIFT)), SHIFT), strict=True))


def at(u: float) -> dict[str, Levels]:
    """A pair whose handoff lies at u of the density, before the shift."""
    return dict(zip(("high", "low"), bands(Handoff((float(shift_sigma(u, SHIFT)),)), SHIFT), strict=True))


def runs(size: Size) -> tuple[Run, ...]:
    """Everything that is trained for one seed, in an order in which a trunk comes before what branches from it."""
    t = size.steps
    first, second = cells()
    halves = {"a": scattered(first), "b": scattered(second)}
    quarter, third, half, fifth = t * 2 // 8, t // 3, t * 4 // 8, t // 5
    curve = tuple(t * k // 8 for k in range(1, 9))
    return (
        Run(name="one", levels={"all": whole(SHIFT)}, steps=5 * t, marks=(*curve, 2 * t, 3 * t, 5 * t)),
        Run(name="two", levels=equal(2), steps=t, marks=curve),
        Run(name="random", levels=halves, steps=t, marks=(half, t)),
        Run(name="branch", levels=equal(2), steps=half, marks=(quarter, half), trunk=("one", "all", half)),
        Run(name="big", levels={"all": whole(SHIFT)}, steps=t, marks=(half, t), big=True),
        Run(name="three", levels=equal(3), steps=t, marks=(third, t)),
        Run(name="five", levels=equal(5), steps=t, marks=(fifth, t)),
        Run(name="two-at-0.25", levels=at(0.25), steps=t, marks=(half, t), extra=True),
        Run(name="two-at-0.75", levels=at(0.75), steps=t, marks=(half, t), extra=True),
    )


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The headings under which arms are compared."""

    equal_total: str = "A: equal total steps T"
    equal_each: str = "B: T steps per expert"
    four: str = "the reference's four curves"
    swap: str = "who denoises which half"
    cut: str = "where the pair is cut"


GROUPS = Groups()


def set_of(run: str, size: Size, mark: int) -> tuple[tuple[Part, ...], tuple[float, ...]]:
    """All experts of a run at a mark, and its bounds."""
    made = next(r for r in runs(size) if r.name == run)
    parts = tuple(Part(run=run, expert=name, mark=mark) for name in made.levels)
    if run == "random":
        first, _ = cells()
        owners = [parts[0] if c in first else parts[1] for c in reversed(range(CELLS))]
        return tuple(owners), equal_bounds(CELLS, SHIFT)
    if run.startswith("two-at-"):
        return parts, (float(shift_sigma(float(run.removeprefix("two-at-")), SHIFT)),)
    return parts, equal_bounds(len(parts), SHIFT)


def arms(size: Size) -> tuple[Arm, ...]:
    """Everything that is compared."""
    t = size.steps
    quarter, third, half, fifth = t * 2 // 8, t // 3, t * 4 // 8, t // 5

    def arm(group: str, name: str, run: str, mark: int, budget: float, *, extra: bool = False) -> Arm:
        parts, bounds = set_of(run, size, mark)
        return Arm(name=name, group=group, parts=parts, bounds=bounds, budget=budget, extra=extra)

    dense, high, low = (Part(run=r, expert=e, mark=t) for r, e in (("one", "all"), ("two", "high"), ("two", "low")))
    bound = equal_bounds(2, SHIFT)

    def pair(group: str, name: str, first: Part, second: Part) -> Arm:
        return Arm(name=name, group=group, parts=(first, second), bounds=bound, budget=2)

    a, b = GROUPS.equal_total, GROUPS.equal_each
    return (
        arm(a, "one", "one", t, 1),
        arm(a, "two", "two", half, 1),
        arm(a, "three", "three", third, 1),
        arm(a, "five", "five", fifth, 1),
        arm(a, "two, random levels", "random", half, 1),
        arm(a, "two, branched", "branch", quarter, 1),
        arm(a, "one of the pair's size", "big", t, 1),
        arm(b, "one, T", "one", t, 1),
        arm(b, "one, 2T", "one", 2 * t, 2),
        arm(b, "one, 3T", "one", 3 * t, 3),
        arm(b, "one, 5T", "one", 5 * t, 5),
        arm(b, "two", "two", t, 2),
        arm(b, "three", "three", t, 3),
        arm(b, "five", "five", t, 5),
        arm(b, "two, random levels", "random", t, 2),
        arm(b, "two, branched", "branch", half, 1.5),
        arm(GROUPS.four, "dense", "one", t, 1),
        pair(GROUPS.four, "dense + new high", high, dense),
        pair(GROUPS.four, "dense + new low", dense, low),
        pair(GROUPS.four, "new pair", high, low),
        pair(GROUPS.swap, "high, low", high, low),
        pair(GROUPS.swap, "high, high", high, high),
        pair(GROUPS.swap, "low, low", low, low),
        pair(GROUPS.swap, "low, high", low, high),
        *(
            arm(GROUPS.cut, f"cut at u = {u}, {word}", f"two-at-{u}", mark, budget, extra=True)
            for u in (0.25, 0.75)
            for word, mark, budget in (("T in all", half, 1), ("T each", t, 2))
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is sampled once and serves every arm that is made of it."""

    parts: tuple[Part, ...]
    bounds: tuple[float, ...]
    extra: bool = field(default=False)

    @property
    def key(self) -> str:
        """What its file is called."""
        names = list(dict.fromkeys(part.key for part in self.parts))
        return "+".join(names) if len(self.parts) != 2 else "+".join(part.key for part in self.parts)


def samples(size: Size) -> tuple[Sample, ...]:
    """Every different set of experts among the arms."""
    found = {s.key: s for s in (Sample(parts=a.parts, bounds=a.bounds, extra=a.extra) for a in reversed(arms(size)))}
    return tuple(reversed(found.values()))
