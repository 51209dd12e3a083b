"""What the network said of each frame, to be taken again in later steps: less work, and not exact.

Windows move from step to step, so what is kept is kept by frame.

- Guidance: what the two rows without audio differ by from the one with it changes slowly. It is computed in one of
  `guidance_every` calls, and the one row is computed in all.
- Steps: at high noise the network says nearly the same from step to step. A prediction is taken again until the noise
  level has fallen by `step_cache` (natural logarithm) since.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Shortcuts:
    """Of one clip. With `guidance_every` 1 and `step_cache` 0 nothing is kept."""

    def __init__(self, guidance_every: int, step_cache: float, latents: Tensor) -> None:
        """`latents` [frames, 4, height, width], for the shape."""
        self._every, self._step_cache = guidance_every, step_cache
        frames = len(latents)
        self._velocity = torch.empty_like(latents if step_cache else latents[:0])
        self._log_sigma = torch.full((frames,), math.inf)  # at which the velocity was predicted
        self._guidance = latents.new_empty(2, *(latents if guidance_every > 1 else latents[:0]).shape)
        self._computed = torch.full((frames,), -guidance_every)  # at which of the steps that call the network
        self._step, self._sigma = -1, math.inf  # the last such step

    def has_velocity(self, numbers: Tensor, sigma: float) -> bool:
        """Whether one is kept that will do, for every one of the frames; if not, the network is to be called."""
        if bool((self._log_sigma[numbers] - math.log(sigma) < self._step_cache).all()):
            return True
        if sigma < self._sigma:
            self._step, self._sigma = self._step + 1, sigma
        return False

    def velocity(self, frames: Tensor) -> Tensor:
        """Predictions kept, [n, 4, height, width]."""
        return self._velocity[frames]

    def keep_velocity(self, numbers: Tensor, frames: Tensor, velocity: Tensor) -> None:
        """What the network said in this step."""
        if self._step_cache:
            self._velocity[frames] = velocity
            self._log_sigma[numbers] = math.log(self._sigma)

    def has_guidance(self, numbers: Tensor) -> bool:
        """Whether one is kept that will do, for every one of the frames."""
        return bool((self._step - self._computed[numbers] < self._every).all())

    def guidance(self, frames: Tensor) -> Tensor:
        """What the rows without picture and audio, and without audio, differ by: [2, n, 4, height, width]."""
        return self._guidance[:, frames]

    def keep_guidance(self, numbers: Tensor, frames: Tensor, differences: Tensor) -> None:
        """What the rows differed by in this step."""
        if self._every > 1:
            self._guidance[:, frames] = differences
            self._computed[numbers] = self._step
