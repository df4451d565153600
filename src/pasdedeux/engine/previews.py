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
    """Collects the noise after the first step; the estimates of that step, of both sides of a handoff, of the last.

    Latents are kept until the clip is made: to decode them between steps would take memory that is the experts' then.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._kept: dict[tuple[int, bool], tuple[Step, Tensor]] = {}
        self._before: Step | None = None
        self._taken: tuple[Preview, ...] = ()

    def look(self, event: Denoised) -> None:
        """Keep this step's estimate if it is one to show."""
        if not self._wanted or event.segment != 0:
            return
        step = event.step
        if step.i == 0 and step.sigma_next > 0:
            self._kept[0, True] = (step, middle(step.x))
        if step.handoff and self._before is not None:
            self._keep(self._before)
        if step.i == 0 or step.handoff or step.i == step.of - 1:
            self._keep(step)
        self._before = step

    def develop(self, stage: Stage) -> None:
        """Decode what was kept."""
        self._taken = tuple(
            Preview(
                i=i,
                sigma=step.sigma_next if noisy else step.sigma,
                expert=step.expert,
                frame=list(stage.decode(latent))[-1][-1],
                noisy=noisy,
            )
            for (i, noisy), (step, latent) in sorted(self._kept.items(), key=lambda item: (not item[0][1], item[0][0]))
        )
        self._kept.clear()

    def taken(self) -> tuple[Preview, ...]:
        """The previews in the order of steps, once they are developed."""
        return self._taken

    def _keep(self, step: Step) -> None:
        self._kept[step.i, False] = (step, middle(step.x0))


def middle(latent: Tensor) -> Tensor:
    """What the middle latent frame of [1, C, F, h, w] is decoded from: a causal decoder needs the one before it too."""
    at = latent.shape[2] // 2
    return latent[:, :, max(at - 1, 0) : at + 1].clone()
