"""The probe clip's digest is one and the same on sound boxes, and another when the picture is wrong."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from sonic_runtime import engines, errors, probe
from sonic_runtime.engines.warp import WarpEngine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import encoders

EXPECTED = probe.expected_blocks(WarpEngine.model_version)
RIGHT = probe.digest_of(EXPECTED, EXPECTED)


def rendered(finder: FaceFinder) -> np.ndarray:
    return probe.rendered_blocks(engines.load("warp"), finder)


def test_this_box_renders_the_expected_clip_with_room_to_spare(finder: FaceFinder) -> None:
    """When this fails after a change of the engine: raise its model version, then scripts/generate_probe_clip.py."""
    found = rendered(finder)
    off = np.abs(found.astype(int) - EXPECTED)
    assert off.max() <= 4
    assert off.mean() < 0.4
    assert probe.digest_of(found, EXPECTED) == RIGHT


@pytest.mark.parametrize("threads", ["1", "4"])
def test_it_does_not_hang_on_threads_or_vector_units(
    finder: FaceFinder, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    params = encoders.X264.options["x264-params"] + (":asm=0" if threads == "1" else "")
    options = {**encoders.X264.options, "threads": threads, "x264-params": params}
    monkeypatch.setattr(encoders, "candidates", lambda: (replace(encoders.X264, options=options),))
    cv2.setUseOptimized(threads != "1")
    try:
        assert probe.digest_of(rendered(finder), EXPECTED) == RIGHT
    finally:
        cv2.setUseOptimized(True)


def test_a_wrong_picture_has_another_digest() -> None:
    torn = EXPECTED.copy()
    torn[5, 8, 8] ^= 64
    late = np.concatenate([EXPECTED[:1], EXPECTED[:-1]])
    still = np.repeat(EXPECTED[:1], len(EXPECTED), axis=0)
    for wrong in (torn, late, still, EXPECTED + 3, np.zeros_like(EXPECTED), EXPECTED[:-1]):
        assert probe.digest_of(wrong, EXPECTED) != RIGHT


def test_where_nobody_knows_how_it_should_look_there_is_none() -> None:
    assert probe.expected_blocks("unheard-of") is None
    assert probe.digest_of(EXPECTED, None) == ""


def test_a_frame_of_one_colour_is_no_picture() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (3, 64, 64)).astype(np.float32)
    probe._check_pictures(noise, 3)
    noise[1] = 16  # what becomes of numbers that are none
    with pytest.raises(errors.OutputBroken, match="one colour"):
        probe._check_pictures(noise, 3)
