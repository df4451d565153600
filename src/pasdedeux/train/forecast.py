"""What a training step will need of memory, counted without any: the model is walked through on the meta device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pasdedeux.models.codec import CodecConfig
from pasdedeux.models.duet import PLANES, REFERENCE, DuetConfig, DuetInputs, DuetTransformer
from pasdedeux.train.batches import Batch
from pasdedeux.train.loop import TrainConfig
from pasdedeux.train.losses import expert_loss

FLOAT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Bytes of one expert in training. `kept` is what has to stay somewhere while the expert waits."""

    parameters: int
    compute: int
    """The model that computes, and its gradients."""
    kept: int
    """Float32 weights, their average, and two moments."""
    gradients: int
    activations: int

    @property
    def active(self) -> int:
        """On the device while the expert trains."""
        return self.compute + self.kept + self.gradients + self.activations


def step_memory(model: DuetConfig, codec: CodecConfig, run: TrainConfig, size: int) -> StepMemory:
    """Bytes for batches of clips of `size` pixels (or the run's window of them)."""
    dtype = getattr(torch, run.dtype)
    with torch.device("meta"):
        network = DuetTransformer(model).to(dtype)
        data = meta_batch(model, codec, run, size, dtype)
        sigma, noise = torch.empty(run.batch), torch.empty(data.clean.shape)
    count = sum(p.numel() for p in network.parameters())
    return StepMemory(
        parameters=count,
        compute=2 * count * dtype.itemsize,
        kept=4 * count * FLOAT,
        gradients=count * FLOAT,
        activations=saved_bytes(network, data, sigma, noise),
    )


def meta_batch(model: DuetConfig, codec: CodecConfig, run: TrainConfig, size: int, dtype: torch.dtype) -> Batch:
    """A batch of the right shapes, of no values."""
    t, y, x = codec.stride
    width = min(run.window or size, size)
    shape = (1 + (run.frames - 1) // t, size // y, width // x)
    inputs = DuetInputs(
        planes=torch.empty(run.batch, PLANES, run.frames, size, width, dtype=dtype),
        reference=torch.empty(run.batch, REFERENCE, size, width, dtype=dtype),
        base=torch.empty(run.batch, model.channels, *shape, dtype=dtype),
        known=torch.empty(run.batch, 1, shape[0], 1, 1, dtype=dtype),
        region=torch.empty(run.batch, *shape, dtype=torch.long),
    )
    clean = torch.empty(run.batch, model.channels, *shape)
    return Batch(inputs=inputs, clean=clean, weight=torch.empty(run.batch, 1, *shape))


def saved_bytes(network: DuetTransformer, data: Batch, sigma: Tensor, noise: Tensor) -> int:
    """What the forward pass keeps for the backward one: every storage once, weights left out."""
    weights = {p.untyped_storage()._cdata for p in network.parameters()}  # pyright: ignore[reportPrivateUsage]
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # pyright: ignore[reportPrivateUsage]
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = expert_loss(network, data, sigma, noise)
    del loss
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def in_bytes(count: float) -> str:
    """ "0.42 GB", "31 MB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
