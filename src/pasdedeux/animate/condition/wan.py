"""What the Wan families share: a segment's inputs, the denoiser made of a transformer, pixels into latents and back.

A family's own file (`wan_text.py`, `wan_image.py`, `wan_vace.py`, `wan_control.py`, `wan_animate.py`) says what its
transformer is given; the walk from noise to latent is the same for all of them.

Shapes: B is 1; C channels, F frames, h and w height and width of latents; T frames, H and W of pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from pasdedeux.animate.perform import SegmentCondition

Bytes = NDArray[np.uint8]


class VideoVAE(Protocol):
    """A video autoencoder as `models.vae` and `models.vae22` have it."""

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels per latent."""
        ...

    @property
    def channels(self) -> int:
        """Latent channels."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """[B 3 1+4k H W] in [-1, 1] to normalised latents [B C 1+k h w]."""
        ...

    def decode_frames(self, latent: Tensor) -> Iterator[Tensor]:
        """Latents to pixels [B 3 n H W] in [-1, 1], piece by piece."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Embedded text [1, n, text_dim]: what is wanted, and what to steer away from (None: no guidance is possible)."""

    wanted: Tensor
    unwanted: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, weakref_slot=True)
class WanInputs:
    """What a transformer is given for a segment, the same at every step.

    prepare: arguments of its `prepare`, beside the grid; channels [1, C', F, h, w]: put behind those of x; known
    [1, C, k, h, w]: clean latents which the first k frames hold at every step, at timestep 0.
    """

    prepare: Mapping[str, Any]
    channels: Tensor | None = None
    known: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WanDenoiser:
    """A Wan transformer as a denoiser (denoise.Denoiser): the velocity of x at sigma, on the device of x.

    What `prepare` makes depends on the expert's own weights, so each expert prepares for itself, at its first step of
    a segment. It is kept as long as the segment's inputs are, or until `forget`: in a pair, the next expert's turn.
    """

    net: nn.Module
    _prepared: WeakKeyDictionary[WanInputs, Any] = field(default_factory=WeakKeyDictionary)

    def __call__(self, x: Tensor, sigma: Tensor, cond: WanInputs, /) -> Tensor:
        """x [1, C, F, h, w], sigma [1] -> velocity, float32, shaped as x. The timestep is 1000 sigma, not rounded."""
        latent, t = self._given(x, sigma, cond)
        return self.net(latent, t, self._ready(cond, latent)).to(x.device)

    def together(self, x: Tensor, sigma: Tensor, conds: Sequence[WanInputs], /) -> list[Tensor]:
        """The same under several conditions, which differ in nothing but what is prepared, block by block for all.

        It takes one more stream of tokens per condition than one after the other, and each block's weights once.
        """
        latent, t = self._given(x, sigma, conds[0])
        ready = [self._ready(cond, latent) for cond in conds]
        return [velocity.to(x.device) for velocity in self.net.forward_each(latent, t, ready)]  # type: ignore[operator]

    def forget(self) -> None:
        """Let go of what was prepared."""
        self._prepared.clear()

    def _given(self, x: Tensor, sigma: Tensor, cond: WanInputs) -> tuple[Tensor, Tensor]:
        """The latent and the timesteps as the transformer takes them, on its device."""
        place = next(self.net.parameters()).device
        latent, t = x.to(place), 1000 * sigma.to(place)
        if cond.known is not None:
            latent = with_start(latent, cond.known)
            t = self._clean_start(t, latent, cond.known.shape[2])
        if cond.channels is not None:
            latent = torch.cat((latent, cond.channels.to(latent)), dim=1)
        return latent, t

    def _ready(self, cond: WanInputs, latent: Tensor) -> Any:
        if cond not in self._prepared:
            arguments = {k: v.to(latent.device) if isinstance(v, Tensor) else v for k, v in cond.prepare.items()}
            self._prepared[cond] = self.net.prepare(**arguments, grid=tuple(latent.shape[2:]))  # type: ignore[operator]
        return self._prepared[cond]

    def _clean_start(self, t: Tensor, latent: Tensor, frames: int) -> Tensor:
        """A timestep for every token [1, L]: 0 for those of the first `frames`."""
        f, h, w = self.net.token_grid(tuple(latent.shape[2:]))  # type: ignore[operator]
        levels = t[:, None].expand(len(t), f * h * w).clone()
        levels[:, : frames * h * w] = 0
        return levels


