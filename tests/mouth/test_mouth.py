"""The mouth model hears what is said, through noise, music, rooms and telephones, and the same in pieces as at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from sonic_runtime import mouth
from sonic_runtime.mouth import MouthModel
from tests.conftest import MATERIAL
from tests.quality import takes
from training.mouth import evaluate
from training.mouth.corpus import Utterance

MODEL = MouthModel()
CLIPS = evaluate.recordings(MATERIAL / "speech") if MATERIAL.exists() else []


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Six sentences that the model was not trained on, in six languages."""
    return [voice.said for voice in takes.synthesised(tmp_path_factory.mktemp("sentences"))]


def predicted(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    curves = MODEL.curves(samples)
    return np.stack([getattr(curves, name) for name in mouth.NAMES], axis=1)


def test_weights_are_small() -> None:
    assert mouth.WEIGHTS.stat().st_size < 2_000_000


def test_sentences_in_six_languages_are_heard(sentences: list[Utterance]) -> None:
    scores = [evaluate.score(sentence, predicted) for sentence in sentences]
    whole = evaluate.mean(scores)
    assert whole.correlation >= 0.88
    assert min(score.correlation for score in scores) >= 0.75
    assert max(abs(score.lag_ms) for score in scores) <= 20
    assert whole.closures_found >= 0.9
    assert whole.closures_false <= 0.05


@pytest.mark.skipif(not CLIPS, reason="no labelled recordings beside the checkout")
def test_labelled_recordings_are_heard() -> None:
    scores = {name: evaluate.score(clip, predicted) for name, clip in CLIPS}
    whole = evaluate.mean(scores.values())
    assert whole.correlation >= 0.88, scores
    assert min(score.correlation for score in scores.values()) >= 0.75, scores
    assert max(abs(score.lag_ms) for score in scores.values()) <= 20, scores
    assert whole.closures_found >= 0.9, scores
    assert whole.closures_false <= 0.05, scores


@pytest.mark.parametrize("condition", [name for name in evaluate.conditions() if name != "clean"])
def test_what_lies_over_the_voice_changes_little(sentences: list[Utterance], condition: str) -> None:
    change = evaluate.conditions()[condition]
    clean = evaluate.mean(evaluate.score(sentence, predicted) for sentence in sentences)
    heard = evaluate.mean(
        evaluate.score(dataclasses.replace(sentence, samples=change(sentence.samples)), predicted)
        for sentence in sentences
    )
    assert heard.correlation >= clean.correlation - 0.1
    assert abs(heard.lag_ms) <= 20


def test_soft_and_loud_are_the_same(sentences: list[Utterance]) -> None:
    samples = sentences[0].samples * 0.5
    for gain in (0.1, 2.0):
        assert np.abs(predicted(samples) - predicted(samples * np.float32(gain))).max() < 0.02


def test_silence_and_hum_keep_the_mouth_shut() -> None:
    time = np.arange(3 * 16_000) / 16_000
    for sound in (np.zeros(48_000), 1e-4 * np.random.default_rng(0).standard_normal(48_000), 0.2 * np.sin(314 * time)):
        assert MODEL.curves(sound.astype(np.float32)).aperture[50:-50].mean() < 0.1


def test_pieces_are_the_same_as_the_whole(sentences: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.concatenate([sentence.samples for sentence in sentences])
    whole = predicted(samples)
    monkeypatch.setattr(mouth, "_CHUNK_FRAMES", 170)
    assert np.abs(predicted(samples) - whole).max() < 1e-3


@pytest.mark.parametrize("count", [1, 159, 160, 161, 1000])
def test_short_recordings_have_a_value_for_every_hundredth(count: int) -> None:
    curves = MODEL.curves(np.zeros(count, np.float32))
    assert len(curves.aperture) == -(-count // 160)


def test_the_future_is_bounded(sentences: list[Utterance]) -> None:
    """What comes later than LOOK_AHEAD_S changes nothing."""
    samples = sentences[0].samples
    at = len(samples) // 2
    changed = samples.copy()
    changed[at:] = 0.5 * np.random.default_rng(1).standard_normal(len(samples) - at)
    known = int(at / 160 - mouth.LOOK_AHEAD_S * 100) - 2
    assert known > 50
    assert np.abs(predicted(samples)[:known] - predicted(changed)[:known]).max() < 1e-4


def test_a_sound_in_parts_is_heard_as_one(sentences: list[Utterance]) -> None:
    samples = np.concatenate([sentence.samples for sentence in sentences])
    whole = MODEL.curves(samples).aperture
    for size in (333, 16_000, len(samples)):
        parts = (samples[start : start + size] for start in range(0, len(samples), size))
        assert np.abs(MODEL.curves_of(parts).aperture - whole).max() < 1e-4
