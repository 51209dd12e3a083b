"""What the network said of each frame, to be taken again in later steps: less work, and not exact.

Windows move from step to step, so what is kept is kept by frame.

- Steps: under very strong noise little is decided yet, under very weak noise nothing is any more. There a prediction is
  taken again, so that one step in `step_cache` calls the network. What that costs, step by step and against other
  ways to choose the steps, is in docs/diffusion-speed.md.
- Guidance: what the two rows without audio differ by from the one with it is computed in one of `guidance_every` steps
  that call the network; in the others only the one row is.
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
        frames = len(latents)
        self._velocity = torch.empty_like(latents if step_cache > 1 else latents[:0])
        self._guidance = latents.new_empty(2, *(latents if guidance_every > 1 else latents[:0]).shape)
        self._said_in = torch.full((frames,), _NEVER)  # the step of a frame's velocity
        self._guided_in = torch.full((frames,), _NEVER)  # the step of its guidance, of those that call the network
        self._step, self._calling_step = -1, 0
        self._may_repeat, self._called = False, False

    def begin_step(self, sigma: float) -> None:
        """Before the windows of a step, at its noise level."""
        self._step += 1
        self._calling_step += self._called
        self._may_repeat, self._called = not WEAK_SIGMA < sigma < STRONG_SIGMA, False

    def has_velocity(self, numbers: Tensor) -> bool:
        """Whether one is kept that will do, for every one of the frames."""
        return self._may_repeat and bool((self._step - self._said_in[numbers] < self._step_cache).all())

    def velocity(self, frames: Tensor) -> Tensor:
        """Predictions kept, [n, 4, height, width]."""
        return self._velocity[frames]

    def keep_velocity(self, numbers: Tensor, frames: Tensor, velocity: Tensor) -> None:
        """What the network said in this step."""
        self._called = True
        if self._step_cache > 1:
            self._velocity[frames] = velocity
            self._said_in[numbers] = self._step

    def has_guidance(self, numbers: Tensor) -> bool:
        """Whether one is kept that will do, for every one of the frames."""
        return bool((self._calling_step - self._guided_in[numbers] < self._guidance_every).all())

    def guidance(self, frames: Tensor) -> Tensor:
        """What the rows without picture and audio, and without audio, differ by: [2, n, 4, height, width]."""
        return self._guidance[:, frames]

    def keep_guidance(self, numbers: Tensor, frames: Tensor, differences: Tensor) -> None:
        """What the rows differed by in this step."""
        if self._guidance_every > 1:
            self._guidance[:, frames] = differences
            self._guided_in[numbers] = self._calling_step
