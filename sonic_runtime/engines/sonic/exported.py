"""The engine's two small networks by onnxruntime, where `export` has left them beside the model's files.

torch is the default: on two cores of a CPU both take the same time for a frame between two (1.1 s at 512 x 512), and
torch 1.2 times as long to hear 30 s (0.9 s), in a job of minutes. What TensorRT or OpenVINO gain is for the box to say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from sonic.exceptions import BadSettings
from sonic_runtime import errors, providers
from sonic_runtime.engines.sonic.audio import SpeechEncoder

SPEECH, INTERPOLATOR = "speech-encoder", "frame-interpolator"
_SIDES = ((1, 3, 64, 64), (1, 3, 512, 512), (1, 3, 2048, 2048))
_SHAPES: dict[str, providers.Shapes] = {INTERPOLATOR: {"first": _SIDES, "second": _SIDES}}


def path(folder: Path, network: str) -> Path:
    """Where an exported network of the model in `folder` lies."""
    return folder / "onnx" / f"{network}.onnx"


class ExportedSpeechEncoder(SpeechEncoder):
    """Whisper's encoder."""

    def __init__(self, session: Any, extractor: WhisperFeatureExtractor) -> None:
        self._session = session
        self._extractor = extractor

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return ()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def hidden(self, mel: Tensor) -> Tensor:
        """[1, 80, 3000] -> [1500, layers + 1, channels]: after the embedding and each layer, the last one normed."""
        (found,) = self._session.run(None, {"mel": mel.cpu().numpy()})
        return torch.from_numpy(found)


class ExportedInterpolator:
    """The frame in the middle between two."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """From pictures and others to those between them; all [n, 3, height, width], 0 to 1, sides multiples of 16.

        Pair by pair: TensorRT would set memory aside for the largest batch of the largest size.
        """
        pairs = zip(first.cpu().split(1), second.cpu().split(1), strict=True)
        found = [self._session.run(None, {"first": one.numpy(), "second": other.numpy()})[0] for one, other in pairs]
        return torch.from_numpy(np.concatenate(found)).to(first.device)


def speech(folder: Path, extractor: WhisperFeatureExtractor) -> ExportedSpeechEncoder | None:
    """None where it was not exported. Raises errors.ModelBroken."""
    session = _opened(path(folder, SPEECH), SPEECH)
    return ExportedSpeechEncoder(session, extractor) if session else None


def interpolator(folder: Path) -> ExportedInterpolator | None:
    """None where it was not exported. Raises errors.ModelBroken."""
    session = _opened(path(folder, INTERPOLATOR), INTERPOLATOR)
    return ExportedInterpolator(session) if session else None


def _opened(file: Path, network: str) -> Any:
    return open_session(file, network) if file.exists() else None


def open_session(file: Path, network: str) -> Any:
    """A session for an exported network. Raises errors.ModelBroken."""
    try:
        return providers.open_session(file, network, os.cpu_count() or 1, _SHAPES.get(network))
    except (errors.RenderError, BadSettings):
        raise
    except Exception as error:  # onnxruntime has no common class for them
        raise errors.ModelBroken(f"{file} cannot be opened; export it again, or remove it: {error}") from error
