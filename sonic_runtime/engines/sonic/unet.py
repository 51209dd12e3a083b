"""The denoising network of Sonic (Ji et al., CVPR 2025): that of Stable Video Diffusion, which also hears.

Every cross attention (spatial and temporal, 32 of them) has a second branch that attends to the audio tokens of the
frame; the face mask weighs it in the spatial ones. What the branches need of a frame does not depend on the noise, so
it is projected beforehand (`SonicUNet.project`) and bound before a call (`SonicUNet.bind`), instead of being computed
for each step, and for each pixel in the temporal ones. All of it is exact:

- one picture token makes the softmax of the first branch 1: its output is that token's value;
- every pixel of the temporal attention sees the same keys: they stay one copy, and the pixels become queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 4  # of the network, each half the size of the one before


@dataclass(frozen=True)
class Heard:
    """What one cross attention needs of some frames; the shapes before `channels` are those of the frames."""

    picture: Tensor  # [..., channels]: the value of the picture's token
    key: Tensor  # [..., tokens, channels], of the audio tokens
    value: Tensor  # [..., tokens, channels]

    def at(self, frames: Tensor) -> Heard:
        """Those of the frames whose numbers are given, [n]."""
        return Heard(self.picture[frames], self.key[frames], self.value[frames])

    @staticmethod
    def rows(rows: list[Heard], frames: int) -> Heard:
        """Several as one with a new first dimension, each of `frames` frames; what is one frame stands for all."""

        def stacked(parts: list[Tensor]) -> Tensor:
            return torch.stack([part.expand(frames, *part.shape[1:]) for part in parts])

        return Heard(
            stacked([row.picture for row in rows]),
            stacked([row.key for row in rows]),
            stacked([row.value for row in rows]),
        )


class AudioCrossAttention(nn.Module):
    """Processor of a cross attention: its own branch, and the one that hears.

    The names of the parameters are those of the published checkpoint (`to_k_ip.0.weight`, `to_v_ip.0.weight`).
    """

    def __init__(self, channels: int, context_channels: int, *, temporal: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.to_k_ip = nn.ModuleList([nn.Linear(context_channels, channels, bias=False)])
        self.to_v_ip = nn.ModuleList([nn.Linear(context_channels, channels, bias=False)])
        self.temporal = temporal
        self.scale = scale
        self.masks: dict[int, Tensor] = {}  # by the number of pixels of a level, each [pixels, 1]
        self._bound: dict[str, Tensor] = {}

    def project(self, attention: Attention, picture: Tensor, audio: Tensor) -> Heard:
        """`picture` [..., 1, context_channels] and `audio` [..., tokens, context_channels], once per clip."""
        return Heard(attention.to_v(picture)[..., 0, :], self.to_k_ip[0](audio), self.to_v_ip[0](audio))

    def bind(self, heard: Heard) -> None:
        """Take what the next calls need, [batch, frames, ...]. Shapes that stay keep their memory: graphs may hold.

        The scale goes into the values, so that a compiled network need not know it.
        """
        value = heard.value if self.scale == 1 else heard.value * self.scale
        for name, part in (("picture", heard.picture), ("key", heard.key), ("value", value)):
            part = part.mean(1) if self.temporal else part.flatten(0, 1)
            kept = self._bound.get(name)
            if kept is not None and (kept.shape, kept.dtype, kept.device) == (part.shape, part.dtype, part.device):
                kept.copy_(part)
            else:
                self._bound[name] = part.contiguous()

    def forward(self, attention: Attention, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """`hidden_states` [batch * frames, pixels, channels], in the temporal ones [batch * pixels, frames, channels].

        The encoder states that diffusers hands over are not looked at.
        """
        shape, channels = hidden_states.shape, hidden_states.shape[-1]
        key, value = self._bound["key"], self._bound["value"]
        # The temporal ones have a key for all pixels of a batch: pixels and frames are queries alike.
        query = attention.to_q(hidden_states).reshape(key.shape[0], -1, channels)
        heard = functional.scaled_dot_product_attention(
            *(part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (query, key, value))
        )
        heard = heard.transpose(1, 2).flatten(2)
        if not self.temporal and self.masks:
            heard = heard * self.masks[heard.shape[1]]
        mixed = self._bound["picture"][:, None] + heard
        out: Tensor = attention.to_out[0](mixed.reshape(shape))
        return out


class TemporalConv(nn.Conv3d):
    """A convolution over frames, kernel (3, 1, 1), computed as one in two dimensions: frames by pixels.

    That is the kind that GPUs are fast at, and where channels come last it needs no copy.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, channels, frames, height, width], to the same shape."""
        height, width = hidden_states.shape[3:]
        flat = functional.conv2d(hidden_states.flatten(3), self.weight.flatten(3), self.bias, padding=(1, 0))
        convolved: Tensor = flat.reshape(*flat.shape[:3], height, width)
        return convolved

    @classmethod
    def take_over(cls, network: nn.Module) -> None:
        """Let all convolutions over frames of a network be computed this way; parameters and their names stay."""
        for module in network.modules():
            if isinstance(module, nn.Conv3d) and (module.kernel_size, module.padding) == ((3, 1, 1), (1, 0, 0)):
                module.__class__ = cls


class SonicUNet(UNetSpatioTemporalConditionModel):
    """UNetSpatioTemporalConditionModel with the audio branches; a published `unet.pth` loads strictly.

    Call `bind_mask` once and `bind` before each `denoise`.
    """

    @classmethod
    def build(cls, config: Mapping[str, Any], audio_scale: float = 1.0) -> SonicUNet:
        """From the configuration of SVD's UNet (`unet/config.json`); `audio_scale` weighs what is heard."""
        unet: SonicUNet = cls.from_config({**config})
        unet.listen(audio_scale)
        TemporalConv.take_over(unet)
        return unet

    def listen(self, audio_scale: float) -> None:
        """Put the audio branches in."""
        context = self.config.cross_attention_dim
        context_channels = context if isinstance(context, int) else context[0]
        for name, attention in self.cross_attentions():
            temporal = "temporal_transformer_blocks" in name
            attention.set_processor(
                AudioCrossAttention(attention.inner_dim, context_channels, temporal=temporal, scale=audio_scale)
            )

    def cross_attentions(self) -> Iterator[tuple[str, Attention]]:
        """Every cross attention with its path, in a fixed order."""
        return (
            (name, module)
            for name, module in self.named_modules()
            if isinstance(module, Attention) and name.endswith("attn2")
        )

    def project(self, picture: Tensor, audio: Tensor) -> list[Heard]:
        """What the cross attentions need of frames: `picture` [..., 1, context], `audio` [..., tokens, context]."""
        return [module.processor.project(module, picture, audio) for _, module in self.cross_attentions()]

    def bind(self, heard: Iterable[Heard]) -> None:
        """Before a call: one of `heard` for each cross attention, [batch, frames, ...]."""
        for (_, attention), frames in zip(self.cross_attentions(), heard, strict=True):
            attention.processor.bind(frames)

    def set_audio_scale(self, scale: float) -> None:
        """Weigh what is bound from now on in all cross attentions; 1 is what was published."""
        for _, attention in self.cross_attentions():
            attention.processor.scale = scale

    def bind_mask(self, mask: Tensor | None) -> None:
        """Before the calls for a clip: where audio acts, [1, 1, height, width] in pixels, 0 to 1; None: everywhere."""
        masks = mask_levels(mask.to(self.device, torch.float32)) if mask is not None else {}
        masks = {pixels: level.to(self.dtype) for pixels, level in masks.items()}
        for _, attention in self.cross_attentions():
            attention.processor.masks = {} if attention.processor.temporal else masks

    def denoise(self, sample: Tensor, timestep: Tensor, time_ids: Tensor) -> Tensor:
        """The predicted v, [batch, frames, 4, height, width] in latent pixels.

        `sample` [batch, frames, 8, height, width]: the scaled noisy latents and the picture's latents; `timestep` [];
        `time_ids` [batch, 3]: frames per second, motion bucket of the head, of the expression.
        """
        unused = sample.new_zeros(sample.shape[0], 1, 1)  # diffusers wants encoder states, and repeats them per pixel
        torch.compiler.cudagraph_mark_step_begin()  # what an earlier call returned is not needed any more
        predicted: Tensor = self(sample, timestep, unused, time_ids, return_dict=False)[0]
        return predicted


def mask_levels(mask: Tensor) -> dict[int, Tensor]:
    """The face mask at each level, by the level's number of pixels: each [pixels, 1], row by row.

    `mask` [1, 1, height, width], 0 to 1. Bicubic from the whole mask straight to each level, not antialiased, so
    values may leave 0 to 1: as in the reference.
    """
    height, width = (size // 8 for size in mask.shape[-2:])
    levels = {}
    for size in ((height >> level, width >> level) for level in range(LEVELS)):
        if not min(size):
            break
        at_level = functional.interpolate(mask, size, mode="bicubic", align_corners=False)
        levels[size[0] * size[1]] = at_level.reshape(-1, 1)
    return levels
