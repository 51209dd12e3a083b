"""The published weights of Sonic: which files, where they are published, under which terms.

A SHA-256 is given where it has been published by several who know the file. Where none is, the file is held to the
digest that the hub itself has for it, and what arrived is kept in the manifest: later checks and other machines are
held to that.
"""

from __future__ import annotations

from pathlib import Path

from sonic_runtime.models import published
from sonic_runtime.models.folder import File
from sonic_runtime.models.published import Published, Repository, Say

NAME = "sonic"
VERSION = "sonic-1"
LICENCE = "CC-BY-NC-SA-4.0 and others: not for commercial use"
TERMS = """\
The weights of Sonic may not be used commercially. They come from several hands:
  Sonic (UNet, audio networks)   CC BY-NC-SA 4.0: with attribution, NOT FOR COMMERCIAL USE, adaptations under the same
                                 terms; https://creativecommons.org/licenses/by-nc-sa/4.0/
  Stable Video Diffusion XT      Stability AI Community License (VAE, image encoder);
                                 https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt
  Whisper tiny                   Apache-2.0
  RIFE HDv3                      MIT
  yoloface_v5m                   not stated by who published it
Whoever renders with them is bound by these terms; Sonic Fleet's own licence does not change that."""

_SONIC = Repository("LeonJoe13/Sonic", "main")
_SVD = Repository("stabilityai/stable-video-diffusion-img2vid-xt", "9e43909513c6714f1bc78bcb44d96e733cd242aa")
_WHISPER = Repository("openai/whisper-tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af")
_SVD_FOLDER, _WHISPER_FOLDER = "stable-video-diffusion-img2vid-xt/", "whisper-tiny/"

FILES = (
    Published(_SONIC, "Sonic/unet.pth"),
    Published(_SONIC, "Sonic/audio2token.pth"),
    Published(_SONIC, "Sonic/audio2bucket.pth"),
    Published(_SONIC, "RIFE/flownet.pkl", sha256="fe854fc8996547c953f732aaa3b78cae76cc0a12833ae856ea0749c4c570d7d8"),
    Published(_SONIC, "yoloface_v5m.pt", optional=True),
    Published(_SVD, "unet/config.json", _SVD_FOLDER),
    Published(
        _SVD,
        "vae/config.json",
        _SVD_FOLDER,
        sha256="8f34272db69f7e2c615da6142ca3f9fdcd7b682bcfd903ceb15035fea79a8303",
    ),
    Published(
        _SVD,
        "vae/diffusion_pytorch_model.fp16.safetensors",
        _SVD_FOLDER,
        sha256="af602cd0eb4ad6086ec94fbf1438dfb1be5ec9ac03fd0215640854e90d6463a3",
    ),
    Published(
        _SVD,
        "image_encoder/config.json",
        _SVD_FOLDER,
        sha256="65da4496f116d2b297fe864e0f31242fbc57e26a5d95b93310f2034e1e90d0ec",
    ),
    Published(
        _SVD,
        "image_encoder/model.fp16.safetensors",
        _SVD_FOLDER,
        sha256="ae616c24393dd1854372b0639e5541666f7521cbe219669255e865cb7f89466a",
    ),
    Published(_SVD, "scheduler/scheduler_config.json", _SVD_FOLDER),
    Published(
        _SVD,
        "feature_extractor/preprocessor_config.json",
        _SVD_FOLDER,
        sha256="4db495644e3e5bd8fcac52f70e7fc0b413c911086021acf73ac30e5911166e95",
    ),
    Published(
        _WHISPER,
        "config.json",
        _WHISPER_FOLDER,
        sha256="ffdccec4f3211f4c63310f2b7098f309fe70f3952cedc5e4d11e43f5b2379b98",
    ),
    Published(
        _WHISPER,
        "preprocessor_config.json",
        _WHISPER_FOLDER,
        sha256="9b5cd03a36fbb8a627c64d98a5b5b126ead95a77720723944487311f0110b666",
    ),
    Published(
        _WHISPER,
        "model.safetensors",
        _WHISPER_FOLDER,
        sha256="7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
    ),
)


def fetch(into: Path, say: Say) -> tuple[File, ...]:
    """Download the files, or what is still missing of them, into a folder. Raises FetchFailed, OSError."""
    return published.fetch(FILES, into, say)


def take(folder: Path, into: Path) -> tuple[File, ...]:
    """Copy the files out of a folder that has them as they are published. Raises FetchFailed, OSError."""
    return published.take(FILES, folder, into)
