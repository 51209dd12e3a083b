"""The network: dilated residual convolutions over log-mel frames, small enough for any box."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sonic_runtime.mouth import spectrum
from training.mouth.phones import CURVES

WIDTH = 112
DILATIONS = (1, 2, 4, 8, 1, 2, 4, 8)
REACH_FRAMES = 2 + sum(DILATIONS)  # to either side of a frame


class Block(nn.Module):
    """A residual block: convolution of 3 frames, then a mixing of channels."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.heard = nn.Conv1d(WIDTH, WIDTH, 3, dilation=dilation, padding=dilation)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.mixed = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float [batch, WIDTH, frames] to the same."""
        return x + self.mixed(nn.functional.relu(self.norm(self.heard(x))))


class MouthNet(nn.Module):
    """Normalised log-mel, float [batch, frames, 40], to curves from 0 to 1, [batch, frames, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(spectrum.BANDS, WIDTH, 5, padding=2)
        self.blocks = nn.Sequential(*(Block(dilation) for dilation in DILATIONS))
        self.out = nn.Conv1d(WIDTH, len(CURVES), 1)

    def logits(self, mel: torch.Tensor) -> torch.Tensor:
        """Before the sigmoid, [batch, frames, 7]."""
        hidden = torch.relu(self.into(mel.transpose(1, 2)))
        out: torch.Tensor = self.out(torch.relu(self.blocks(hidden))).transpose(1, 2)
        return out

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.logits(mel))


def export(net: MouthNet, path: Path) -> None:
    """Write the network as ONNX with any number of frames, for `sonic_runtime.mouth`."""
    net.eval()
    torch.onnx.export(
        net,
        (torch.zeros(1, 200, spectrum.BANDS),),
        str(path),
        input_names=["mel"],
        output_names=["curves"],
        dynamic_axes={"mel": {1: "frames"}, "curves": {1: "frames"}},
        opset_version=17,
        dynamo=False,
    )