def conditions(
    shape: tuple[int, ...],
    prompts: Prompts,
    *,
    prepare: Mapping[str, Any] = MappingProxyType({}),
    channels: Tensor | None = None,
    known: Tensor | None = None,
) -> SegmentCondition:
    """A segment conditioned twice on the same things: with the wanted text, and with the unwanted if there is one."""

    def inputs(text: Tensor) -> WanInputs:
        return WanInputs(prepare={"text": text, **prepare}, channels=channels, known=known)

    uncond = None if prompts.unwanted is None else inputs(prompts.unwanted)
    return SegmentCondition(shape=shape, cond=inputs(prompts.wanted), uncond=uncond)


def with_start(latent: Tensor, known: Tensor) -> Tensor:
    """`latent` [1, C, F, h, w] with `known` [1, C, k, h, w] in the place of its first k frames."""
    return torch.cat((known.to(latent), latent[:, :, known.shape[2] :]), dim=2)


def to_video(frames: Bytes) -> Tensor:
    """uint8 [T, H, W, 3] to float32 [1, 3, T, H, W] in [-1, 1]."""
    return rearrange(torch.from_numpy(frames).float() / 127.5 - 1, "T H W c -> 1 c T H W")


def to_bytes(video: Tensor) -> Bytes:
    """[1, 3, n, H, W] in [-1, 1] to uint8 [n, H, W, 3], rounded to the nearest."""
    levels = ((video.float() + 1) * 127.5).round().clamp(0, 255)
    return rearrange(levels, "1 c n H W -> n H W c").to("cpu", torch.uint8).numpy()


def encode(vae: VideoVAE, frames: Tensor) -> Tensor:
    """Pixels [1, 3, T, H, W] to latents, float32 on the CPU, computed where the autoencoder lies."""
    place = next(vae.parameters()).device if isinstance(vae, nn.Module) else torch.device("cpu")
    with torch.no_grad():
        return vae.encode(frames.to(place)).float().cpu()


def decode(vae: VideoVAE, latent: Tensor) -> Iterator[Bytes]:
    """Latents [1, C, F, h, w] to frames uint8 [n, H, W, 3], as they are ready."""
    place = next(vae.parameters()).device if isinstance(vae, nn.Module) else torch.device("cpu")
    with torch.no_grad():
        chunks = vae.decode_frames(latent.float().to(place))
    while True:
        with torch.no_grad():  # entered anew for each chunk, so that it does not leak to whoever takes them
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield to_bytes(chunk)


def latent_shape(vae: VideoVAE, frames: int, size: tuple[int, int]) -> tuple[int, int, int, int, int]:
    """[1, C, F, h, w] of `frames` (1 + 4k) pictures of (width, height). Raises ValueError where they do not divide."""
    time, rows, columns = vae.stride
    width, height = size
    if (frames - 1) % time or height % rows or width % columns:
        raise ValueError(
            f"{frames} frames of {width}x{height} do not fit: frames must be 1 plus a multiple of {time}, the width a "
            f"multiple of {columns}, the height of {rows}."
        )
    return 1, vae.channels, 1 + (frames - 1) // time, height // rows, width // columns


def known_frames_mask(frames: int, known: int, height: int, width: int, last: int | None = None) -> Tensor:
    """[1, 4, F, h, w]: which of each latent frame's four pictures are given (1) and which are to be made (0).

    The first `known` of `frames` (1 + 4k) pictures are given, and the one numbered `last`. The first latent frame
    holds one picture, counted four times: Wan's image-to-video models were trained so.
    """
    mask = torch.zeros(frames)
    mask[:known] = 1
    if last is not None:
        mask[last] = 1
    mask = torch.cat((mask[:1].repeat(4), mask[1:]))
    return rearrange(mask, "(F t) -> 1 t F 1 1", t=4).expand(-1, -1, -1, height, width).contiguous()
