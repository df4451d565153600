"""Text to video: nothing is given but words."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pasdedeux.animate.condition.wan import Bytes, Prompts, VideoVAE, conditions, decode, latent_shape
from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.perform import SegmentCondition


@dataclass(frozen=True, kw_only=True, slots=True)
class TextStage:
    """A clip of `frames` pictures of (width, height) from text; the `Stage` of `animate.perform`."""

    vae: VideoVAE
    frames: int
    size: tuple[int, int]
    prompts: Prompts

    def condition(self, index: list[int], handed: Bytes | None) -> SegmentCondition:
        """The prompts. Raises InputError for a second segment: these models have no place for what is already there."""
        if handed is not None or index[0] > 0:
            raise InputError(
                f"A text-to-video model cannot go on from frame {index[0]}: a clip of {self.frames} frames must be one "
                "segment of at least that length."
            )
        return conditions(latent_shape(self.vae, len(index), self.size), self.prompts)

    def decode(self, latent: Tensor, what: SegmentCondition | None = None) -> Iterator[Bytes]:
        """Frames of a latent."""
        return decode(self.vae, latent)
