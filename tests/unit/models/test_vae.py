"""What both autoencoders of Wan do by themselves: their weights, chunks, causality, streams, memory, errors."""

import hashlib
import re
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pasdedeux.models.vae import VAEConfig, WanVAE
from pasdedeux.models.vae22 import VAE22Config, WanVAE22
from pasdedeux.models.vae_layers import FeatureCache, RMSNorm

FINGERPRINT = "6d12bd5199d9dcd5b316dbc98c72a68be03e0ac320eb14a4ccd3b5a7bac04ca8"
# The digests by which DiffSynth-Studio recognises the released files: md5 of all names, and all names with shapes.
PUBLISHED = {WanVAE: "ccc42284ea13e1ad04693284c7a09be6", WanVAE22: "e1de6c02cdac79f8b739f4d3698cd216"}
SIZES: dict[str, Any] = {
    "dim": 4,
    "latent_channels": 3,
    "res_blocks": 1,
    "latent_mean": (0.5, -0.25, 1.0),
    "latent_std": (2.0, 0.5, 1.5),
}
TINY = {
    WanVAE: VAEConfig(**SIZES, multipliers=(1, 2, 2, 4)),
    WanVAE22: VAE22Config(**SIZES, multipliers=(1, 2, 4, 4), decoder_dim=4),
}
VAE = WanVAE | WanVAE22


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(params=TINY, ids=["2.1", "2.2"])
def vae(request: pytest.FixtureRequest) -> VAE:
    torch.manual_seed(0)
    return request.param(TINY[request.param])


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def video_of(vae: VAE, frames: int, rows: int = 2, columns: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise [batch, 3, frames, H, W] that has `rows` and `columns` of latents."""
    return noise(batch, 3, frames, vae.stride[1] * rows, vae.stride[2] * columns, seed=seed)


def shapes(kind: type[VAE]) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(weight.shape) for name, weight in kind().state_dict().items()}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_names_and_shapes_give_the_published_digest(kind: type[VAE]):
    table = shapes(kind)
    lines = [f"{key}:{'_'.join(map(str, shape))}" for key, shape in table.items()]
    assert hashlib.md5(",".join(sorted([*table, *lines])).encode()).hexdigest() == PUBLISHED[kind]


def test_the_default_is_wan_2_1():
    table = shapes(WanVAE)
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in table.items()))
    assert len(table) == 194
    assert sum(torch.Size(shape).numel() for shape in table.values()) == 126_892_531
    assert hashlib.sha256(lines.encode()).hexdigest() == FINGERPRINT


@pytest.mark.parametrize(("kind", "name"), [(WanVAE, "wan2.1-vae.native"), (WanVAE22, "wan2.2-vae.native")])
def test_names_and_shapes_are_those_released(kind, name, listed):
    assert {key: tuple(shape) for key, shape in shapes(kind).items()} == listed(name)


def test_the_default_is_wan_2_2():
    with torch.device("meta"):
        vae = WanVAE22()
    assert len(vae.state_dict()) == 196
    assert sum(weight.numel() for weight in vae.parameters()) == 704_688_668
    assert (vae.stride, vae.channels) == ((4, 16, 16), 48)
    assert sum(vae.config.latent_mean) == pytest.approx(-0.5589, abs=1e-6)
    assert sum(vae.config.latent_std) == pytest.approx(32.536, abs=1e-6)


def test_stride_and_channels():
    with torch.device("meta"):
        assert (WanVAE().stride, WanVAE().channels) == ((4, 8, 8), 16)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3)])
def test_shapes_there_and_back(vae: VAE, frames: int, latents: int):
    video = video_of(vae, frames, 2, 3, batch=2)
    latent = vae.encode(video)
    assert latent.shape == (2, 3, latents, 2, 3)
    assert vae.decode(latent).shape == video.shape


def test_decoded_pixels_are_clamped(vae: VAE):
    vae.get_parameter("decoder.head.2.bias").fill_(3.0)
    assert vae.decode(noise(1, 3, 2, 2, 2)).eq(1).all()


def test_latents_are_normalised_per_channel(vae: VAE):
    """With statistics 0 and 1 the same weights give mu + sigma * latent."""
    kind: Any = type(vae)
    plain = kind(replace(vae.config, latent_mean=(0.0,) * 3, latent_std=(1.0,) * 3))
    plain.load_state_dict(vae.state_dict())
    video = video_of(vae, 5)
    mu, sigma = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (SIZES["latent_mean"], SIZES["latent_std"]))
    torch.testing.assert_close(vae.encode(video) * sigma + mu, plain.encode(video))
    ours, theirs = vae.decode(vae.encode(video)), plain.decode(plain.encode(video))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # rounding, grown in the decoder


def test_results_have_the_dtype_of_the_input_whatever_the_weights(vae: VAE):
    video = video_of(vae, 5)
    wide = vae.encode(video)
    narrow = vae.to(torch.bfloat16).encode(video)
    assert narrow.dtype == torch.float32
    assert vae.decode(narrow.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(narrow, wide, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("frame", [1, 4, 5, 8, 12])
def test_a_frame_changes_no_earlier_latent(vae: VAE, frame: int):
    video = video_of(vae, 13)
    other = video.clone()
    other[:, :, frame] = -other[:, :, frame]
    changed = (vae.encode(video) != vae.encode(other)).flatten(3).any(-1).any(1)[0]
    own = (frame + 3) // 4
    assert not changed[:own].any()
    assert changed[own:].all()


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_latent_changes_no_earlier_frame(vae: VAE, index: int):
    latent = noise(1, 3, 4, 2, 2)
    other = latent.clone()
    other[:, :, index] += 1
    changed = (vae.decode(latent) != vae.decode(other)).flatten(3).any(-1).any(1)[0]
    own = 4 * index - 3 if index else 0
    assert not changed[:own].any()
    assert changed[own:].all()


def test_chunks_joined_are_the_video(vae: VAE):
    latent = noise(1, 3, 4, 2, 2)
    chunks = list(vae.decode_frames(latent))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4]
    assert torch.equal(torch.cat(chunks, dim=2), vae.decode(latent))


def test_decoding_streams_may_interleave(vae: VAE):
    first, second = noise(1, 3, 4, 2, 3), noise(2, 3, 4, 3, 2, seed=2)
    pairs = list(zip(vae.decode_frames(first), vae.decode_frames(second), strict=True))
    for chunks, latent in zip(zip(*pairs, strict=True), (first, second), strict=True):
        assert torch.equal(torch.cat(chunks, dim=2), vae.decode(latent))


def test_encoding_streams_may_interleave_and_resume(vae: VAE):
    first, second = video_of(vae, 9, 2, 1), video_of(vae, 9, 2, 1, seed=2)
    caches = FeatureCache(), FeatureCache()
    latents: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start, stop in ((0, 1), (1, 5), (5, 9)):
        for video, cache, found in zip((first, second), caches, latents, strict=True):
            found.append(vae.encode_chunk(video[:, :, start:stop], cache))
    assert torch.equal(torch.cat(latents[0], dim=2), vae.encode(first))
    assert torch.equal(torch.cat(latents[1], dim=2), vae.encode(second))


def test_nothing_is_left_on_the_module(vae: VAE):
    before = {name: set(vars(module)) for name, module in vae.named_modules()}
    vae.decode(vae.encode(video_of(vae, 5)))
    assert {name: set(vars(module)) for name, module in vae.named_modules()} == before


def test_decoding_compiles_to_one_graph_for_the_first_frame_and_one_for_the_rest(vae: VAE):
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    step = torch.compile(vae.decode_chunk, backend=count, fullgraph=True)
    cache, latent = FeatureCache(), noise(1, 3, 4, 2, 2)
    chunks = [step(frame.clone(), cache) for frame in latent.split(1, dim=2)]
    torch.testing.assert_close(torch.cat(chunks, dim=2), vae.decode(latent))
    assert len(graphs) == 2


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside it and still alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.holders: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        where, size = storage._cdata, storage.nbytes()
        if where not in self.holders:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[where] = self.holders.get(where, 0) + 1
        weakref.finalize(tensor, self._forget, where, size)

    def _forget(self, where: int, size: int) -> None:
        self.holders[where] -= 1
        if not self.holders[where]:
            del self.holders[where]
            self.now -= size


def peak_of_decoding(vae: VAE, latents: int) -> int:
    latent = noise(1, 3, latents, 4, 4)
    with LiveBytes() as live:
        for _ in vae.decode_frames(latent):
            pass
    return live.peak - latent.nbytes  # its frames are views of it


def test_memory_of_streaming_does_not_grow_with_the_video(vae: VAE):
    """9, 33 and 65 frames: to keep one chunk more would show."""
    peaks = {peak_of_decoding(vae, latents) for latents in (3, 9, 17)}
    assert len(peaks) == 1
    frame = 3 * (4 * vae.stride[1]) ** 2 * 4
    assert peaks.pop() > 4 * frame  # the counter counts


def test_the_cache_stops_growing(vae: VAE):
    cache, sizes = FeatureCache(), []
    for frame in noise(1, 3, 4, 2, 2).split(1, dim=2):
        vae.decode_chunk(frame, cache)
        sizes.append(cache.nbytes)
    assert len(set(sizes)) == 1
    assert len(cache) == sum(type(module).__name__ == "CausalConv3d" for module in vae.decoder.modules())


def test_the_cache_owns_what_it_keeps(vae: VAE):
    """A view would keep the whole chunk alive that it was cut from."""
    cache = FeatureCache()
    vae.decode_chunk(noise(1, 3, 1, 2, 2), cache)
    kept = [frames for module in vae.modules() if (frames := cache.take(module)) is not None]
    assert kept
    assert all(frames.untyped_storage().nbytes() == frames.nbytes for frames in kept)
    assert len(cache) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norm_makes_root_mean_square_gamma_and_leaves_black_black(dtype: torch.dtype):
    norm = RMSNorm(16, pixel_axes=3).to(dtype)
    norm.gamma.fill_(3)
    x = (noise(1, 16, 2, 3, 4) * 100).to(dtype)
    x[..., 0] = 0
    rms = norm(x).double().square().mean(1).sqrt()
    assert rms[..., 0].eq(0).all()
    torch.testing.assert_close(rms[..., 1:], torch.full_like(rms[..., 1:], 3), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("frames", "rows", "columns", "words"),
    [
        (4, 2, 2, "4 frames"),
        (0, 2, 2, "0 frames"),
        (5, 2.5, 2, "{width}x{height}"),
        (5, 2, 0.5, "{width}x{height}"),
        (5, 0, 2, "{width}x0"),
    ],
)
def test_videos_of_sizes_that_do_not_fit(vae: VAE, frames: int, rows: float, columns: float, words: str):
    """Of as many rows and columns of latents."""
    height, width = int(vae.stride[1] * rows), int(vae.stride[2] * columns)
    with pytest.raises(ValueError, match=words.format(width=width, height=height)):
        vae.encode(torch.zeros(1, 3, frames, height, width))


@pytest.mark.parametrize("shape", [(1, 4, 5, 16, 16), (3, 5, 16, 16)])
def test_tensors_that_are_no_videos(vae: VAE, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=re.escape(str(list(shape)))):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 16, 2, 2, 2), (1, 3, 0, 2, 2), (3, 2, 2, 2)])
def test_latents_that_do_not_fit(vae: VAE, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Latents must be \[batch, 3,"):
        vae.decode_frames(torch.zeros(shape))


def test_chunks_that_do_not_fit(vae: VAE):
    cache = FeatureCache()
    with pytest.raises(ValueError, match="must have 1 frames, not 4"):
        vae.encode_chunk(video_of(vae, 4, 1, 1), cache)
    vae.encode_chunk(video_of(vae, 1, 1, 1), cache)
    with pytest.raises(ValueError, match="must have 4 frames, not 1"):
        vae.encode_chunk(video_of(vae, 1, 1, 1), cache)
    with pytest.raises(ValueError, match="one latent frame at a time, not 2"):
        vae.decode_chunk(noise(1, 3, 2, 1, 1), FeatureCache())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temporal": (True,)}, "temporal names 1"),
        ({"latent_channels": 4}, "latent_mean has (16|48)"),
        ({"latent_std": (1.0,)}, "latent_std has 1 "),
    ],
)
@pytest.mark.parametrize("kind", [VAEConfig, VAE22Config])
def test_configs_that_do_not_fit(kind: type[VAEConfig], wrong: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        kind(**wrong)
