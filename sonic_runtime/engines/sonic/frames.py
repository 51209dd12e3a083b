"""From the decoder's pictures to frames for the encoder, at the rate that was asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_KR, _KB = 0.2126, 0.0722  # BT.709
_LUMA = (_KR, 1 - _KR - _KB, _KB)


def to_yuv420p(rgb: Tensor) -> NDArray[np.uint8]:
    """A picture [3, height, width], 0 to 1, sides even -> planar yuv420p, uint8 [height * 3 // 2, width], BT.709
    limited range; chroma is the mean of four pixels."""
    weights = rgb.new_tensor(_LUMA)
    luma = torch.tensordot(weights, rgb, 1)
    blue = (rgb[2] - luma) / (2 * (1 - _KB))
    red = (rgb[0] - luma) / (2 * (1 - _KR))
    chroma = functional.avg_pool2d(torch.stack((blue, red))[None], 2)[0]
    planes = torch.cat(((luma * 219 + 16).flatten(), (chroma * 224 + 128).flatten()))
    frame = planes.round().clamp(0, 255).to(torch.uint8).reshape(-1, rgb.shape[-1])
    return frame.cpu().numpy()


def at_rate(frames: Iterator[Tensor], made_hz: float, wanted_hz: float, count: int) -> Iterator[Tensor]:
    """`count` frames at wanted_hz out of those made at made_hz: for each the one nearest in time, the last one on and
    on where there are no more."""
    number, frame = 0, next(frames)
    for wanted in range(count):
        nearest = int(wanted / wanted_hz * made_hz + 0.5)
        while number < nearest:
            following = next(frames, None)
            if following is None:
                break
            number, frame = number + 1, following
        yield frame
