"""A pipeline of tiny networks with random weights, and a clip for it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from sonic_runtime.engines.sonic import published
from sonic_runtime.engines.sonic.images import Pictures
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.pipeline import Clip, Sampling, SonicPipeline
from sonic_runtime.engines.sonic.unet import SonicUNet, TemporalConv
from sonic_runtime.models import tiny

TOKENS = 6


def pipeline() -> SonicPipeline:
    torch.manual_seed(0)
    unet = SonicUNet.build(tiny.UNET).eval()
    vae = AutoencoderKLTemporalDecoder(**tiny.VAE).eval()
    TemporalConv.take_over(vae)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**tiny.CLIP)).eval()
    scheduler = EulerDiscreteScheduler.from_config(published.SCHEDULER)
    return SonicPipeline(unet, vae, clip, scheduler, FrameInterpolator(2).eval())


def clip_of(made_by: SonicPipeline, frames: int, side: int = 64, seed: int = 1) -> Clip:
    draw = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, side, side, generator=draw) * 2 - 1
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    pictures = Pictures(picture, mask, torch.randn(1, 3, 224, 224, generator=draw))
    tokens = torch.randn(frames, TOKENS, tiny.UNET["cross_attention_dim"], generator=draw)
    buckets = 16 + 8 * torch.rand(frames, 2, generator=draw)
    return Clip(pictures, made_by.picture_embedding(pictures), tokens, torch.zeros_like(tokens[0]), buckets)


def denoised(by: SonicPipeline, clip: Clip, sampling: Sampling, seed: int = 1) -> Tensor:
    picture_noise, noise = by.noise(clip.pictures, clip.frames, seed)
    return by.denoise(clip, sampling, by.begin(clip, sampling, noise), picture_noise)


def error(found: Tensor, exact: Tensor) -> float:
    """Relative."""
    return ((found - exact).norm() / exact.norm()).item()
