"""What a model folder holds, read from its manifest and the headers of its files: no weights are loaded."""

from dataclasses import dataclass
from pathlib import Path

from pasdedeux.checkpoints.folder import CODEC_FILE, Manifest, read_manifest
from pasdedeux.checkpoints.load import check, on_meta, shapes
from pasdedeux.denoise import Handoff, log_snr
from pasdedeux.engine.model import count, model_folder
from pasdedeux.models.codec import PatchCodec
from pasdedeux.models.duet import DuetTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedExpert:
    """One expert. `sigmas` and `log_snrs` are its band's ends, (low, high); log-SNR is infinite at 0 and 1."""

    name: str
    sigmas: tuple[float, float]
    log_snrs: tuple[float, float]
    guidance: float
    parameters: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A model folder whose files were found to fit its manifest; experts are noisiest first."""

    manifest: Manifest
    experts: tuple[DescribedExpert, ...]
    codec_parameters: int
    codec_bytes: int

    @property
    def total_parameters(self) -> int:
        """Parameters of all experts together."""
        return sum(expert.parameters for expert in self.experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that run in one step: those of the largest expert."""
        return max(expert.parameters for expert in self.experts)


def describe(name: str) -> Description:
    """Describe "builtin" or a folder. Raises ValueError if a file is missing or does not fit."""
    folder = model_folder(name)
    manifest = read_manifest(folder)
    codec = on_meta(lambda: PatchCodec(manifest.codec))
    path = folder / CODEC_FILE
    check(codec, shapes(path), path)
    return Description(
        manifest=manifest,
        experts=described_experts(folder, manifest),
        codec_parameters=count(codec),
        codec_bytes=path.stat().st_size,
    )


def described_experts(folder: Path, manifest: Manifest) -> tuple[DescribedExpert, ...]:
    """Every expert of the manifest, its file checked."""
    handoff, net = Handoff(manifest.bounds), on_meta(lambda: DuetTransformer(manifest.model))
    described: list[DescribedExpert] = []
    for k, expert in enumerate(manifest.experts):
        path = folder / expert.file
        check(net, shapes(path), path)
        low, high = handoff.band(k)
        one = DescribedExpert(
            name=expert.name,
            sigmas=(low, high),
            log_snrs=(log_snr(high), log_snr(low)),
            guidance=expert.guidance,
            parameters=count(net),
            bytes=path.stat().st_size,
        )
        described.append(one)
    return tuple(described)
