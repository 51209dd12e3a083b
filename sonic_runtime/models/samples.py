"""A real portrait and a real voice, for the demo and the tests, out of published packages.

- The portrait is NASA's photograph of Eileen Collins (public domain), which scikit-image ships.
- The voice is "go forward ten meters", read by a person, which pocketsphinx ships as test data (BSD licence).
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path

from sonic_runtime.models.packages import Wheel, take

_PORTRAIT_WHEEL = Wheel("scikit-image==0.26.0")
_PORTRAIT = ("skimage/data/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5")
_VOICE_WHEEL = Wheel("pocketsphinx==0.1.15", python="3.6", platforms=("win_amd64",), abi="cp36m")
_VOICE = ("pocketsphinx/data/goforward.raw", "f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71")
_VOICE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Samples:
    """Two files to try a render with."""

    portrait: Path  # PNG, 512 x 512
    voice: Path  # WAV, 2.8 seconds


def fetch_samples(folder: Path, wheelhouse: Path | None = None) -> Samples:
    """Put both files into the folder, unless they are there. Raises FetchFailed."""
    samples = Samples(folder / "portrait.png", folder / "voice.wav")
    folder.mkdir(parents=True, exist_ok=True)
    if not samples.portrait.exists():
        name, sha256 = _PORTRAIT
        _write(samples.portrait, take(_PORTRAIT_WHEEL, {name: sha256}, wheelhouse)[name])
    if not samples.voice.exists():
        name, sha256 = _VOICE
        _write(samples.voice, _as_wav(take(_VOICE_WHEEL, {name: sha256}, wheelhouse)[name]))
    return samples


def _as_wav(pcm: bytes) -> bytes:
    """Headerless 16-bit mono samples as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, _VOICE_RATE_HZ, len(pcm) // 2, "NONE", ""))
        file.writeframes(pcm)
    return out.getvalue()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.rename(path)
