"""How well curves follow the phones: correlation, lag, closures found and false; also under noise, music and rooms."""

from __future__ import annotations

import json
import statistics
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.mouth import augment, phones
from training.mouth.corpus import Utterance, resampled
from training.mouth.phones import CURVES, Phone

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From float32 samples at 16 kHz to curves, float32 [frames, 7]."""
CLOSED = 0.5
_REACH_FRAMES = 15  # how far a lag is looked for, 10 ms each
_TOLERANCE_FRAMES = 3  # how far from its phone a closure may be
_BED_SNR_DB = 10.0


@dataclass(frozen=True)
class Score:
    """One recording, or the mean over several."""

    correlation: float  # of the aperture, at no lag
    lag_ms: float  # positive: the curve comes late
    closures_found: float  # share of m, b, p
    closures_false: float  # share of the closures predicted that no m, b, p is near
    silence: float  # share of frames where speech and silence are told apart


def conditions() -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """What is done to a recording before it is heard."""
    chance = np.random.default_rng(5)

    def bed(kind: Callable[[int, np.random.Generator], NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
        return lambda samples: augment.mixed(samples, kind(len(samples), chance), _BED_SNR_DB)

    return {
        "clean": lambda samples: samples,
        "+20 dB": lambda samples: augment.gained(samples, 20),
        "-20 dB": lambda samples: augment.gained(samples, -20),
        "noise at 10 dB": bed(augment.noise),
        "music at 10 dB": bed(augment.music),
        "reverberation": lambda samples: augment.reverberant(samples, 0.6, chance),
        "telephone": augment.telephone,
    }


def score(utterance: Utterance, predict: Predict) -> Score:
    """Score the curves of one recording."""
    wanted = phones.curves(utterance.phones, utterance.duration_s)
    found = predict(utterance.samples)[: len(wanted)]
    wanted = wanted[: len(found)]
    lags = {lag: _correlation(np.roll(found[:, 0], -lag), wanted[:, 0]) for lag in range(-_REACH_FRAMES, _REACH_FRAMES)}
    closed, events = _closures(found[:, CURVES.index("closure")])
    bilabials = [phone for phone in utterance.phones if phones.is_bilabial(phone.sound)]
    spans = [
        (int(phone.start * 100) - _TOLERANCE_FRAMES, int(phone.end * 100) + _TOLERANCE_FRAMES) for phone in bilabials
    ]
    hit = [closed[max(start, 0) : stop].any() for start, stop in spans]
    quiet = wanted[:, CURVES.index("silence")] > 0.5
    stray = [
        (start, stop)
        for start, stop in events
        if not any(start < other_stop and stop > other_start for other_start, other_stop in spans)
        and not quiet[start:stop].any()
    ]
    told = (found[:, CURVES.index("silence")] > 0.5) == quiet
    return Score(
        correlation=lags[0],
        lag_ms=10.0 * max(lags, key=lambda lag: lags[lag]),
        closures_found=float(np.mean(hit)) if hit else 1.0,
        closures_false=len(stray) / max(len(events), 1),
        silence=float(told.mean()),
    )


def mean(scores: Iterable[Score]) -> Score:
    """The mean of every figure."""
    held = list(scores)
    return Score(*(statistics.fmean(getattr(one, name) for one in held) for name in Score.__dataclass_fields__))


def recordings(folder: Path) -> list[tuple[str, Utterance]]:
    """Every wav of a folder that has a json of phones beside it: {"phones": [{"p": IPA, "start": s, "end": s}]}."""
    found = []
    for notes in sorted(folder.glob("*.json")):
        told = json.loads(notes.read_text())
        timed = [Phone(phone["p"], phone["start"], phone["end"]) for phone in told["phones"]]
        with wave.open(str(notes.with_suffix(".wav"))) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
            heard = resampled(samples, file.getframerate())
        found.append((notes.stem, Utterance(heard, timed, told.get("lang", ""), told.get("voice", ""))))
    return found


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0


def _closures(curve: NDArray[np.float32]) -> tuple[NDArray[np.bool_], list[tuple[int, int]]]:
    """Where the lips are closed, and each stretch of it."""
    closed = curve > CLOSED
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(np.int8)))
    return closed, [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
