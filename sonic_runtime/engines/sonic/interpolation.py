"""Frames between frames: RIFE's IFNet, HDv3 (Huang et al., ECCV 2022), which doubles the frame rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

MULTIPLE_PX = 16  # of both sides
_SCALES = (4, 2, 1)

Interpolate = Callable[[Tensor, Tensor], Tensor]
"""From pictures and others to those between them; all [n, 3, height, width], 0 to 1, sides multiples of 16."""


class _Block(nn.Module):
    """Refines flow and mask at one scale; the names of the parameters are those of `flownet.pkl`."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(inputs, channels // 2, 2), _conv(channels // 2, channels, 2))
        for number in range(4):
            self.add_module(f"convblock{number}", nn.Sequential(_conv(channels, channels), _conv(channels, channels)))
        self.conv1 = _upscale(channels, 4)
        self.conv2 = _upscale(channels, 1)

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Changes of the flow [n, 4, height, width] and of the mask's logits [n, 1, height, width], both in pixels."""
        height, width = seen.shape[-2:]
        small, whole = (height // scale, width // scale), (height, width)
        seen = _resized(seen, small)
        flow = _resized(flow, small) / scale
        features = self.conv0(torch.cat((seen, flow), 1))
        for number in range(4):
            features = features + self.get_submodule(f"convblock{number}")(features)
        return _resized(self.conv1(features), whole) * scale, _resized(self.conv2(features), whole)


class FrameInterpolator(nn.Module):
    """The frame in the middle between two."""

    def __init__(self, channels: int = 90) -> None:
        super().__init__()
        self.block0 = _Block(11, channels)
        self.block1 = _Block(11, channels)
        self.block2 = _Block(11, channels)
        self.block_tea = _Block(14, channels)  # a teacher for training; in the checkpoint, not used here

    @classmethod
    def build(cls, state: Mapping[str, Tensor]) -> FrameInterpolator:
        """From `flownet.pkl`, of which only the keys that begin with `module.` count."""
        state = {key.removeprefix("module."): value for key, value in state.items() if key.startswith("module.")}
        net = cls(state["block0.convblock0.0.0.weight"].shape[0])
        net.load_state_dict(state)
        return net.float().eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """From two pictures to the one between them; all [n, 3, height, width], 0 to 1, sides multiples of 16."""
        return self.flow(first, second)[2].clamp(0, 1)

    def flow(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flows to both pictures [n, 4, height, width] in pixels, the weight of the first [n, 1, height, width], 0 to
        1, and the middle picture before it is clamped."""
        size = first.shape[-2:]
        flow = first.new_zeros(first.shape[0], 4, *size)
        mask = first.new_zeros(first.shape[0], 1, *size)
        warped = (first, second)
        for block, scale in zip((self.block0, self.block1, self.block2), _SCALES, strict=True):
            flow_step, mask_step = block(torch.cat((*warped, mask), 1), flow, scale)
            swapped = flow[:, (2, 3, 0, 1)]  # the same seen backwards, so that neither picture is preferred
            flow_back, mask_back = block(torch.cat((warped[1], warped[0], -mask), 1), swapped, scale)
            flow = flow + (flow_step + flow_back[:, (2, 3, 0, 1)]) / 2
            mask = mask + (mask_step - mask_back) / 2
            warped = (_warp(first, flow[:, :2]), _warp(second, flow[:, 2:]))
        share = torch.sigmoid(mask)
        return flow, share, warped[0] * share + warped[1] * (1 - share)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


def _upscale(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1),
        nn.PReLU(channels // 2),
        nn.ConvTranspose2d(channels // 2, outputs, 4, 2, 1),
    )


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(image, size, mode="bilinear", align_corners=False)


def _warp(image: Tensor, flow: Tensor) -> Tensor:
    """Each pixel from where the flow [n, 2, height, width] points; x first, in pixels."""
    height, width = image.shape[-2:]
    # Not linspace, whose number of steps an export would take for a constant.
    columns = torch.arange(width, device=image.device, dtype=image.dtype)
    rows = torch.arange(height, device=image.device, dtype=image.dtype)[:, None]
    x = (columns + flow[:, 0]) / ((width - 1) / 2) - 1
    y = (rows + flow[:, 1]) / ((height - 1) / 2) - 1
    return functional.grid_sample(
        image, torch.stack((x, y), -1), mode="bilinear", padding_mode="border", align_corners=True
    )
