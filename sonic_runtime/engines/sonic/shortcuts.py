"""What the network said of each frame, to be taken again in later steps: less work, and not exact.

Windows move from step to step, so what is kept is kept by frame.

- Steps: under very strong noise little is decided yet, under very weak noise nothing is any more. There a prediction is
  taken again, so that one step in `step_cache` calls the network. What that costs, step by step and against other
  ways to choose the steps, is in docs/diffusion-speed.md.
- Guidance: what the two rows without audio differ by from the one with it is computed in one of `guidance_every` steps
  that call the network; in the others only the one row is.

A clip that is gone on with later, or elsewhere, takes what is kept with it, so that it comes out as if it had never
been left.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRONG_SIGMA, WEAK_SIGMA = 50.0, 0.03  # beyond these a step may go by what was said before
_NEVER = -1_000_000


class Shortcuts:
    """Of one clip. With 1 and 1 nothing is kept."""

    def __init__(self, guidance_every: int, step_cache: int, latents: Tensor) -> None:
        """`latents` [frames, 4, height, width], for the shape."""
        self._guidance_every, self._step_cache = guidance_every, step_cache
        frames, *rest = latents.shape
        self._velocity = latents.new_zeros(frames if step_cache > 1 else 0, *rest)
        self._guidance = latents.new_zeros(2, frames if guidance_every > 1 else 0, *rest)
        self._said_in = torch.full((frames,), _NEVER)  # the step of a frame's velocity
        self._guided_in = torch.full((frames,), _NEVER)  # of its guidance: how many steps had called the network before
        self._called = torch.tensor([0, _NEVER])  # how many steps have called the network, and the last of them
        self._step, self._may_repeat = 0, False

    @property
    def kept(self) -> dict[str, Tensor]:
        """All that later steps go by, to be copied, or to be written over before the first step here."""
        parts: dict[str, Tensor] = {}
        if self._step_cache > 1:
            parts |= {"velocity": self._velocity, "said_in": self._said_in}
        if self._guidance_every > 1:
            parts |= {"guidance": self._guidance, "guided_in": self._guided_in}
        return parts | {"called": self._called} if parts else {}

    def could_be_of(self, step: int) -> bool:
        """Whether what is kept can have come from the steps before this one's end."""
        steps, last = self._called.tolist()
        return (
            0 <= steps <= step + 1
            and (last == _NEVER if steps == 0 else steps - 1 <= last <= step)
            and _within(self._said_in, last)
            and _within(self._guided_in, steps - 1)
        )

    def begin_step(self, step: int, sigma: float) -> None:
        """Before the windows of a step, or those that are left of it, at its noise level."""
        self._step, self._may_repeat = step, not WEAK_SIGMA < sigma < STRONG_SIGMA

    def has_velocity(self, numbers: Tensor) -> bool:
        """Whether one is kept that will do, for every one of the frames."""
        return self._may_repeat and bool((self._step - self._said_in[numbers] < self._step_cache).all())

    def velocity(self, frames: Tensor) -> Tensor:
        """Predictions kept, [n, 4, height, width]."""
        return self._velocity[frames]

    def keep_velocity(self, numbers: Tensor, frames: Tensor, velocity: Tensor) -> None:
        """What the network said in this step."""
        self._called = torch.tensor([self._called_before + 1, self._step])
        if self._step_cache > 1:
            self._velocity[frames] = velocity
            self._said_in[numbers] = self._step

    def has_guidance(self, numbers: Tensor) -> bool:
        """Whether one is kept that will do, for every one of the frames."""
        return bool((self._called_before - self._guided_in[numbers] < self._guidance_every).all())

    def guidance(self, frames: Tensor) -> Tensor:
        """What the rows without picture and audio, and without audio, differ by: [2, n, 4, height, width]."""
        return self._guidance[:, frames]

    def keep_guidance(self, numbers: Tensor, frames: Tensor, differences: Tensor) -> None:
        """What the rows differed by in this step."""
        if self._guidance_every > 1:
            self._guidance[:, frames] = differences
            self._guided_in[numbers] = self._called_before

    @property
    def _called_before(self) -> int:
        """How many steps before this one have called the network."""
        steps, last = self._called.tolist()
        return int(steps - (last == self._step))


def _within(steps: Tensor, last: int) -> bool:
    """Whether each is one from 0 to the last, or none."""
    return bool(((steps == _NEVER) | (steps >= 0) & (steps <= last)).all())
