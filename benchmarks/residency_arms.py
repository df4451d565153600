"""The arms of residency.py on a device, and the rates of the machine that they are held against.

An arm takes the bench, the job and the seconds of a resident step (0 where none has run), and gives what it did.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from residency_parts import Job, Ran, bare_pair, denoised, nets_of, spread, wait
from torch import Tensor
from true_size import timed

from pasdedeux.checkpoints.tensors import Weights
from pasdedeux.models.wan import WanConfig
from pasdedeux.models.wan.spans import spans
from pasdedeux.residency.arithmetic import (
    Network,
    activation_bytes,
    context_bytes,
    cross_attention_flop,
    linear_flop,
    self_attention_flop,
    stream_bytes,
)
from pasdedeux.residency.budget import CONTEXT, GAPS
from pasdedeux.residency.plan import least_budget, place_bytes, plan
from pasdedeux.residency.pool import HostBuffer
from pasdedeux.residency.simulate import Timeline, fastest, simulate
from pasdedeux.residency.sources import HostSource
from pasdedeux.residency.stream import Streamed, Streamer
from pasdedeux.residency.units import TRUNK, Unit, Use

REPEATS = 5  # of what is timed for a rate
LINK = 700_000_000  # bytes copied to measure the link


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """What all sizes share: weights in host memory, bytes of units, bytes per second of the link, and limits.

    cap: bytes of the card that is imitated; ends: when, on the clock, no arm begins any more.
    """

    config: WanConfig
    weights: Sequence[Weights]
    source: HostSource
    sizes: Mapping[Unit, int]
    link: float
    device: str
    cap: int
    ends: float

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.startswith("cuda")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Done:
    """One run of an arm. held: bytes of the places of weights; peak, used: bytes on a GPU; simulated: s per step."""

    ran: Ran
    held: int
    moved: int = 0
    waited: float = 0.0
    simulated: float | None = None
    peak: int = 0
    used: int = 0


def network(job: Job) -> Network:
    """The sizes that arithmetic works with."""
    config, values = job.config, math.prod(job.config.patch)
    return Network(
        dim=config.dim,
        hidden=config.ffn_dim,
        layers=config.layers,
        head=config.head_dim,
        text=config.text_len,
        inputs=config.in_dim * values,
        outputs=config.out_dim * values,
    )


def working_bytes(job: Job) -> int:
    """Predicted bytes beside the weights: contexts and streams of every pass, activations, latents."""
    net, tokens, passes = network(job), math.prod(job.grid), 2 if job.guided else 1
    streams = (passes - 1) * stream_bytes(net, job.grid)
    latents = 4 * tokens * (net.inputs + 2 * net.outputs)
    return passes * context_bytes(net, job.grid) + streams + latents + activation_bytes(net, job.grid)


def units_to(bench: Bench, number: int, buffers: Mapping[int, Tensor]) -> None:
    """An expert's units, from host memory into buffers by index; waits for the last."""
    for index, buffer in buffers.items():
        held = bench.source.held(Unit(number, index))
        assert held is not None
        buffer.copy_(held, non_blocking=True)
    wait(bench.device)


def buffers_of(bench: Bench, number: int) -> dict[int, Tensor]:
    """A place on the device for every unit of an expert, by index."""
    units = {unit: size for unit, size in bench.sizes.items() if unit.model == number}
    return {unit.index: torch.empty(size, dtype=torch.uint8, device=bench.device) for unit, size in units.items()}


def bind(bench: Bench, model: Streamed, number: int, buffers: Mapping[int, Tensor]) -> None:
    """The expert's tensors become views of the buffers."""
    found = dict[str, Tensor]()
    for index, buffer in buffers.items():
        prefix = "" if index == TRUNK else f"blocks.{index}."
        views = bench.source.layout(Unit(number, index)).views(buffer)
        found |= {prefix + name: view for name, view in views.items()}
    model.module.load_state_dict(found, assign=True)


def both_fit(bench: Bench, job: Job) -> bool:
    """Whether the device holds both experts beside the work."""
    needed = CONTEXT + sum(bench.sizes.values()) + working_bytes(job)
    return not bench.cuda or needed < (1 - GAPS) * torch.cuda.mem_get_info()[1]


