"""What is heard when nobody speaks: nothing, hum, noise, music. The mouth is to stay shut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from training.mouth import augment
from training.mouth.corpus import RATE_HZ, Utterance


def utterances(seed: int) -> Iterator[Utterance]:
    """Endless stretches of 3 to 8 seconds, the kinds in turn."""
    chance = np.random.default_rng(seed)
    while True:
        for kind in ("nothing", "hum", "noise", "music"):
            count = int(chance.uniform(3, 8) * RATE_HZ)
            level = np.float32(10 ** chance.uniform(-4, -0.5))
            made = {
                "nothing": lambda count: np.zeros(count, np.float32),
                "hum": lambda count: _hum(count, chance),
                "noise": lambda count: augment.noise(count, chance),
                "music": lambda count: augment.music(count, chance),
            }[kind](count)
            yield Utterance(level * made, [], "none", f"quiet {kind}")


def _hum(count: int, chance: np.random.Generator) -> augment.Samples:
    """The mains or a fan: a few steady harmonics."""
    time = np.arange(count) / RATE_HZ
    base_hz = chance.choice([50, 60, chance.uniform(30, 300)])
    parts = [chance.uniform(0, 1) / n * np.sin(2 * np.pi * base_hz * n * time) for n in range(1, 6)]
    return np.asarray(np.sum(parts, axis=0) / 3, np.float32)
