"""Time-aware position shift (Sonic, section 3.3): long clips in windows that move on from step to step.

Each denoising step cuts the clip into windows of the network's length. As they start somewhere else in every step, and
wrap around the clip's end, no frame lies at a border for long, and the windows need no blending.
"""

from __future__ import annotations

import torch
from torch import Tensor


def of_step(step: int, frames: int, length: int, overlap: int, shift: int) -> list[Tensor]:
    """The frame numbers of each window of a step, each int64 [length]; a clip shorter than that repeats its frames."""
    starts = range(-step * shift, frames - step * shift, length - overlap)
    return [(start + torch.arange(length)) % frames for start in starts]


def count(frames: int, length: int, overlap: int) -> int:
    """Windows of a step."""
    return -(-frames // (length - overlap))
