"""Sentences to be read: words drawn by how often a language uses them, with commas and full stops.

They mean nothing, which does not matter to a mouth, and no text's licence comes with them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache

LANGUAGES = {"en": 5, "zh": 4, "fr": 3, "es": 3, "de": 2, "it": 2, "pt": 2, "hi": 2, "ar": 2, "ru": 2} | dict.fromkeys(
    ["nl", "pl", "cs", "sv", "tr", "fa", "el", "fi", "hu", "ro", "uk", "ko", "id", "vi", "ca", "da"], 1
)  # how often each is drawn
_VOCABULARY = 20_000
_RARE = 0.35  # of the words, so that rare sounds and clusters are heard


def sentences(language: str, chance: random.Random) -> Iterator[str]:
    """Endless sentences of 3 to 16 words."""
    while True:
        yield _sentence(language, chance)


def _sentence(language: str, chance: random.Random) -> str:
    words, weights = _words(language)
    joint = "" if language == "zh" else " "
    count = chance.randint(3, 16)
    common = iter(chance.choices(words, cum_weights=weights, k=count))
    chosen = [chance.choice(words) if chance.random() < _RARE else next(common) for _ in range(count)]
    for position in range(1, count - 2):
        if chance.random() < 0.12:
            chosen[position] += "，" if language == "zh" else ","
    return joint.join(chosen) + chance.choice(".!?" if language != "zh" else "。！？")


@cache
def _words(language: str) -> tuple[list[str], list[float]]:
    from wordfreq import iter_wordlist  # only here: large, and not needed to read a given sentence

    listed = itertools.islice(iter_wordlist(language), _VOCABULARY)
    words = [word for word in listed if word.replace("'", "").isalpha()]
    weights = itertools.accumulate(1 / (rank + 10) for rank in range(len(words)))
    return words, list(weights)
