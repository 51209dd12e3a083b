"""espeak-ng through its C interface: phones with sample positions, in many languages and voices."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator

import espeakng_loader
import numpy as np

from training.mouth import phones, texts
from training.mouth.corpus import Utterance, resampled
from training.mouth.phones import Phone

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS
_PHONEMES_IN_IPA = 1 | 2  # espeakINITIALIZE_PHONEME_EVENTS | espeakINITIALIZE_PHONEME_IPA
_UTF8, _PHONEME_EVENT, _RATE, _PITCH, _RANGE = 1, 7, 1, 3, 4
_VARIANTS = """f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky
Lee
Marco Mario Michael Mike Nguyen Reed adam anika antonio belinda benjamin boris caleb david ed edward grandma
ian iven john kaukovalta linda max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby
steph travis victor zac""".split()
NAMES = {"zh": "cmn", "en": "en-us"}  # espeak's own


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """One voice at a time; the library is one per process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 200, data, _PHONEMES_IN_IPA)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._callback = _CALLBACK(self._heard)  # kept, or it would be collected
        self._library.espeak_SetSynthCallback(self._callback)

    def _heard(self, wave: ctypes._Pointer, count: int, event: ctypes._Pointer) -> int:
        if wave and count:
            self._parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        number = 0
        while event[number].type:
            if event[number].type == _PHONEME_EVENT:
                self._events.append((event[number].sample, event[number].id.string.decode("utf-8", "ignore")))
            number += 1
        return 0

    def ipa(self, text: str, voice: str) -> str:
        """How a text is said, in IPA with spaces between words."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        encoded, said = ctypes.c_char_p(text.encode()), []
        rest = ctypes.cast(encoded, ctypes.c_void_p)
        while rest.value:
            clause = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, 2)
            said.append((clause or b"").decode())
        return ", ".join(said)

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int) -> Utterance | None:
        """Read a text; None when the voice is not known or says nothing."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            return None
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._parts, self._events = [], []
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
        if not self._parts or not self._events:
            return None
        samples = np.concatenate(self._parts).astype(np.float32) / 32768
        heard = [(position, sound) for position, sound in self._events if not sound or phones.letters(sound)]
        edges = [position / self._rate_hz for position, _ in heard] + [len(samples) / self._rate_hz]
        named = zip(heard, edges[:-1], edges[1:], strict=True)
        timed = [Phone(sound or "sil", start, end) for (_, sound), start, end in named if end > start]
        return Utterance(resampled(samples, self._rate_hz), timed, voice.split("+")[0], f"espeak {voice}")


def utterances(seed: int) -> Iterator[Utterance]:
    """Endless sentences, each in another voice, language, pace and pitch."""
    chance, espeak = random.Random(seed), Espeak()
    streams = {language: texts.sentences(language, chance) for language in texts.LANGUAGES}
    while True:
        (language,) = chance.choices(list(texts.LANGUAGES), list(texts.LANGUAGES.values()))
        voice = f"{NAMES.get(language, language)}+{chance.choice(_VARIANTS)}"
        said = espeak.say(
            next(streams[language]), voice, chance.randint(110, 230), chance.randint(15, 85), chance.randint(20, 80)
        )
        if said and 1 < said.duration_s < 20:
            yield said
