"""Sound reaches Whisper as the reference hears it, whichever resampler loads; one that does not load harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("soxr", reason="the diffusion engine is not installed")
pytest.importorskip("torch", reason="the diffusion engine is not installed")

from sonic_runtime.engines.sonic import resampling

ROOT = Path(__file__).resolve().parent.parent.parent
SETTLED = 320  # samples, 20 ms


def noise(rate_hz: int, like_speech: bool) -> np.ndarray:
    """Three seconds and a bit, -1 to 1: as loud at every pitch, or softer the higher as speech is; [n]."""
    count = 3 * rate_hz + 7
    spectrum = np.fft.rfft(np.random.default_rng(rate_hz).standard_normal(count))
    if like_speech:
        spectrum /= np.maximum(np.fft.rfftfreq(count, 1 / rate_hz), 80)
    sound = np.fft.irfft(spectrum, count)
    return (sound / np.abs(sound).max()).astype(np.float32)


def test_it_is_what_the_reference_hears(material: Path) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    folder = material / "sonic" / "golden" / "public" / "03_audio_features"
    if not folder.exists():
        pytest.skip("no golden data beside the checkout")
    with wave.open(str(folder / "audio_resample.wav")) as file:
        ints = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        rate_hz = file.getframerate()
    samples = (ints.T / 32768).astype(np.float32)
    expected = load_file(folder / "inputs.safetensors")["wave_resampled_16k"]
    found = resampling.to_16k_mono(samples, rate_hz)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (1e-4 if resampling._TORCHAUDIO is None else 1e-2)


def test_channels_are_averaged_and_16_khz_is_left_alone() -> None:
    left, right = noise(16_000, True), noise(16_000, False)
    found = resampling.to_16k_mono(np.stack([left, right]), 16_000)
    assert found.dtype == np.float32
    assert np.array_equal(found, (left + right) / 2)
    assert resampling.to_16k_mono(np.zeros((2, 0), np.float32), 44_100).shape == (0,)


@pytest.mark.parametrize(
    ("rate_hz", "count"), [(48_000, 7), (44_100, 60_417), (22_050, 12_345), (8_000, 100), (96_000, 1)]
)
def test_the_length_is_that_of_the_reference(rate_hz: int, count: int) -> None:
    found = resampling.to_16k_mono(np.zeros((1, count), np.float32), rate_hz)
    assert len(found) == -(-count * 16_000 // rate_hz)


@pytest.mark.parametrize("rate_hz", [48_000, 44_100, 8_000])
def test_a_tone_stays_and_what_lies_above_is_gone(rate_hz: int) -> None:
    seconds = np.arange(rate_hz) / rate_hz
    kept = np.sin(2 * np.pi * 1_000 * seconds).astype(np.float32)
    found = resampling.to_16k_mono(kept[None], rate_hz)
    expected = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[SETTLED:-SETTLED].max() < 1e-3
    if rate_hz > 16_000:
        gone = np.sin(2 * np.pi * 9_000 * seconds).astype(np.float32)
        assert np.abs(resampling.to_16k_mono(gone[None], rate_hz))[SETTLED:-SETTLED].max() < 1e-3


@pytest.mark.skipif(resampling._TORCHAUDIO is None, reason="torchaudio is not installed, or not for this torch")
@pytest.mark.parametrize("rate_hz", [96_000, 48_000, 44_100, 32_000, 24_000, 22_050, 11_025, 8_000])
def test_torchaudio_and_soxr_give_the_same_signal(rate_hz: int) -> None:
    for like_speech, bound in ((True, 2e-4), (False, 2e-3)):
        sound = noise(rate_hz, like_speech)
        ours, theirs = resampling.by_soxr(sound, rate_hz), resampling.by_torchaudio(sound, rate_hz, "cpu")
        assert ours.shape == theirs.shape
        off = np.abs(ours - theirs)
        assert off[SETTLED:].max() < bound
        assert off.max() < 1e-2


def test_torchaudio_is_not_asked_for_rates_with_next_to_nothing_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(resampling, "_TORCHAUDIO", object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resampling._on_the_gpu(44_100)
    assert not resampling._on_the_gpu(44_101)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not resampling._on_the_gpu(44_100)


@pytest.fixture
def broken_torchaudio(tmp_path: Path) -> dict[str, str]:
    """An environment in which torchaudio is installed and does not load, as beside a CPU-only torch."""
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("from torchaudio import _extension\n")
    (package / "_extension.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}


def started(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_torchaudio_that_does_not_load_does_not_break_transformers(broken_torchaudio: dict[str, str]) -> None:
    pytest.importorskip("transformers")
    use = "from transformers import WhisperFeatureExtractor; WhisperFeatureExtractor(); print('heard')"
    alone = started(use, broken_torchaudio)
    assert "libcudart" in alone.stderr  # the danger is real
    ours = started(
        f"import sonic_runtime.engines.sonic.resampling as r; print(r._TORCHAUDIO); {use}", broken_torchaudio
    )
    assert ours.stdout == "None\nheard\n", ours.stderr


def test_and_is_as_if_it_were_not_installed(broken_torchaudio: dict[str, str]) -> None:
    code = """
import importlib.util, logging, sys
logging.basicConfig(format="%(message)s: %(why)s")
import numpy, sonic_runtime.engines.sonic.resampling as resampling
print(importlib.util.find_spec("torchaudio"), [name for name in sys.modules if name.startswith("torchaudio.")])
print(resampling.to_16k_mono(numpy.zeros((2, 441), numpy.float32), 44_100).shape)
"""
    ended = started(code, broken_torchaudio)
    assert ended.stdout == "None []\n(160,)\n", ended.stderr
    assert ended.stderr == "torchaudio does not load; soxr is used: libcudart.so.13: cannot open shared object file\n"
