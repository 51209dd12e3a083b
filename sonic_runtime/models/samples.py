"""Real portraits and a real voice, for the demo and the tests, out of published packages.

- The portrait is the US Navy's photograph of Grace Hopper (public domain), which matplotlib ships.
- The one that smiles with teeth is NASA's photograph of Eileen Collins (public domain), which scikit-image ships.
- The voice is "go forward ten meters", read by a person, which pocketsphinx ships as test data (BSD licence).
"""

from __future__ import annotations

import io
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

from sonic_runtime.models.packages import Wheel, take

_PORTRAIT_WHEEL = Wheel("matplotlib==3.10.3")
_PORTRAIT = (
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
)
_SMILE_WHEEL = Wheel("scikit-image==0.26.0")
_SMILE = ("skimage/data/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5")
_VOICE_WHEEL = Wheel("pocketsphinx==0.1.15", python="3.6", platforms=("win_amd64",), abi="cp36m")
_VOICE = ("pocketsphinx/data/goforward.raw", "f15c60ec54059d8b66e410d0064945a0b0a04ea56e1ddca1958e493c0cf70e71")
_VOICE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Samples:
    """Files to try a render with."""

    portrait: Path  # JPEG, 512 x 600, glasses, closed mouth
    smile: Path  # PNG, 512 x 512, smiles with teeth
    voice: Path  # WAV, 2.8 seconds


def fetch_samples(folder: Path, wheelhouse: Path | None = None) -> Samples:
    """Put the files into the folder, unless they are there. Raises FetchFailed."""
    samples = Samples(folder / "portrait.jpg", folder / "smile.png", folder / "voice.wav")
    folder.mkdir(parents=True, exist_ok=True)
    for path, wheel, (name, sha256) in (
        (samples.portrait, _PORTRAIT_WHEEL, _PORTRAIT),
        (samples.smile, _SMILE_WHEEL, _SMILE),
    ):
        if not path.exists():
            _write(path, take(wheel, {name: sha256}, wheelhouse)[name])
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
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:  # another fetch may be under way
        part = Path(folder) / path.name
        part.write_bytes(data)
        part.rename(path)
