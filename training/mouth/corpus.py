"""Speech with known phone times, from free synthesisers; see README.md for what each is and its terms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.mouth.phones import Phone

RATE_HZ = 16_000


@dataclass(frozen=True)
class Utterance:
    """One recording: float32 [n] at 16 kHz from -1 to 1, and every phone of it."""

    samples: NDArray[np.float32]
    phones: list[Phone]
    language: str
    voice: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE_HZ


def save(folder: Path, name: str, utterances: Iterator[Utterance], hours: float) -> None:
    """Write utterances until they last so long; nothing is done when an earlier run has finished that."""
    done = folder / f"{name}.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    samples, notes, lasting_s = [], [], 0.0
    for utterance in utterances:
        samples.append(np.clip(utterance.samples * 32767, -32768, 32767).astype(np.int16))
        notes.append(
            {
                "language": utterance.language,
                "voice": utterance.voice,
                "count": len(utterance.samples),
                "phones": [asdict(phone) for phone in utterance.phones],
            }
        )
        lasting_s += utterance.duration_s
        if lasting_s >= hours * 3600:
            break
    np.save(folder / f"{name}.npy", np.concatenate(samples))
    done.write_text(json.dumps(notes))
    print(f"{name}: {len(notes)} utterances, {lasting_s / 60:.0f} minutes", flush=True)


def load(folder: Path, name: str) -> list[Utterance]:
    """What `save` has written."""
    notes = json.loads((folder / f"{name}.json").read_text())
    samples = np.load(folder / f"{name}.npy", mmap_mode="r")
    found, start = [], 0
    for note in notes:
        stop = start + note["count"]
        phones = [Phone(**phone) for phone in note["phones"]]
        audio = samples[start:stop].astype(np.float32) / 32768
        found.append(Utterance(audio, phones, note["language"], note["voice"]))
        start = stop
    return found


def resampled(samples: NDArray[np.floating], rate_hz: int) -> NDArray[np.float32]:
    """At 16 kHz, float32."""
    from math import gcd

    from scipy.signal import resample_poly

    if rate_hz == RATE_HZ:
        return np.asarray(samples, np.float32)
    shared = gcd(rate_hz, RATE_HZ)
    made: NDArray[np.float32] = resample_poly(samples, RATE_HZ // shared, rate_hz // shared).astype(np.float32)
    return made
