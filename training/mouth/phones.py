"""What the mouth does for each sound, and the curves that follow from timed phones.

Sounds are written in IPA, as the synthesisers write it. A sound that the table lacks is taken for its first letter that
the table knows, so that length marks, tones and accents do no harm.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 100
CURVES = ("aperture", "spread", "rounding", "closure", "labiodental", "tongue", "silence")
SMOOTHING_S = 0.07  # how far neighbouring sounds reach into each other
_CLOSURE_S = 0.03


@dataclass(frozen=True)
class Phone:
    """A sound (IPA, or `sil`) from `start` to `end`, in seconds."""

    sound: str
    start: float
    end: float


@dataclass(frozen=True)
class Shape:
    """Targets of a sound, each from 0 to 1."""

    aperture: float
    spread: float = 0.0
    rounding: float = 0.0
    closure: float = 0.0
    labiodental: float = 0.0
    tongue: float = 0.0
    silence: float = 0.0


SILENCE = Shape(0.0, silence=1.0)
_VOWELS = {
    "a ä ɑ": Shape(1.0, 0.1),
    "ɐ": Shape(0.85, 0.1),
    "æ": Shape(0.9, 0.4),
    "ɒ": Shape(0.85, 0.0, 0.25),
    "ʌ": Shape(0.75, 0.05),
    "ɛ ε": Shape(0.7, 0.45),
    "ɜ ɝ": Shape(0.55, 0.1, 0.1),
    "ɔ": Shape(0.7, 0.0, 0.5),
    "œ ɶ": Shape(0.6, 0.0, 0.5),
    "ə ɘ ɵ ɚ ᵊ": Shape(0.45, 0.1),
    "e": Shape(0.5, 0.6),
    "ø": Shape(0.4, 0.0, 0.7),
    "o": Shape(0.5, 0.0, 0.75),
    "ɤ": Shape(0.45, 0.15),
    "ɪ ᵻ": Shape(0.4, 0.55),
    "ʊ": Shape(0.35, 0.0, 0.6),
    "i": Shape(0.3, 0.9),
    "y ʏ": Shape(0.25, 0.0, 0.9),
    "ɨ ɯ": Shape(0.3, 0.4),
    "u ʉ": Shape(0.25, 0.0, 0.95),
}
_CONSONANTS = {
    "m p b": Shape(0.0, closure=1.0),
    "f v ɱ ʋ ⱱ": Shape(0.1, 0.1, labiodental=1.0),
    "ɸ β": Shape(0.08, 0.1, 0.2),
    "w ʍ": Shape(0.15, 0.0, 1.0),
    "ɥ": Shape(0.15, 0.0, 0.9),
    "θ ð": Shape(0.22, 0.2, tongue=1.0),
    "t d n": Shape(0.2, 0.25, tongue=0.7),
    "l ɫ ɬ ɮ": Shape(0.3, 0.2, tongue=0.9),
    "ɾ r": Shape(0.28, 0.2, tongue=0.6),
    "ɹ ɻ": Shape(0.28, 0.0, 0.45, tongue=0.2),
    "s z": Shape(0.14, 0.5, tongue=0.2),
    "ʃ ʒ ʂ ʐ ꭧ": Shape(0.18, 0.0, 0.55, tongue=0.2),
    "ɕ ʑ": Shape(0.18, 0.4, 0.2, tongue=0.2),
    "ʦ ʣ": Shape(0.15, 0.4, tongue=0.4),
    "ʧ ʤ": Shape(0.18, 0.0, 0.5, tongue=0.4),
    "ʨ ʥ": Shape(0.18, 0.4, 0.2, tongue=0.4),
    "ʈ ɖ ɳ ɽ ɭ": Shape(0.22, 0.15, tongue=0.6),
    "c ɟ ç ʝ ɲ ʎ j": Shape(0.25, 0.6, tongue=0.2),
    "k ɡ ŋ q ɢ ɴ x ɣ χ ʁ ʀ ħ ʕ ɰ": Shape(0.3, 0.15),
    "h ɦ ʔ": Shape(0.35, 0.1),
}
_SHAPES = {symbol: shape for group in (_VOWELS, _CONSONANTS) for row, shape in group.items() for symbol in row.split()}
_SHAPES["g"] = _SHAPES["ɡ"]
VOWELS = frozenset(symbol for row in _VOWELS for symbol in row.split())
# Letters that stand for two sounds in the phoneme sets of Kokoro.
_PAIRS = {"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ", "S": "ʃ", "T": "θ"}
_SILENT = {"sil", "pau", "", "_", "#", "sp", "spn"}


def letters(sound: str) -> str:
    """The base letters of a sound that the table knows, in order: `aɪ` for a diphthong, empty for silence."""
    if sound in _SILENT or sound.startswith("("):  # espeak marks a change of language in brackets
        return ""
    plain = "".join(_PAIRS.get(letter, letter) for letter in unicodedata.normalize("NFD", sound))
    return "".join(letter for letter in plain if letter in _SHAPES)


def shapes(sound: str) -> list[Shape]:
    """The shapes that a sound passes through, in equal parts of its time; an affricate ends as its fricative."""
    found = [_SHAPES[letter] for letter in letters(sound)]
    return found or [SILENCE]


def is_bilabial(sound: str) -> bool:
    known = letters(sound)
    return bool(known) and _SHAPES[known[0]].closure > 0


def curves(phones: Sequence[Phone], duration_s: float) -> NDArray[np.float32]:
    """Targets, float32 [frames, 7] in the order of CURVES, 100 a second; frame i is at (i + 0.5) / 100 s."""
    count = max(int(np.ceil(duration_s * RATE_HZ)), 1)
    fine = 4  # steps of 2.5 ms, averaged at the end
    steps = np.zeros((count * fine, len(CURVES)))
    steps[:] = _vector(SILENCE)
    for phone in phones:
        parts = shapes(phone.sound)
        edges = np.linspace(phone.start, phone.end, len(parts) + 1) * RATE_HZ * fine
        for shape, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
            steps[round(start) : round(stop)] = _vector(shape)
    smooth = _smoothed(steps, SMOOTHING_S * RATE_HZ * fine)
    closed = _smoothed(steps[:, [3]], _CLOSURE_S * RATE_HZ * fine)
    smooth[:, [3]] = closed
    smooth[:, [0]] *= 1 - closed
    smooth[:, [4]] = np.maximum(smooth[:, [4]], _smoothed(steps[:, [4]], 0.04 * RATE_HZ * fine))
    smooth[:, [6]] = _smoothed(steps[:, [6]], _CLOSURE_S * RATE_HZ * fine)
    out: NDArray[np.float32] = smooth.reshape(count, fine, -1).mean(axis=1).astype(np.float32)
    return out


def _vector(shape: Shape) -> list[float]:
    return [getattr(shape, name) for name in CURVES]


def _smoothed(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    half = max(round(width), 1)
    window = np.hanning(2 * half + 1)[1:-1]
    window /= window.sum()
    padded = np.pad(values, ((half - 1, half - 1), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)