def resident(bench: Bench, job: Job, step: float) -> Done:
    """Both experts on the device; where they do not fit, the arm is `swapped`."""
    if not both_fit(bench, job):
        return swapped(bench, job, step)
    models, _units = bare_pair(bench.config, bench.weights)
    for number, model in enumerate(models):
        buffers = buffers_of(bench, number)
        units_to(bench, number, buffers)
        bind(bench, model, number, buffers)
    return Done(ran=denoised(job, nets_of(models)), held=sum(bench.sizes.values()))


def swapped(bench: Bench, job: Job, step: float) -> Done:
    """One place for a whole expert, filled when its turn has come."""
    models, _units = bare_pair(bench.config, bench.weights)
    buffers = buffers_of(bench, 0)
    for number, model in enumerate(models):
        bind(bench, model, number, buffers)
    fills = [partial(units_to, bench, number, buffers) for number in range(len(models))]
    held = sum(buffer.numel() for buffer in buffers.values())
    return Done(ran=denoised(job, nets_of(models), fills), held=held, moved=len(models) * held)


def streamed(bench: Bench, job: Job, made: Timeline, cap: int | None) -> Done:
    """A plan carried out, the allocator held to `cap` bytes."""
    models, _units = bare_pair(bench.config, bench.weights)
    with capped(bench, cap), Streamer(models, bench.source, made.plan, bench.device) as streamer:
        ran = denoised(job, nets_of(models))
    return Done(
        ran=ran,
        held=sum(place_bytes(made.plan, bench.sizes)),
        moved=streamer.moved,
        waited=streamer.waited,
        simulated=median(s for i, s in enumerate(made.steps) if i not in (0, job.steps)),
    )


