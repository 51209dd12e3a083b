"""What happens to a voice before it is heard: rooms, microphones, telephones, noise, music, other speed and size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from training.mouth.corpus import RATE_HZ

Samples = NDArray[np.float32]


def augmented(samples: Samples, chance: np.random.Generator) -> Samples:
    """One more hearing of the same recording, of the same length and in the same time."""
    heard = samples
    if chance.random() < 0.35:
        heard = reverberant(heard, chance.uniform(0.15, 0.9), chance)
    if chance.random() < 0.5:
        heard = tilted(heard, chance.uniform(-6, 6))
    if chance.random() < 0.15:
        heard = telephone(heard)
    bed: dict[str, Callable[[int, np.random.Generator], Samples]] = {"noise": noise, "music": music}
    for kind, often in (("noise", 0.6), ("music", 0.3)):
        if chance.random() < often:
            heard = mixed(heard, bed[kind](len(heard), chance), chance.uniform(3, 30))
    return gained(heard, chance.uniform(-24, 24))


def gained(samples: Samples, decibels: float) -> Samples:
    """Louder or softer; what is too loud clips, as it would in a file."""
    return np.clip(samples * 10 ** (decibels / 20), -1, 1).astype(np.float32)


def mixed(samples: Samples, bed: Samples, snr_db: float) -> Samples:
    """A voice over a bed, by the mean power of both."""
    power, other = float(np.mean(samples**2)), float(np.mean(bed**2))
    scale = np.sqrt(power / max(other, 1e-12) / 10 ** (snr_db / 10))
    return (samples + scale * bed).astype(np.float32)


def noise(count: int, chance: np.random.Generator) -> Samples:
    """White to brown noise whose loudness wanders."""
    spectrum = np.fft.rfft(chance.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20)
    coloured = np.fft.irfft(spectrum * frequency ** -chance.uniform(0, 1), count)
    wander = np.interp(np.arange(count), np.linspace(0, count, 8), chance.uniform(0.4, 1, 8))
    return (coloured / max(float(np.abs(coloured).max()), 1e-9) * wander).astype(np.float32)


def music(count: int, chance: np.random.Generator) -> Samples:
    """Chords with harmonics over a bass and a beat."""
    seconds = np.arange(count) / RATE_HZ
    out = np.zeros(count)
    beat_s = chance.uniform(0.3, 0.7)
    root_hz = 55 * 2 ** chance.uniform(0, 1.5)
    for start in np.arange(0, count / RATE_HZ, 2 * beat_s):
        chord = root_hz * 2 ** (chance.choice([0, 2, 4, 5, 7, 9]) / 12)
        inside = (seconds >= start) & (seconds < start + 2 * beat_s)
        time = seconds[inside] - start
        for interval in (0, 4 if chance.random() < 0.6 else 3, 7, 12, 24):
            note_hz = chord * 2 ** (interval / 12)
            for harmonic in range(1, 7):
                level = chance.uniform(0.3, 1) / harmonic**1.3
                out[inside] += level * np.sin(2 * np.pi * note_hz * harmonic * time) * np.exp(-time * 1.5)
    for start in np.arange(0, count / RATE_HZ, beat_s):
        first = int(start * RATE_HZ)
        hit = chance.standard_normal(min(1600, count - first))
        out[first : first + len(hit)] += chance.uniform(0.5, 2) * hit * np.exp(-np.arange(len(hit)) / 300)
    return (out / max(float(np.abs(out).max()), 1e-9)).astype(np.float32)


def reverberant(samples: Samples, decay_s: float, chance: np.random.Generator) -> Samples:
    """In a room that takes `decay_s` to become 60 dB quieter; the direct sound stays where it was."""
    count = int(decay_s * RATE_HZ)
    tail = chance.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    tail[: int(0.004 * RATE_HZ)] = 0
    tail *= chance.uniform(0.15, 0.7) / np.sqrt((tail**2).sum())
    tail[0] = 1
    return fftconvolve(samples, tail)[: len(samples)].astype(np.float32)


def telephone(samples: Samples) -> Samples:
    """300 to 3400 Hz."""
    band = butter(4, [300, 3400], "bandpass", fs=RATE_HZ, output="sos")
    return sosfilt(band, samples).astype(np.float32)


def tilted(samples: Samples, decibels_per_octave: float) -> Samples:
    """Brighter or duller around 1 kHz."""
    spectrum = np.fft.rfft(samples)
    frequency = np.clip(np.fft.rfftfreq(len(samples), 1 / RATE_HZ), 100, 6000)
    gain = 10 ** (decibels_per_octave * np.log2(frequency / 1000) / 20)
    return np.fft.irfft(spectrum * gain, len(samples)).astype(np.float32)


def resized(samples: Samples, factor: float) -> Samples:
    """A larger or smaller speaker, who is as much slower or faster: phone times are to be multiplied by `factor`."""
    count = round(len(samples) * factor)
    return np.interp(np.linspace(0, len(samples) - 1, count), np.arange(len(samples)), samples).astype(np.float32)
