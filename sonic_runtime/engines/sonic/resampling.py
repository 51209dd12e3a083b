"""Sound at any rate -> what Whisper hears."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray


def to_16k_mono(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The mean of the channels of [channels, n], band-limited to 16 kHz: [m]."""
    resampled: NDArray[np.float32] = soxr.resample(samples.mean(axis=0), rate_hz, 16_000, quality="HQ")
    return resampled