@contextmanager
def capped(bench: Bench, cap: int | None) -> Iterator[None]:
    """Torch's allocator may take no more of the GPU than `cap` bytes less what CUDA takes for itself."""
    if not bench.cuda or cap is None:
        yield
        return
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min((cap - CONTEXT) / whole, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def clocks(bench: Bench, job: Job, step: float) -> tuple[Callable[[Unit], float], Callable[[Use], float]]:
    """Seconds of a unit's copy, and of a use with all its passes."""
    return (lambda unit: bench.sizes[unit] / bench.link), (lambda use: step / job.config.layers)


def least(bench: Bench, job: Job, step: float) -> Done:
    """Two places and both trunks."""
    budget = least_budget(job.uses, bench.sizes, all_trunks=True)
    return streamed(bench, job, simulate(plan(job.uses, bench.sizes, budget), *clocks(bench, job, step)), bench.cap)


def cap_budget(bench: Bench, job: Job) -> int:
    """Bytes of weights that the imitated card has room for; on a processor those of half the blocks."""
    if bench.cuda:
        return int((1 - GAPS) * bench.cap) - CONTEXT - working_bytes(job)
    return least_budget(job.uses, bench.sizes, all_trunks=True) + bench.config.layers // 2 * bench.sizes[Unit(0, 0)]


def cap(bench: Bench, job: Job, step: float) -> Done:
    """As many places as the cap has room for, fewest loads."""
    made = simulate(plan(job.uses, bench.sizes, cap_budget(bench, job)), *clocks(bench, job, step))
    return streamed(bench, job, made, bench.cap)


def spaced(bench: Bench, job: Job, step: float) -> Done:
    """The same places, and of two plans the one that the simulator says takes less time."""
    made = fastest(job.uses, bench.sizes, cap_budget(bench, job), *clocks(bench, job, step))
    return streamed(bench, job, made, bench.cap)


ARMS: dict[str, tuple[str, Callable[[Bench, Job, float], Done]]] = {
    "resident": ("resident", resident),
    "least": ("streamed, 2 places", least),
    "cap": ("streamed, places up to the cap", cap),
    "spread": ("streamed, the same, the faster plan", spaced),
    "swapped": ("swapped at the handoff", swapped),
}


# Rates of the machine, measured in the same process.


def seconds_of(work: Callable[[], object], device: str) -> float:
    """The median of several calls, after one that is not counted."""
    work()
    wait(device)
    return median(timed(lambda: (work(), wait(device))) for _ in range(REPEATS))


def link_rate(device: str) -> float:
    """Bytes per second from pinned memory to the device; on a processor, from memory to memory and a tenth of it."""
    nbytes = LINK if device.startswith("cuda") else LINK // 10
    host = HostBuffer(nbytes, pinned=device.startswith("cuda"))
    place = torch.empty(nbytes, dtype=torch.uint8, device=device)
    rate = nbytes / seconds_of(lambda: place.copy_(host.tensor, non_blocking=True), device)
    host.free()
    return rate


def product_rate(config: WanConfig, rows: int, device: str) -> float:
    """Operations per second of a block's linear layers over `rows` tokens in bfloat16: six of [d, d], two of [d, h]."""
    d, h = config.dim, config.ffn_dim
    x, y = (torch.randn(rows, width, device=device, dtype=torch.bfloat16) for width in (d, h))
    square, up, down = (torch.randn(*s, device=device, dtype=torch.bfloat16) / 64 for s in ((d, d), (h, d), (d, h)))

    def layers() -> None:
        for _ in range(6):
            F.linear(x, square)
        F.linear(x, up)
        F.linear(y, down)

    return 2.0 * rows * (6 * d * d + 2 * d * h) / seconds_of(layers, device)


def attention_rate(config: WanConfig, rows: int, tokens: int, device: str) -> float:
    """The same of the attention of `rows` queries over all tokens, laid out as the model has them."""
    heads, width = config.heads, config.head_dim
    q = torch.randn(1, rows, heads, width, device=device, dtype=torch.bfloat16).transpose(1, 2)
    both = torch.randn(1, tokens, 2, heads, width, device=device, dtype=torch.bfloat16)
    k, v = both.transpose(1, 3).unbind(2)
    seconds = seconds_of(lambda: F.scaled_dot_product_attention(q, k, v), device)
    return 4.0 * rows * tokens * config.dim / seconds


def rates(job: Job) -> dict[str, tuple[float, float]]:
    """Products and attention: over the rows of a span, as the model calls them, and over all tokens at once."""
    tokens, device = math.prod(job.grid), job.device
    span = spans(tokens)[0].stop
    return {
        "matrix products": (product_rate(job.config, span, device), product_rate(job.config, tokens, device)),
        "attention": (
            attention_rate(job.config, span, tokens, device),
            attention_rate(job.config, tokens, tokens, device),
        ),
    }


def allowed_seconds(job: Job, found: Mapping[str, tuple[float, float]]) -> float:
    """What a step would take if all its products and attentions ran at the better of the measured rates."""
    net, tokens, passes = network(job), math.prod(job.grid), 2 if job.guided else 1
    attention = self_attention_flop(net, tokens) + cross_attention_flop(net, tokens)
    return passes * (linear_flop(net, tokens) / max(found["matrix products"]) + attention / max(found["attention"]))


def offloaded(bench: Bench, job: Job) -> str:
    """diffusers' group offload of one expert, two steps after a warm-up: a sentence."""
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers' group offload: not measured, diffusers is not installed."
    if not bench.cuda:
        return "diffusers' group offload: not measured, it streams to a GPU only."
    model = other_model(bench)
    model.enable_group_offload(
        onload_device=torch.device(bench.device), offload_type="block_level", num_blocks_per_group=1, use_stream=True
    )
    torch.cuda.reset_peak_memory_stats()
    seconds = [timed(lambda: other_forward(model, job)) for _ in range(3)][1:]
    peak = torch.cuda.max_memory_allocated() / 1e9
    return f"diffusers' group offload, one expert: {spread(seconds)} s per step, peak allocated {peak:.2f} GB."


def other_model(bench: Bench) -> Any:
    """diffusers' transformer of the same shapes with random weights in host memory."""
    from diffusers import WanTransformer3DModel

    config, pool = bench.config, bench.weights[0]["time_projection.1.weight"].read().flatten()
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            in_channels=config.in_dim,
            out_channels=config.out_dim,
            text_dim=config.text_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.layers,
        )
    # Its angles are buffers that no file holds.
    model.rope = type(model.rope)(config.head_dim, config.patch, 1024)
    values = {name: pool[: t.numel()].view(t.shape).clone() for name, t in model.state_dict().items()}
    model.load_state_dict(values, assign=True)
    return model.eval().requires_grad_(False)


def other_forward(model: Any, job: Job) -> Tensor:
    """Its velocity of the job's noise."""
    t = torch.tensor([900.0], device=job.device)
    with torch.no_grad():
        found = model(job.x.bfloat16(), timestep=t, encoder_hidden_states=job.texts[0].bfloat16(), return_dict=False)[0]
    wait(job.device)
    return found
