"""A small Sonic with drawn weights: the files, names and shapes of the published one, for tests and dry runs.

What it renders is noise; how it gets there is what the published weights go through.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonic_runtime.models.folder import File, listed

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

VERSION = "sonic-tiny"
LICENCE = "Apache-2.0"
Shapes = dict[str, tuple[int, ...]]

UNET: dict[str, Any] = {
    "block_out_channels": (32, 64, 32, 32),
    "num_attention_heads": (1, 4, 2, 2),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "layers_per_block": 2,
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
}
CLIP: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": 16,
    "hidden_act": "gelu",
}
WHISPER: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 12,
    "encoder_layers": 4,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "begin_suppress_tokens": None,
}
_HEAD_WIDTH = 40
_AUDIO_TOKENS = 6
_FLOW_CHANNELS = 8
# Those of the published model; they have no small version.
_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
_CLIP_PIXELS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}


def fetch(into: Path, seed: int = 0) -> tuple[File, ...]:
    """`write`, and what was written."""
    write(into, seed)
    return listed(into)


def write(folder: Path, seed: int = 0) -> None:
    """Put the model's files into a folder; the same seed gives the same weights. Needs diffusers and transformers."""
    import diffusers
    import torch
    import transformers

    draw = torch.Generator().manual_seed(seed)
    svd, whisper = folder / "stable-video-diffusion-img2vid-xt", folder / "whisper-tiny"
    with torch.device("meta"):  # only names and shapes are taken
        unet = diffusers.UNetSpatioTemporalConditionModel(**UNET)
        vae = diffusers.AutoencoderKLTemporalDecoder(**VAE)
        clip = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**CLIP))
        hearing = transformers.WhisperModel(transformers.WhisperConfig(**WHISPER))

    unet.save_config(svd / "unet")
    _pickle(_drawn(unet_shapes(unet), draw), folder / "Sonic" / "unet.pth")
    vae.save_config(svd / "vae")
    _keep(_drawn(_shapes(vae), draw), svd / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    clip.config.save_pretrained(svd / "image_encoder")
    _keep(_drawn(_shapes(clip), draw), svd / "image_encoder" / "model.fp16.safetensors")
    diffusers.EulerDiscreteScheduler(**_SCHEDULER).save_config(svd / "scheduler")
    _write_json(_CLIP_PIXELS, svd / "feature_extractor" / "preprocessor_config.json")

    hearing.config.save_pretrained(whisper)
    transformers.WhisperFeatureExtractor().save_pretrained(whisper)
    weights = _drawn({f"model.{name}": shape for name, shape in _shapes(hearing).items()}, draw)
    positions = "model.encoder.embed_positions.weight"
    _keep(weights | {positions: _sinusoids(*weights[positions].shape)}, whisper / "model.safetensors")

    width, clip_width, tokens = WHISPER["d_model"], CLIP["projection_dim"], UNET["cross_attention_dim"]
    shapes = head_shapes(10 * 5 * width, _HEAD_WIDTH, tokens * _AUDIO_TOKENS, norm=tokens)
    _keep(_drawn(shapes, draw), folder / "Sonic" / "audio2token.safetensors")
    _pickle(_drawn(head_shapes(50 * width + clip_width, _HEAD_WIDTH, 2), draw), folder / "Sonic" / "audio2bucket.pth")
    _pickle(_drawn(flow_shapes(_FLOW_CHANNELS), draw), folder / "RIFE" / "flownet.pkl")


def unet_shapes(unet: nn.Module) -> Shapes:
    """A stock UNet's tensors and, beside each cross attention's key projection, those of its audio adapter."""
    stock = _shapes(unet)
    ends = ".attn2.to_k.weight"
    adapters = {
        f"{name.removesuffix('to_k.weight')}processor.to_{kind}_ip.0.weight": shape
        for name, shape in stock.items()
        if name.endswith(ends)
        for kind in "kv"
    }
    return stock | adapters


def head_shapes(inputs: int, width: int, outputs: int, norm: int = 0) -> Shapes:
    """Three layers, and a norm over `norm` channels where there is one."""
    sizes = (inputs, width, width, outputs)
    shapes: Shapes = {}
    for layer in (1, 2, 3):
        shapes |= {f"proj{layer}.weight": (sizes[layer], sizes[layer - 1]), f"proj{layer}.bias": (sizes[layer],)}
    return shapes | ({"norm.weight": (norm,), "norm.bias": (norm,)} if norm else {})


def flow_shapes(channels: int) -> Shapes:
    """The interpolator's: three blocks, and a fourth that training needed; all behind `module.`."""
    shapes: Shapes = {}
    half = channels // 2
    for block, inputs in {"block0": 11, "block1": 11, "block2": 11, "block_tea": 14}.items():
        layers = {"conv0.0": (half, inputs, 3, 3), "conv0.1": (channels, half, 3, 3)}
        layers |= {f"convblock{i}.{j}": (channels, channels, 3, 3) for i in range(4) for j in range(2)}
        for layer, kernel in layers.items():  # convolution, slopes
            shapes |= {f"module.{block}.{layer}.0.weight": kernel, f"module.{block}.{layer}.0.bias": kernel[:1]}
            shapes[f"module.{block}.{layer}.1.weight"] = kernel[:1]
        for branch, outputs in {"conv1": 4, "conv2": 1}.items():  # transposed: inputs come first
            name = f"module.{block}.{branch}"
            shapes |= {f"{name}.0.weight": (channels, half, 4, 4), f"{name}.0.bias": (half,)}
            shapes |= {f"{name}.1.weight": (half,)}
            shapes |= {f"{name}.2.weight": (half, outputs, 4, 4), f"{name}.2.bias": (outputs,)}
    return shapes


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _drawn(shapes: Mapping[str, tuple[int, ...]], draw: Generator) -> dict[str, Tensor]:
    """In order of their names, so that another release of a library draws the same."""
    return {name: _draw(name, shapes[name], draw) for name in sorted(shapes)}


def _draw(name: str, shape: tuple[int, ...], draw: Generator) -> Tensor:
    import torch

    normal = torch.randn(shape, generator=draw)
    if len(shape) > 1:
        drawn = normal / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("mix_factor"):
        drawn = normal
    elif name.endswith("bias"):
        drawn = 0.1 * normal
    elif name.startswith("module."):  # slopes below zero
        drawn = 0.25 + 0.05 * normal
    else:
        drawn = 1 + 0.15 * normal
    return drawn.half()


def _sinusoids(rows: int, width: int) -> Tensor:
    """Whisper's positions: sines, then cosines, with wavelengths from 2 pi to 10000 times that."""
    import torch

    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(rows)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1).half()


def _keep(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    _write(save(tensors), path)


def _pickle(tensors: dict[str, Tensor], path: Path) -> None:
    import torch

    content = io.BytesIO()
    torch.save(tensors, content)
    _write(content.getvalue(), path)


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    _write(f"{json.dumps(content, indent=2)}\n".encode(), path)


def _write(content: bytes, path: Path) -> None:
    """What the libraries raise where a disk is full is no OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
