"""flite: four English voices of very different making; the program says when each phone ends."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.mouth import texts
from training.mouth.corpus import Utterance, resampled
from training.mouth.phones import Phone

_VOICES = ("slt", "rms", "awb", "kal16")
_IPA = dict(
    pair.split(":")
    for pair in """aa:ɑ ae:æ ah:ʌ ao:ɔ aw:aʊ ax:ə ay:aɪ b:b ch:ʧ d:d dh:ð eh:ɛ er:ɝ ey:eɪ f:f g:ɡ hh:h ih:ɪ iy:i jh:ʤ
k:k l:l m:m n:n ng:ŋ ow:oʊ oy:ɔɪ p:p r:ɹ s:s sh:ʃ t:t th:θ uh:ʊ uw:u v:v w:w y:j z:z zh:ʒ pau:sil""".split()
)


def available() -> bool:
    return shutil.which("flite") is not None


def utterances(seed: int) -> Iterator[Utterance]:
    """Endless sentences, the voices in turn. Raises CalledProcessError."""
    chance = random.Random(seed)
    reading = texts.sentences("en", chance)
    with tempfile.TemporaryDirectory() as folder:
        while True:
            voice = chance.choice(_VOICES)
            pace = f"--setf duration_stretch={chance.uniform(0.8, 1.25):.2f}".split()
            path = Path(folder) / "said.wav"
            command = ["flite", "-voice", voice, *pace, "-psdur", "-t", next(reading), "-o", str(path)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            yield _utterance(path, said, voice)


def _utterance(path: Path, said: str, voice: str) -> Utterance:
    phones, start = [], 0.0
    for entry in said.split():
        name, _, end = entry.partition(":")
        phones.append(Phone(_IPA.get(name, "sil"), start, float(end)))
        start = float(end)
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        rate_hz = file.getframerate()
    return Utterance(resampled(samples, rate_hz), phones, "en", f"flite {voice}")
