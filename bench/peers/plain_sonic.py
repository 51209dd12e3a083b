"""Sonic's UNet written the plain way, to be beaten: as the published code computes it, in stock diffusers, eagerly.

The context is repeated for each pixel before the temporal layers project it, keys and values are computed in every
call, the one picture token goes through a softmax, the mask is scaled in every layer, and nothing is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Context:
    """What the cross attentions look at in a call."""

    picture: Tensor = field(default_factory=lambda: torch.empty(0))  # [batch, frames, 1, channels]
    audio: Tensor = field(default_factory=lambda: torch.empty(0))  # [batch, frames, tokens, channels]
    mask: Tensor | None = None  # [1, 1, height, width] in pixels


class PlainCrossAttention(nn.Module):
    """Processor of a cross attention; the parameters have the published names."""

    def __init__(self, context: Context, channels: int, context_channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.to_k_ip = nn.ModuleList([nn.Linear(context_channels, channels, bias=False)])
        self.to_v_ip = nn.ModuleList([nn.Linear(context_channels, channels, bias=False)])
        self.temporal = temporal
        self.context = context

    def forward(self, attention: Attention, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """[batch * frames, pixels, channels], in the temporal ones [batch * pixels, frames, channels]."""
        picture, audio = (
            self._tokens(self.context.picture, hidden_states),
            self._tokens(self.context.audio, hidden_states),
        )
        query = attention.to_q(hidden_states)

        def attended(key: Tensor, value: Tensor) -> Tensor:
            heads = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (query, key, value))
            return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

        seen = attended(attention.to_k(picture), attention.to_v(picture))
        heard = attended(self.to_k_ip[0](audio), self.to_v_ip[0](audio))
        if not self.temporal and self.context.mask is not None:
            heard = heard * self._mask(heard.shape[1]).to(heard.dtype)
        out: Tensor = attention.to_out[0](seen + heard)
        return out

    def _tokens(self, tokens: Tensor, hidden_states: Tensor) -> Tensor:
        if not self.temporal:
            return tokens.flatten(0, 1)
        pixels = len(hidden_states) // len(tokens)
        return tokens.mean(1)[:, None].repeat(1, pixels, 1, 1).flatten(0, 1)

    def _mask(self, pixels: int) -> Tensor:
        assert self.context.mask is not None
        height, width = (side // 8 for side in self.context.mask.shape[-2:])
        while height * width > pixels:
            height, width = height // 2, width // 2
        return functional.interpolate(self.context.mask, (height, width), mode="bicubic").reshape(-1, 1)


class PlainUNet(UNetSpatioTemporalConditionModel):
    """Takes the same checkpoint as SonicUNet."""

    context: Context

    @classmethod
    def build(cls, config: dict[str, Any]) -> PlainUNet:
        unet: PlainUNet = cls.from_config({**config})
        unet.context = Context()
        for name, module in unet.named_modules():
            if isinstance(module, Attention) and name.endswith("attn2"):
                temporal = "temporal_transformer_blocks" in name
                channels = module.to_k.in_features
                module.set_processor(PlainCrossAttention(unet.context, module.inner_dim, channels, temporal=temporal))
        return unet

    def call(self, sample: Tensor, timestep: Tensor, time_ids: Tensor) -> Tensor:
        """What SonicUNet.denoise answers, for the context that was set."""
        unused = sample.new_zeros(sample.shape[0], 1, 1)
        predicted: Tensor = self(sample, timestep, unused, time_ids, return_dict=False)[0]
        return predicted
