"""Portraits and voices to judge by, and their videos.

Everywhere: two portraits that packages ship, and six sentences read by espeak-ng in as many languages. Where more
material lies beside the checkout, its portraits and its labelled recordings too.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sonic.v1 import parameters_pb2
from sonic_runtime.engines.base import Engine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.models import samples
from sonic_runtime.pipeline import Request, Tracker, render
from tests.quality import measure
from training.mouth.corpus import Utterance
from training.mouth.espeak import Espeak
from training.mouth.evaluate import recordings

SENTENCES = {
    "en-us+f2": "Please put my big map back above the blue table, Bob. Maybe we might have a farm.",
    "cmn+m3": "妈妈买了八个苹果和五本书，明天我们不要忘记。",
    "fr+f4": "Bonjour madame, pouvez-vous me parler de vos beaux voyages au Portugal?",
    "es+m1": "Mi vecino compra pan muy bueno por la mañana, y bebe poca agua.",
    "de+m7": "Am Abend bauen wir oft einen Baum aus Papier, aber kaum im Wohnzimmer.",
    "hi+f1": "मेरा भाई बाज़ार में आम और मीठे पान बेचता है।",
}


@dataclass(frozen=True)
class Voice:
    """A recording whose phones are known."""

    name: str
    path: Path
    said: Utterance


def synthesised(folder: Path) -> list[Voice]:
    """The sentences, read; each pause between them as it falls."""
    espeak, voices = Espeak(), []
    for number, (voice, text) in enumerate(SENTENCES.items()):
        said = espeak.say(text, voice, 155, 45 + 4 * number, 50)
        assert said, voice
        path = folder / f"{voice.replace('+', '-')}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.clip(said.samples * 32767, -32768, 32767).astype("<i2").tobytes())
        voices.append(Voice(path.stem, path, said))
    return voices


def labelled(folder: Path) -> list[Voice]:
    """Recordings with a json of phones beside them."""
    return [Voice(name, folder / f"{name}.wav", said) for name, said in recordings(folder)]


def portraits(folder: Path, beside: Path | None) -> dict[str, Path]:
    """Name and file of each."""
    shipped = samples.fetch_samples(folder)
    found = {"hopper": shipped.portrait, "astronaut": shipped.smile}
    if beside:
        found |= {path.stem: path for path in sorted(beside.glob("*.*g"))}
    return found


def judged(
    portrait: Path, voice: Voice, video: Path, engine: Engine, finder: FaceFinder, model: Path, side: int = 512
) -> measure.Figures:
    """Render one video and measure it."""
    request = Request(portrait, voice.path, video, parameters_pb2.RenderParameters(min_resolution=side))
    render(request, engine, finder, Tracker(lambda _progress: None, lambda: False))
    (face, *_) = finder.find(next(measure.frames_of(video)))
    return measure.measured(video, voice.said.phones, voice.said.duration_s, model, face.box)
