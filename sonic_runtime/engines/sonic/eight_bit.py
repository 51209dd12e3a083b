"""Weights kept in 8 bits (float8 e4m3, Micikevicius et al., 2022), with a scale for each output channel.

They take half the memory of half precision and are widened layer by layer when they are needed: the arithmetic stays
what it was, the weights lose all but three bits of their mantissa.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sonic_runtime.engines.sonic.unet import TemporalConv

_TYPE = torch.float8_e4m3fn
_LEAST_CHANNELS = 16  # layers in and out of latents are small, and everything goes through them


class EightBit(nn.Module):
    """What a layer becomes. Its weight is there while it is looked at."""

    narrow: Tensor
    scale: Tensor  # [outputs, 1, ...]

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            return self.narrow.to(self.scale.dtype) * self.scale
        return super().__getattr__(name)


class _Linear(EightBit, nn.Linear):
    pass


class _Conv2d(EightBit, nn.Conv2d):
    pass


class _TemporalConv(EightBit, TemporalConv):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv2d,
    TemporalConv: _TemporalConv,
}


def shrink(network: nn.Module) -> None:
    """Keep the weights of the layers and convolutions of a network in 8 bits from now on; it is not loaded after."""
    for module in network.modules():
        kind = _KINDS.get(type(module))
        if kind is None:
            continue
        weight = module.get_parameter("weight")
        if min(weight.shape[:2]) < _LEAST_CHANNELS:
            continue
        wide = weight.detach().float()
        scale = wide.abs().amax(tuple(range(1, wide.ndim)), keepdim=True).clamp_min(1e-12) / torch.finfo(_TYPE).max
        del module.weight
        module.__class__ = kind
        module.register_buffer("narrow", (wide / scale).to(_TYPE))
        module.register_buffer("scale", scale.to(weight.dtype))
