"""The published files, unchanged, as networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sonic_runtime import errors
from sonic_runtime.engines.sonic import checkpoints, eight_bit, exported
from sonic_runtime.engines.sonic.audio import AudioProjector, MotionBuckets, SpeechEncoder
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator, Interpolate
from sonic_runtime.engines.sonic.unet import SonicUNet, TemporalConv

diffusers.utils.logging.set_verbosity_error()  # they talk of what is meant here, and draw bars
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SVD = "stable-video-diffusion-img2vid-xt"
_SPEECH_ROWS, _MOTION_ROWS = 10, 50  # of Whisper's, that the two heads look at
_MOST_DIGITS, _MOST_LAYERS = 7, 256  # of a number in a configuration, and what one may have built


@dataclass(frozen=True)
class Networks:
    """All of the model's. Those that hear, and the interpolator, are float32."""

    unet: SonicUNet
    vae: AutoencoderKLTemporalDecoder
    clip: CLIPVisionModelWithProjection
    scheduler: EulerDiscreteScheduler
    interpolator: Interpolate
    speech: SpeechEncoder
    projector: AudioProjector
    buckets: MotionBuckets

    @property
    def hearing(self) -> tuple[nn.Module, ...]:
        """Those that hear."""
        return (*self.speech.networks, self.projector, self.buckets)

    @property
    def all(self) -> tuple[nn.Module, ...]:
        """Those of torch."""
        flow = (self.interpolator,) if isinstance(self.interpolator, nn.Module) else ()
        return (self.unet, self.vae, self.clip, *flow, *self.hearing)


def load(folder: Path, dtype: torch.dtype, *, in_eight_bits: bool = False) -> Networks:
    """From a model folder, laid out as the published one (see docs/models.md), into the CPU's memory.

    With `in_eight_bits` the weights of the UNet are kept that way, which is not exact.

    Raises errors.ModelBroken where a file is missing, is not what it should be, or does not fit its configuration.
    """
    svd, whisper = folder / SVD, folder / "whisper-tiny"
    with _reading(folder):
        extractor = WhisperFeatureExtractor.from_pretrained(str(whisper))
        return Networks(
            unet=_unet(folder, svd, dtype, in_eight_bits),
            vae=_vae(svd / "vae").to(dtype).eval(),
            clip=_stock(CLIPVisionModelWithProjection, svd / "image_encoder", "model").to(dtype).eval(),
            scheduler=EulerDiscreteScheduler.from_config(_config(svd / "scheduler" / "scheduler_config.json")),
            interpolator=exported.interpolator(folder) or _interpolator(folder),
            speech=exported.speech(folder, extractor) or SpeechEncoder(_whisper(whisper), extractor),
            projector=_projector(folder / "Sonic" / "audio2token.pth"),
            buckets=_buckets(folder / "Sonic" / "audio2bucket.pth", svd),
        )


def small_networks(folder: Path) -> tuple[WhisperEncoder, FrameInterpolator]:
    """Those that can be exported, on the CPU. Raises errors.ModelBroken."""
    with _reading(folder):
        return _whisper(folder / "whisper-tiny"), _interpolator(folder)


def _interpolator(folder: Path) -> FrameInterpolator:
    return FrameInterpolator.build(checkpoints.load(folder / "RIFE" / "flownet.pkl"))


def load_detector(folder: Path) -> Any:
    """The reference's face detector, called as detector.Network says; on the CPU. Raises errors.ModelBroken."""
    path = folder / "yoloface_v5m.pt"
    if not path.exists():
        raise errors.ModelBroken(
            f"{path} is missing, which face_detector=reference takes; fetch the model with it, "
            "or set face_detector=own in SONIC_ENGINE_OPTIONS"
        )
    with _reading(path):
        return torch.jit.load(str(path), map_location="cpu").eval()


def _unet(folder: Path, svd: Path, dtype: torch.dtype, in_eight_bits: bool) -> SonicUNet:
    with torch.device("meta"):  # no weight of it stays
        unet = SonicUNet.build(_config(svd / "unet" / "config.json"))
    unet.load_state_dict(checkpoints.load(folder / "Sonic" / "unet.pth"), assign=True)
    unet.to(dtype).eval()
    if in_eight_bits:
        eight_bit.shrink(unet)
    return unet


def _vae(folder: Path) -> AutoencoderKLTemporalDecoder:
    vae: AutoencoderKLTemporalDecoder = _stock(AutoencoderKLTemporalDecoder, folder, "diffusion_pytorch_model")
    TemporalConv.take_over(vae)
    return vae


def _stock(kind: Any, folder: Path, name: str) -> Any:
    """A network of diffusers or transformers, from its half-precision file where there is one."""
    _config(folder / "config.json")  # for its bounds: the library reads it itself
    variant = "fp16" if any(folder.glob(f"{name}.fp16.*")) else None
    return kind.from_pretrained(str(folder), variant=variant, use_safetensors=True, local_files_only=True)


def _whisper(folder: Path) -> WhisperEncoder:
    encoder = WhisperEncoder(WhisperConfig(**_config(folder / "config.json")))
    state = checkpoints.load(folder / "model.safetensors")
    names = {key: key.removeprefix("model.").removeprefix("encoder.") for key in state if "decoder." not in key}
    encoder.load_state_dict({name: state[key] for key, name in names.items() if not name.startswith("proj_out")})
    return encoder.float().eval()


def _projector(path: Path) -> AudioProjector:
    state = checkpoints.load(path)
    output, inner = len(state["norm.weight"]), len(state["proj1.bias"])
    channels = state["proj1.weight"].shape[1] // _SPEECH_ROWS
    tokens = len(state["proj3.bias"]) // output
    projector: AudioProjector = _filled(AudioProjector(_SPEECH_ROWS, 1, channels, inner, output, tokens), state)
    return projector


def _buckets(path: Path, svd: Path) -> MotionBuckets:
    state = checkpoints.load(path)
    picture = int(_config(svd / "image_encoder" / "config.json")["projection_dim"])
    channels = (state["proj1.weight"].shape[1] - picture) // _MOTION_ROWS
    inner, outputs = len(state["proj1.bias"]), len(state["proj3.bias"])
    buckets: MotionBuckets = _filled(MotionBuckets(_MOTION_ROWS, 1, channels, picture, inner, 1, outputs), state)
    return buckets


def _filled(module: nn.Module, state: Mapping[str, Tensor]) -> Any:
    module.load_state_dict(state)
    return module.float().eval()


def _config(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(), parse_int=_bounded)
    for key, value in loaded.items():
        counts = value if isinstance(value, list) else [value]
        if "layers" in key and any(isinstance(count, int) and count > _MOST_LAYERS for count in counts):
            raise ValueError(f"{path.name} has {key} {value}; at most {_MOST_LAYERS} are built")
    return {key: value for key, value in loaded.items() if not key.startswith("_")}


def _bounded(digits: str) -> int:
    """What a configuration counts is built one by one, before any file of weights speaks against it."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a configuration has a number of {len(digits)} digits; at most {_MOST_DIGITS} are read")
    return int(digits)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (errors.RenderError, MemoryError):
        raise
    except Exception as error:  # configurations are read by libraries that raise whatever they stumble over
        said = " ".join(str(error).split())[:300]
        raise errors.ModelBroken(f"{folder}: {said}; run `sonic models verify`") from error
