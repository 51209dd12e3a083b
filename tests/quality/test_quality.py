"""Rendered videos, looked at again: the mouth says what is heard, when it is heard, and the rest stays as it was."""

from __future__ import annotations

import statistics

import pytest

from sonic_runtime import engines, models
from sonic_runtime.faces import FaceFinder
from tests.conftest import MATERIAL
from tests.quality import landmarks, takes
from tests.quality.measure import BOUNDS, MEDIAN_BOUNDS, Figures


@pytest.fixture(scope="module")
def figures(finder: FaceFinder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figures]:
    """Each voice with one portrait, and each portrait with a few voices; `make quality` judges them all."""
    folder = tmp_path_factory.mktemp("quality")
    beside = MATERIAL if MATERIAL.exists() else None
    faces = takes.portraits(models.root() / "samples", beside / "portraits" if beside else None)
    voices = takes.synthesised(folder) + (takes.labelled(beside / "speech") if beside else [])
    engine, mesh = engines.load("warp"), landmarks.fetched(models.root() / "samples")
    made = {}
    for number, voice in enumerate(voices):
        name, portrait = sorted(faces.items())[number % len(faces)]
        video = folder / f"{name}-{voice.name}.mp4"
        made[video.stem] = takes.judged(portrait, voice, video, engine, finder, mesh)
    return made


@pytest.mark.parametrize("figure", BOUNDS)
def test_every_video_is_good_enough(figures: dict[str, Figures], figure: str) -> None:
    low, high = BOUNDS[figure]
    assert not {name: getattr(one, figure) for name, one in figures.items() if not low <= getattr(one, figure) <= high}


@pytest.mark.parametrize("figure", MEDIAN_BOUNDS)
def test_most_videos_are_better_than_that(figures: dict[str, Figures], figure: str) -> None:
    low, high = MEDIAN_BOUNDS[figure]
    assert low <= statistics.median(getattr(one, figure) for one in figures.values()) <= high
