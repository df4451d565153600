"""What the picture looked like on its way: the first segment's noise and x_0 estimates, decoded to one frame each."""

from dataclasses import dataclass

from torch import Tensor

from pasdedeux.animate.perform import Bytes, Denoised, Stage
from pasdedeux.denoise import Step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Preview:
    """The clean picture [H, W, 3] that step `i` predicted at noise level sigma, and by which expert.

    Where `noisy`, the latents as that step left them, and the noise level that was left.
    """

    i: int
    sigma: float
    expert: str
    frame: Bytes
    noisy: bool = False


class Previews:
    """Collects the noise after the first step; the estimates of that step, of both sides of a handoff, of the last."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._noise: tuple[Preview, ...] = ()
        self._by_step: dict[int, Preview] = {}
        self._before: Step | None = None

    def look(self, event: Denoised, stage: Stage) -> None:
        """Keep this step's estimate if it is one to show."""
        if not self._wanted or event.segment != 0:
            return
        step = event.step
        if step.i == 0 and step.sigma_next > 0:
            left = {"i": 0, "sigma": step.sigma_next, "expert": step.expert, "noisy": True}
            self._noise = (Preview(frame=middle_frame(step.x, stage), **left),)
        if step.handoff and self._before is not None:
            self._take(self._before, stage)
        if step.i == 0 or step.handoff or step.i == step.of - 1:
            self._take(step, stage)
        self._before = step

    def taken(self) -> tuple[Preview, ...]:
        """The previews in the order of steps."""
        return self._noise + tuple(self._by_step[i] for i in sorted(self._by_step))

    def _take(self, step: Step, stage: Stage) -> None:
        frame = middle_frame(step.x0, stage)
        self._by_step[step.i] = Preview(i=step.i, sigma=step.sigma, expert=step.expert, frame=frame)


def middle_frame(latent: Tensor, stage: Stage) -> Bytes:
    """The last frame of the middle latent frame of [1, C, F, h, w]."""
    # A causal decoder needs the latent frame before it, and no more.
    middle = latent.shape[2] // 2
    chunks = list(stage.decode(latent[:, :, max(middle - 1, 0) : middle + 1]))
    return chunks[-1][-1]
